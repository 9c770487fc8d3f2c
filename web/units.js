// Numbers, times and rates, and the words for them: the same on every page.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "short" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** Rates are averages over this time. */
export const RATE_SECONDS = 5;

/** The words for rates: their units and what they count. */
export const RATES = {
  received: { unit: "events/s", title: `Events received from the sources per second, over the last ${RATE_SECONDS} s` },
  sent: { unit: "messages/s", title: `Messages sent to all readers per second, over the last ${RATE_SECONDS} s` },
  counted: {
    unit: "counts/s",
    title: `Growth of all totals per second, over the last ${RATE_SECONDS} s. One message may carry many counts.`,
  },
};

/** The rate of a growing count. */
export class Rate {
  /** @type {{at: number, total: number}[]} */
  #samples = [];

  /**
   * Adds the count at a time in seconds. Returns its growth per second over the last {@link RATE_SECONDS}, or over the time
   * since the first sample if that is shorter. Returns `undefined` for the first sample.
   * @param {number} at
   * @param {number} total
   * @returns {number | undefined}
   */
  add(at, total) {
    const last = this.#samples.at(-1);
    // The process has restarted, or the clock was set back.
    if (last && (total < last.total || at <= last.at)) this.clear();
    this.#samples.push({ at, total });
    // Samples come a little early or late.
    while (this.#samples.length > 2 && at - /** @type {{at: number}} */ (this.#samples[0]).at > RATE_SECONDS + 0.5) this.#samples.shift();
    const first = this.#samples[0];
    return first && first.at < at ? (total - first.total) / (at - first.at) : undefined;
  }

  /** Forgets all samples, as after a gap. */
  clear() {
    this.#samples = [];
  }
}

/** @param {number} value */
export function count(value) {
  return whole.format(value);
}

/** A rate with one decimal if it is small. @param {number} value */
export function perSecond(value) {
  return value > 0 && value < 10 ? value.toFixed(1) : whole.format(value);
}

/** @param {number} value */
export function bytes(value) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`;
}

/** A duration in its two largest units. @param {number} seconds */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [days, hours, minutes] = [Math.floor(whole / 86_400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  if (minutes) return `${minutes} min ${whole % 60} s`;
  return `${whole} s`;
}

/** How long ago a date was, such as "3 min. ago"; future dates are "now". @param {Date} date @param {number} [now] */
export function ago(date, now = Date.now()) {
  const seconds = Math.floor((now - date.getTime()) / 1000);
  if (seconds < 1) return "now";
  if (seconds < 60) return relative.format(-seconds, "second");
  if (seconds < 3600) return relative.format(-Math.floor(seconds / 60), "minute");
  if (seconds < 86_400) return relative.format(-Math.floor(seconds / 3600), "hour");
  return relative.format(-Math.floor(seconds / 86_400), "day");
}

/** A time of today, or a date and a time, in the reader's time zone. @param {Date} date @param {Date} [now] */
export function time(date, now = new Date()) {
  return (date.toDateString() === now.toDateString() ? clock : calendar).format(date);
}
