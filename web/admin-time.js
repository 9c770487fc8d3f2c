// The time of the server, which shows the age of its values on browsers whose clocks differ.

/** The difference between the clock of the server and that of the browser, in seconds. */
let offset = 0;

/** Sets the time of the server now. @param {number} seconds Since the Unix epoch. */
export function setServerTime(seconds) {
  offset = seconds - Date.now() / 1000;
}

/** The time of the server now, in seconds since the Unix epoch. */
export function serverTime() {
  return Date.now() / 1000 + offset;
}

const time = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat("en", { day: "numeric", month: "short" });

/** A time of day, with the date unless it is today. @param {number} seconds Since the Unix epoch. */
export function clock(seconds) {
  const date = new Date(seconds * 1000);
  const text = time.format(date);
  return date.toDateString() === new Date().toDateString() ? text : `${day.format(date)}, ${text}`;
}
