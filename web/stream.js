// A stream of server-sent events that comes back by itself, and tells how it is.

/** @typedef {"connecting" | "live" | "reconnecting"} State */

/**
 * @typedef {object} Handlers
 * @property {Record<string, (data: string) => void>} events What to do with an event, by its name.
 * @property {() => void} [opened] A connection stands, the first or another.
 * @property {(state: State, retryAt: number) => void} [changed] The state is another one; when reconnecting, the time
 *   of the next try, in milliseconds as of `Date.now()`.
 */

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 30_000;

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
    handlers.changed?.("connecting", 0);
    this.#connect();
    addEventListener("online", this.#now);
  }

  close() {
    removeEventListener("online", this.#now);
    clearTimeout(this.#timer);
    this.#source?.close();
  }

  #connect() {
    const source = new EventSource(this.#url);
    this.#source = source;
    source.onopen = () => {
      this.#handlers.opened?.();
      this.#handlers.changed?.("live", 0);
    };
    // The browser would try again by itself, but never after an answer such as 503, and all clients at the same moment.
    source.onerror = () => this.#retry();
    for (const [name, handle] of Object.entries(this.#handlers.events)) {
      source.addEventListener(name, (event) => {
        this.#failures = 0;
        handle(event.data);
      });
    }
  }

  #retry() {
    this.#source?.close();
    const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.#failures);
    const pause = longest * (0.5 + Math.random() / 2);
    this.#failures += 1;
    this.#handlers.changed?.("reconnecting", Date.now() + pause);
    this.#timer = setTimeout(() => this.#connect(), pause);
  }

  /** The network is back: there is nothing to wait for. */
  #now = () => {
    if (this.#source?.readyState === EventSource.CLOSED) {
      clearTimeout(this.#timer);
      this.#connect();
    }
  };
}
