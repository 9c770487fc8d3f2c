// A stream of server-sent events that reconnects with backoff and reports its state.

import { get } from "./dom.js";

/** @typedef {"connecting" | "live" | "reconnecting"} State */

/**
 * @typedef {object} Handlers
 * @property {Record<string, (data: string) => void>} events Event handlers by event name.
 * @property {() => void} [onOpen] Called for each established connection.
 * @property {(state: State, retryAt: number) => void} [onStateChange] Called for each change of state. When
 *   reconnecting, `retryAt` is the time of the next attempt in milliseconds, as in `Date.now()`.
 * @property {(status: number, reason: string) => void} [onRefused] Called when the server refuses a connection.
 */

const MIN_BACKOFF_MS = 500;
const MAX_BACKOFF_MS = 30_000;

export class Stream {
  /** @type {EventSource | undefined} */
  #source;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #failures = 0;
  #url;
  #handlers;

  /**
   * @param {string} url
   * @param {Handlers} handlers
   */
  constructor(url, handlers) {
    this.#url = url;
    this.#handlers = handlers;
    handlers.onStateChange?.("connecting", 0);
    this.#connect();
    addEventListener("online", this.#reconnectNow);
  }

  close() {
    removeEventListener("online", this.#reconnectNow);
    clearTimeout(this.#timer);
    this.#source?.close();
  }

  #connect() {
    const source = new EventSource(this.#url);
    this.#source = source;
    let opened = false;
    source.onopen = () => {
      opened = true;
      this.#handlers.onOpen?.();
      this.#handlers.onStateChange?.("live", 0);
    };
    // EventSource itself gives up after a response such as 503, and reconnects without jitter otherwise.
    source.onerror = () => {
      this.#retry();
      if (!opened && this.#handlers.onRefused) void this.#reportRefusal();
    };
    for (const [name, handle] of Object.entries(this.#handlers.events)) {
      source.addEventListener(name, (event) => {
        this.#failures = 0;
        handle(event.data);
      });
    }
  }

  #retry() {
    this.#source?.close();
    const backoff = Math.min(MAX_BACKOFF_MS, MIN_BACKOFF_MS * 2 ** this.#failures);
    const delay = backoff * (0.5 + Math.random() / 2);
    this.#failures += 1;
    this.#handlers.onStateChange?.("reconnecting", Date.now() + delay);
    this.#timer = setTimeout(() => this.#connect(), delay);
  }

  /** `EventSource` hides why a stream was refused, so a separate request determines it. */
  async #reportRefusal() {
    const controller = new AbortController();
    const response = await get(this.#url, controller.signal);
    const isText = response?.headers.get("content-type")?.startsWith("text/plain");
    const reason = isText ? (await response?.text())?.trim() : undefined;
    // An attempt that was made meanwhile may have succeeded.
    if (response && !response.ok && this.#source?.readyState !== EventSource.OPEN) {
      this.#handlers.onRefused?.(response.status, reason ?? `status ${response.status}`);
    }
    // Ends a stream that was not refused this time.
    controller.abort();
  }

  /** Reconnects immediately, for example when the network is available again. */
  #reconnectNow = () => {
    if (this.#source?.readyState === EventSource.CLOSED) {
      clearTimeout(this.#timer);
      this.#connect();
    }
  };
}
