// Requests to the admin routes, and what the page knows of their answers.

/**
 * An answer: JSON, or the reason why there is none. The status is 0 if the server did not answer.
 * @typedef {{ok: true, data: any} | {ok: false, status: number, reason: string}} Answer
 */

const LIMIT_MS = 10_000;

/**
 * Reads JSON, or with a body sends it.
 * @param {string} path
 * @param {unknown} [body]
 * @returns {Promise<Answer>}
 */
export async function request(path, body) {
  /** @type {RequestInit} */
  const options = { signal: AbortSignal.timeout(LIMIT_MS), cache: "no-store" };
  if (body !== undefined) {
    Object.assign(options, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  }
  try {
    // An absolute URL, because `fetch` rejects relative ones on pages whose address includes credentials.
    const response = await fetch(location.origin + path, options);
    if (response.ok) return { ok: true, data: await response.json() };
    if (response.status === 401) reportUnauthorized();
    const line = (await response.text()).trim().split("\n")[0] ?? "";
    return { ok: false, status: response.status, reason: line === "" ? `status ${response.status}` : line };
  } catch {
    return { ok: false, status: 0, reason: "the server does not answer" };
  }
}

/** Makes the page show that the admin token is missing or has changed. */
export function reportUnauthorized() {
  document.dispatchEvent(new Event("unauthorized"));
}

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
