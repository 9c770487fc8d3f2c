// Requests to the admin routes, once or repeatedly.

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

/** Calls `refresh` at the start and then every `milliseconds` while the page is visible, until it is stopped. */
export class Refresh {
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer;
  #refresh;
  #milliseconds;

  /** @param {() => void} refresh @param {number} milliseconds */
  constructor(refresh, milliseconds) {
    this.#refresh = refresh;
    this.#milliseconds = milliseconds;
  }

  start() {
    this.stop();
    this.#refresh();
    this.#timer = setInterval(() => {
      if (!document.hidden) this.#refresh();
    }, this.#milliseconds);
  }

  stop() {
    clearInterval(this.#timer);
  }
}
