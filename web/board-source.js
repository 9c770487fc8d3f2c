// Whether the source of the board is available. The stream stays open while it is not, so the page requests the state when the stream is silent.

import { get } from "./dom.js";

/** Silence after which the page requests the state, and the interval of further requests. */
const QUIET_MS = 1000;
const TICK_MS = 250;
/** An answer that takes longer makes the state unknown, */
const SLOW_MS = 600;
/** and one that takes longer than this is none: the source hangs. */
const LIMIT_MS = 3000;

/** Without Redis, the server knows whether its sources are subscribed. */
const PATH = document.documentElement.dataset.store === "none" ? "/readyz" : "/v1/status";

export class SourceMonitor {
  /** When the last event arrived, as in `Date.now()`; 0 before the first. */
  lastEventAt = 0;
  #answeredAt = 0;
  #isRequesting = false;
  #onChange;

  /** @param {() => void} onChange Called for each change of the state, which is `data-source` of the page. */
  constructor(onChange) {
    this.#onChange = onChange;
    setInterval(() => void this.#check(), TICK_MS);
  }

  /** Takes an event as proof of a source. */
  received() {
    this.lastEventAt = Date.now();
    this.#set("available");
  }

  /** Forgets the state: the connection was lost. */
  reset() {
    this.#answeredAt = 0;
    this.#set("unknown");
  }

  async #check() {
    const { connection } = document.documentElement.dataset;
    const silence = Date.now() - Math.max(this.lastEventAt, this.#answeredAt);
    if (connection !== "live" || document.hidden || this.#isRequesting || silence < QUIET_MS) return;
    this.#isRequesting = true;
    const requestedAt = Date.now();
    const slow = setTimeout(() => {
      if (document.documentElement.dataset.source === "available") this.#answer(requestedAt, "unknown");
    }, SLOW_MS);
    const response = await get(PATH, AbortSignal.timeout(LIMIT_MS));
    clearTimeout(slow);
    this.#isRequesting = false;
    const hangs = Date.now() - requestedAt >= LIMIT_MS;
    if (response || hangs) this.#answer(requestedAt, response?.ok ? "available" : "unavailable");
    else this.#answer(requestedAt, "unknown");
    this.#answeredAt = Date.now();
  }

  /** Takes an answer, unless an event has arrived since the request. @param {number} requestedAt @param {string} state */
  #answer(requestedAt, state) {
    if (document.documentElement.dataset.connection === "live" && this.lastEventAt < requestedAt) this.#set(state);
  }

  /** @param {string} state */
  #set(state) {
    const { dataset } = document.documentElement;
    if (dataset.source === state) return;
    dataset.source = state;
    this.#onChange();
  }
}
