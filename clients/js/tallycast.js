// Reads topics of a tallycast server, over server-sent events or WebSocket: resumes, reports gaps, and keeps exact totals.

/**
 * A message. Without envelopes, `data` is always a string, and over server-sent events there is no namespace.
 * @typedef {object} Message
 * @property {string} [namespace] Where it was published, such as `/orders/eu`.
 * @property {string | null} event Its name, or null.
 * @property {any} data The payload: JSON where it is JSON, and otherwise a string.
 * @property {string} [id] Its position, where the route keeps history. Store it with the result to resume in another process.
 */

/**
 * Messages that this subscription has not received, or a part of its buffer that was not read.
 * @typedef {object} Gap
 * @property {"disconnected" | "trimmed" | "unknown" | "lagged" | "skipped" | "overflow" | (string & {})} reason `disconnected`: the
 *   connection was lost or paused, or topics changed, and the route keeps no history. `trimmed`, `unknown` and `lagged`: see resets of
 *   the API. `skipped`: the server left messages out, because this reader fell behind. `overflow`: the iterator fell behind.
 * @property {number} [skipped] How many messages are missing, where that is known.
 * @property {string} [earliest] After a reset, the id of the oldest message that is kept.
 */

/**
 * The totals of a namespace.
 * @typedef {object} Totals
 * @property {Map<string, number>} values The total of each key.
 * @property {boolean} known Whether the totals are exact and current.
 * @property {string} [reason] Why they are not.
 * @property {string} [namespace] The namespace, once there was a snapshot.
 */

/**
 * @typedef {object} Status
 * @property {"connecting" | "live" | "waiting" | "paused" | "closed"} state `waiting`: for the next attempt to connect. `paused`: while
 *   offline or hidden, or without topics. `closed`: for good.
 * @property {string} [reason] Why it is waiting, paused or closed.
 * @property {number} [retryAt] When waiting, the time of the next attempt in milliseconds, as in `Date.now()`.
 */

/**
 * All are optional. An error that a handler throws is reported as uncaught, and does not end the subscription.
 * @typedef {object} Handlers
 * @property {(message: Message) => void} [message] Called for each message, in order.
 * @property {(gap: Gap) => void} [gap] Called where messages are missing, between those before and after.
 * @property {(totals: Totals, changes: Record<string, number> | null) => void} [totals] With the option `snapshot`, called after each change
 *   of the totals: with what was added, which is nothing if only `known` changed, or null if a snapshot replaced all values.
 * @property {(status: Status) => void} [state] Called for each change of state.
 * @property {(refusal: Refusal) => void} [refused] Called when the server refuses a connection or, over WebSocket, a change of topics.
 */

/**
 * @typedef {object} Options
 * @property {string | URL} [url] The path of any stream of the API, `/subscribe` by default, for both transports. Relative to the page; other
 *   programs need a whole URL.
 * @property {"sse" | "websocket"} [transport] Server-sent events by default.
 * @property {string | (() => string | Promise<string>)} [token] A token, or a function that is called for each connection.
 * @property {boolean} [snapshot] Start with the totals of the one namespace, or the last values of all topics.
 * @property {boolean} [envelope] Receive namespaces, and payloads as JSON; true by default.
 * @property {string} [lastEventId] Resume after this id, or from `earliest`.
 * @property {Record<string, string>} [params] Further parameters of the URL, such as `{"max-rate": "4/s"}`.
 * @property {number} [pauseHidden] Disconnect while the page is hidden, after this many milliseconds. Without it, stay connected.
 * @property {number} [watchdog] Milliseconds without data, not even a keep-alive, after which a connection counts as lost. 45,000 by default;
 *   choose at least twice the `--keep-alive` of the server.
 * @property {number} [minDelay] Bound of the first pause before another attempt, in milliseconds; 1,000 by default. It doubles each time.
 * @property {number} [maxDelay] Bound of the longest pause, in milliseconds; 30,000 by default.
 * @property {number} [buffer] Messages that wait for the iterator; 1,000 by default. The oldest ones are dropped, with a gap.
 * @property {AbortSignal} [signal] Closes the subscription.
 * @property {"omit" | "same-origin" | "include"} [credentials] Of requests: `include` sends cookies to other origins as well.
 * @property {typeof globalThis.fetch} [fetch] Another implementation.
 * @property {new (url: string, protocols: string[]) => any} [WebSocket] Another implementation, for runtimes without one.
 */

/** @typedef {Message & {gap?: undefined} | {gap: Gap}} Item What the iterator returns. */

const WATCHDOG_MS = 45_000;
const MIN_DELAY_MS = 1000;
const MAX_DELAY_MS = 30_000;
/** The longest pause that a server can demand. */
const MAX_RETRY_MS = 3_600_000;
/** Failures are forgotten once a connection has lasted so long: one that opens and ends at once is a failure as well. */
const STABLE_MS = 5000;
/** Messages, and characters of their data, that wait for the iterator. */
const BUFFER = 1000;
const BUFFER_CHARACTERS = 1 << 24;
/** Characters of an event, which is larger than any that a server sends by default. */
const MAX_EVENT_CHARACTERS = 1 << 25;
/** Permanent refusals: by status, of those from 400 to 499 all but 408, 409, 421, 425, 426 and 429, or by WebSocket close code. */
const PERMANENT = /^(204|4(?!0[89]|2[1569])..|100[2379])$/;
/** The reason for aborting what the subscription waits for, without a failure. */
const WAKE = {};

/** A refusal of the server. It ends the subscription if it is permanent. */
export class Refusal extends Error {
  /**
   * @param {number} status The status of the response, the code that closed the WebSocket, or 0 if a change of topics was refused.
   * @param {string} reason One line of text.
   * @param {boolean} permanent Whether another attempt is useless, so that there is none.
   * @param {number} retryAfter How long the server wants to be left alone, in milliseconds.
   */
  constructor(status, reason, permanent = false, retryAfter = 0) {
    super(reason);
    this.status = status;
    this.reason = reason;
    this.permanent = permanent;
    this.retryAfter = retryAfter;
  }
}

/**
 * A random pause in milliseconds ("full jitter"): clients that have lost the same server do not come back at once.
 * @param {number} failures How many attempts have failed in a row, before the last one.
 */
export function backoff(failures, min = MIN_DELAY_MS, max = MAX_DELAY_MS) {
  return Math.random() * Math.min(max, min * 2 ** failures);
}

/**
 * A block of an event stream that has an id or data. An id without data is a position alone.
 * @typedef {{id: string | undefined, event: string, data: string | undefined}} Block
 */

/**
 * A parser of event streams, as in the HTML standard. The returned function takes the bytes, in pieces of any size.
 * @param {(block: Block) => void} onBlock
 * @param {(milliseconds: number) => void} [onRetry]
 * @returns {(bytes: Uint8Array) => void}
 */
export function createParser(onBlock, onRetry) {
  // Keeps incomplete characters, and removes a byte order mark.
  const decoder = new TextDecoder();
  let rest = "";
  let afterCr = false;
  /** @type {string | undefined} */
  let id;
  /** @type {string | undefined} */
  let data;
  let event = "";

  /** @param {string} line */
  const parse = (line) => {
    if (!line) {
      if (id !== undefined || data !== undefined) onBlock({ id, event, data });
      id = data = undefined;
      event = "";
      return;
    }
    const [, field, value = ""] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
    if (field === "data") data = data === undefined ? value : `${data}\n${value}`;
    else if (field === "event") event = value;
    else if (field === "id" && !value.includes("\0")) id = value;
    else if (field === "retry" && /^\d+$/.test(value)) onRetry?.(+value);
  };

  return (bytes) => {
    let text = decoder.decode(bytes, { stream: true });
    if (!text) return;
    // The line ended with the CR already.
    if (afterCr && text[0] === "\n") text = text.slice(1);
    afterCr = text.endsWith("\r");
    const lines = text.split(/\r\n|[\r\n]/);
    lines[0] = rest + lines[0];
    rest = lines.pop() ?? "";
    lines.forEach(parse);
    if (rest.length + (data ?? "").length > MAX_EVENT_CHARACTERS) throw new RangeError("an event is too large");
  };
}

/**
 * The reason for which the signal is aborted, once it is.
 * @param {AbortSignal} signal
 * @returns {Promise<any>}
 */
function aborted(signal) {
  return new Promise((resolve) => {
    const end = () => resolve(signal.reason);
    if (signal.aborted) end();
    signal.addEventListener("abort", end);
  });
}

/** @param {string | Iterable<string>} topics */
function setOf(topics) {
  return new Set(typeof topics === "string" ? [topics] : topics);
}

/** What is in the first but not in the second. @param {Iterable<string>} topics @param {Set<string>} others */
function without(topics, others) {
  return [...topics].filter((topic) => !others.has(topic));
}

/** A running subscription: see `subscribe`. */
export class Subscription {
  /**
   * The totals, with the option `snapshot`. The same object and map for as long as the subscription lasts.
   * @type {Totals}
   */
  totals = { values: new Map(), known: false, reason: "not connected" };

  /** Aborted at the end. */
  #life = new AbortController();
  /** Aborted to end the present connection, pause or wait. */
  #phase = new AbortController();
  /** @type {Status} */
  #status = { state: "connecting" };
  /** @type {Refusal | undefined} */
  #refusal;
  #position;
  /** Since the topics last changed: true once there was an id, and false once there was a message without one. @type {boolean | undefined} */
  #isResumable = true;
  #topicsChanged = true;
  #offline = false;
  #hidden = false;
  #failures = 0;
  /** The pause that the server asks for, in milliseconds. */
  #retry = 0;
  #receivedAt = 0;
  /** When the connection was opened, or NaN. */
  #openedAt = NaN;
  /** Why the authorization has ended, if it has. */
  #expired = "";
  /** Whether this connection has had a snapshot of the totals. */
  #hasTotals = false;

  /** The open WebSocket. @type {any} */
  #socket;
  /** Topics that the server has confirmed, and those after the commands that it has not answered. @type {Set<string>} */
  #confirmed = new Set();
  /** @type {Set<string>} */
  #requested = new Set();
  /** What these commands add and remove. @type {string[][][]} */
  #commands = [];
  /** While last values may come, the namespaces whose next message is none. @type {Set<string> | undefined} */
  #replayed;

  /** What waits for the iterator, with its size. @type {[Item, number][] | undefined} */
  #queue;
  #queueSize = 0;
  #overflow = 0;
  #notify = () => {};

  #url;
  /** @type {Set<string> | null} */
  #topics;
  #handlers;
  #options;
  #Socket;

  /**
   * @param {string | Iterable<string> | null} topics
   * @param {Handlers} handlers
   * @param {Options} options
   */
  constructor(topics, handlers, options) {
    const page = globalThis.location?.href;
    this.#url = new URL(options.url ?? "/subscribe", page);
    // The address of a page may have them, and requests must not.
    this.#url.username = this.#url.password = "";
    this.#topics = topics === null ? null : setOf(topics);
    this.#handlers = handlers;
    this.#options = options;
    this.#position = options.lastEventId ?? "";
    if (options.transport === "websocket") {
      this.#Socket = options.WebSocket ?? globalThis.WebSocket;
      if (!this.#Socket) throw new TypeError("no WebSocket; expected the option WebSocket");
    }
    void this.#run();
  }

  /** The state. Each change makes a new object. */
  get status() {
    return this.#status;
  }

  /** The topics, of which some may not be confirmed yet. */
  get topics() {
    return [...(this.#topics ?? [])];
  }

  /** The id of the last message that was handled, or the empty string. */
  get lastEventId() {
    return this.#position;
  }

  /** Reads these topics from now on. @param {string | Iterable<string>} topics */
  setTopics(topics) {
    const before = new Set(this.#topics);
    this.#topics = setOf(topics);
    if (before.size === this.#topics.size && !without(before, this.#topics).length) return;
    this.#topicsChanged = true;
    const { state } = this.#status;
    // Once for all changes of a turn. Without a connection, the next one has the new topics.
    if (this.#Socket && state !== "paused") queueMicrotask(() => this.#sendTopics());
    else if (state !== "waiting") this.#phase.abort(WAKE);
  }

  /** Reads more topics. @param {string | Iterable<string>} topics */
  add(topics) {
    this.setTopics([...this.topics, ...setOf(topics)]);
  }

  /** Reads fewer topics. @param {string | Iterable<string>} topics */
  remove(topics) {
    this.setTopics(without(this.topics, setOf(topics)));
  }

  /** Ends the subscription. No handler is called after that, but `state` with `closed`. */
  close() {
    this.#end("closed by the client");
  }

  /**
   * The messages and gaps from here on, in order. The end of the loop closes the subscription; a permanent refusal is thrown.
   * @returns {AsyncGenerator<Item, void, void>}
   */
  [Symbol.asyncIterator]() {
    this.#queue ??= [];
    return this.#iterate(this.#queue);
  }

  /** @param {[Item, number][]} queue */
  async *#iterate(queue) {
    try {
      for (;;) {
        if (this.#overflow) {
          const skipped = this.#overflow;
          this.#overflow = 0;
          yield { gap: { reason: "overflow", skipped } };
        }
        const first = queue.shift();
        if (first) {
          this.#queueSize -= first[1];
          yield first[0];
        } else if (this.#refusal) {
          throw this.#refusal;
        } else if (this.#status.state === "closed") {
          return;
        } else {
          await new Promise((/** @type {any} */ resolve) => (this.#notify = resolve));
        }
      }
    } finally {
      this.close();
    }
  }

  /** @param {Item} item @param {number} size */
  #enqueue(item, size) {
    const queue = this.#queue;
    if (!queue) return;
    queue.push([item, size]);
    this.#queueSize += size;
    const { buffer = BUFFER } = this.#options;
    while (queue.length > buffer || (this.#queueSize > BUFFER_CHARACTERS && queue[1])) {
      this.#queueSize -= queue.shift()?.[1] ?? 0;
      this.#overflow += 1;
    }
    this.#notify();
  }

  /**
   * @template {keyof Handlers} K
   * @param {K} name
   * @param {Parameters<NonNullable<Handlers[K]>>} values
   */
  #call(name, ...values) {
    if (this.#life.signal.aborted) return;
    try {
      /** @type {any} */ (this.#handlers)[name]?.(...values);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }

  /** @param {Gap} gap */
  #gap(gap) {
    this.#call("gap", gap);
    this.#enqueue({ gap }, 0);
  }

  /** @param {Status} status */
  #set(status) {
    if (this.#status.state === "closed") return;
    this.#status = status;
    this.#call("state", status);
  }

  /** @param {string} reason @param {Refusal} [refusal] */
  #end(reason, refusal) {
    if (this.#status.state === "closed") return;
    this.#refusal = refusal;
    this.#set({ state: "closed", reason });
    this.#life.abort();
    this.#phase.abort(WAKE);
    this.#notify();
  }

  /** Pauses while offline, and while the page is hidden. */
  #watchPage() {
    const { signal: userSignal, pauseHidden } = this.#options;
    const { signal } = this.#life;
    userSignal?.addEventListener("abort", () => this.close(), { signal });
    if (userSignal?.aborted) this.close();
    // Not `navigator.onLine`, which may be false where the server can be reached.
    for (const type of ["online", "offline"]) {
      globalThis.addEventListener?.(
        type,
        () => {
          this.#offline = type === "offline";
          if (this.#offline || this.#status.state !== "live") this.#phase.abort(WAKE);
        },
        { signal },
      );
    }
    const page = globalThis.document;
    if (!page || pauseHidden === undefined) return;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const look = () => {
      clearTimeout(timer);
      const set = (/** @type {boolean} */ hidden) => {
        if (this.#hidden !== hidden) this.#phase.abort(WAKE);
        this.#hidden = hidden;
      };
      timer = setTimeout(set, page.hidden ? pauseHidden : 0, page.hidden);
    };
    page.addEventListener("visibilitychange", look, { signal });
    look();
  }

  async #run() {
    // Handlers are called only after `subscribe` has returned.
    await null;
    this.#watchPage();
    while (!this.#life.signal.aborted) {
      const phase = (this.#phase = new AbortController());
      const pause = this.#offline ? "offline" : this.#hidden ? "hidden" : this.#topics?.size === 0 ? "no topics" : "";
      if (pause) {
        this.#set({ state: "paused", reason: pause });
        await aborted(phase.signal);
        continue;
      }
      const error = await this.#connect(phase);
      if (error === WAKE) continue;
      const delay = this.#fail(error);
      if (!delay || this.#life.signal.aborted) continue;
      const { signal } = (this.#phase = new AbortController());
      this.#set({ state: "waiting", reason: error.message, retryAt: Date.now() + delay });
      /** @type {ReturnType<typeof setTimeout> | undefined} */
      let timer;
      await Promise.race([aborted(signal), new Promise((resolve) => (timer = setTimeout(resolve, delay)))]);
      clearTimeout(timer);
    }
  }

  /**
   * Makes a connection, and returns why it has ended.
   * @param {AbortController} phase
   * @returns {Promise<any>}
   */
  async #connect(phase) {
    const { signal } = phase;
    const { watchdog = WATCHDOG_MS } = this.#options;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const watch = () => {
      const left = this.#receivedAt + watchdog - Date.now();
      if (left > 0) timer = setTimeout(watch, left);
      else phase.abort(new Error(`no data for ${watchdog / 1000} s`));
    };
    this.#receivedAt = Date.now();
    this.#openedAt = NaN;
    this.#expired = "";
    this.#hasTotals = false;
    this.#set({ state: "connecting" });
    if (watchdog) watch();
    const read = this.#Socket ? this.#readSocket(signal) : this.#readStream(signal);
    // The function of a token may reject with anything.
    const error = await Promise.race([aborted(signal), read]).catch((reason) =>
      reason instanceof Error ? reason : new Error(String(reason)),
    );
    clearTimeout(timer);
    // Ends everything that belongs to it.
    phase.abort(WAKE);
    this.#socket = undefined;
    if (this.totals.known) this.#setTotals(false, "disconnected");
    return error;
  }

  /**
   * Reports a failure, and returns the pause before the next attempt, in milliseconds.
   * @param {any} error
   */
  #fail(error) {
    const { token, minDelay, maxDelay } = this.#options;
    if (Date.now() - this.#openedAt > STABLE_MS) this.#failures = 0;
    if (error instanceof Refusal) {
      this.#call("refused", error);
      if (error.permanent) {
        this.#end(error.reason, error);
        return 0;
      }
    }
    const failures = this.#failures++;
    // A new token helps at once, but only the first time.
    if (typeof token === "function" && !failures && (this.#expired || error.status === 401)) return 0;
    return backoff(failures, minDelay, maxDelay) + Math.min(MAX_RETRY_MS, Math.max(this.#retry, error.retryAfter ?? 0));
  }

  /** @returns {Promise<string | undefined>} */
  async #token() {
    const { token } = this.#options;
    return typeof token === "function" ? token() : token;
  }

  /** The URL of the next connection. @param {string[]} topics */
  #address(topics) {
    const { snapshot, envelope = true, params = {} } = this.#options;
    const { namespace = topics[0] ?? "" } = this.totals;
    const url = new URL(this.#url);
    const query = url.searchParams;
    for (const topic of topics) query.append("topic", topic);
    query.set("notices", "1");
    if (envelope) query.set("envelope", "1");
    // Over WebSocket, the namespace of the totals may have been removed. The other topics have none.
    if (snapshot && !(this.#Socket && topics[0] && !topics.includes(namespace))) query.set("snapshot", "1");
    for (const [name, value] of Object.entries(params)) {
      // Where to start for the first time.
      if (!this.#position || !/^(last|since)$/.test(name)) query.set(name, value);
    }
    return url;
  }

  /** Requests the stream. @param {AbortSignal} signal @param {string | undefined} token */
  async #request(signal, token, topics = this.topics) {
    const { fetch = globalThis.fetch, credentials, token: given } = this.#options;
    /** @type {Record<string, string>} */
    const headers = { accept: "text/event-stream" };
    if (token) headers.authorization = `Bearer ${token}`;
    // Ids can be too long for a URL.
    if (this.#position) headers["last-event-id"] = this.#position;
    const response = await fetch(this.#address(topics), { headers, signal, credentials, cache: "no-store" });
    const { status } = response;
    const type = response.headers.get("content-type") ?? "";
    if (status === 200 && type.startsWith("text/event-stream")) return response;
    const text = type.startsWith("text/plain") ? (await response.text()).trim() : "";
    const after = response.headers.get("retry-after") ?? "";
    throw new Refusal(
      status,
      text || `status ${status}, ${type || "no content"}`,
      PERMANENT.test(`${status}`) && !(status === 401 && typeof given === "function"),
      Number(after) * 1000 || Date.parse(after) - Date.now() || 0,
    );
  }

  /** Reads server-sent events until they end. @param {AbortSignal} signal */
  async #readStream(signal) {
    const reader = (await this.#request(signal, await this.#token())).body?.getReader();
    this.#opened();
    const feed = createParser(
      (block) => signal.aborted || this.#receiveBlock(block),
      (milliseconds) => (this.#retry = milliseconds),
    );
    for (;;) {
      const chunk = await reader?.read();
      if (!chunk || chunk.done) throw new Error(this.#expired || "the stream has ended");
      this.#receivedAt = Date.now();
      feed(chunk.value);
    }
  }

  /** Reads a WebSocket until it ends. @param {AbortSignal} signal */
  async #readSocket(signal) {
    const token = await this.#token();
    const { namespace = "" } = this.totals;
    // A snapshot is for one namespace. The other topics follow.
    const topics = this.#topics?.has(namespace) ? [namespace] : this.topics;
    const url = this.#address(topics);
    url.protocol = url.protocol.replace("http", "ws");
    if (this.#position) url.searchParams.set("lastEventID", this.#position);
    if (signal.aborted) return;
    /** @type {any} */
    const socket = new /** @type {any} */ (this.#Socket)(url.href, token ? ["json", `bearer.${token}`] : ["json"]);
    signal.addEventListener("abort", () => socket.close());
    const { code, reason } = await new Promise((resolve, reject) => {
      socket.onopen = () => {
        this.#socket = socket;
        this.#confirmed = this.#requested = new Set(topics);
        this.#commands = [];
        this.#replayed = undefined;
        this.#opened();
        this.#sendTopics(this.#position || undefined);
      };
      socket.onmessage = (/** @type {{data: string}} */ { data }) => {
        if (signal.aborted) return;
        this.#receivedAt = Date.now();
        try {
          this.#receive(JSON.parse(data), data.length);
        } catch (error) {
          reject(error);
        }
      };
      // `close` follows, and has more to say.
      socket.onerror = () => {};
      socket.onclose = resolve;
    });
    // A WebSocket does not show why it was refused. A request for the same stream does.
    if (!this.#openedAt) await this.#request(signal, token, topics);
    if (code === 1008 && /expired/.test(reason)) this.#expired = reason;
    const text = reason || `the WebSocket was closed (${code})`;
    throw PERMANENT.test(code) ? new Refusal(code, text, true) : new Error(text);
  }

  #opened() {
    this.#openedAt = Date.now();
    if (!this.#isResumable) this.#gap({ reason: "disconnected" });
    if (this.#topicsChanged) this.#isResumable = undefined;
    this.#topicsChanged = false;
    this.#set({ state: "live" });
  }

  /** Sends what has changed of the topics. @param {string} [after] Where those that are added start. */
  #sendTopics(after) {
    const topics = new Set(this.#topics);
    const subscribe = without(topics, this.#requested);
    const unsubscribe = without(this.#requested, topics);
    if (!this.#socket || !(subscribe.length + unsubscribe.length)) return;
    this.#requested = topics;
    this.#commands.push([subscribe, unsubscribe]);
    const snapshot = subscribe[0] && this.#options.snapshot;
    this.#socket.send(JSON.stringify({ subscribe, unsubscribe, after, snapshot }));
  }

  /** Takes the answer to the oldest command. @param {string | undefined} error */
  #answered(error) {
    const [added = [], removed = []] = this.#commands.shift() ?? [];
    const confirmed = this.#confirmed;
    if (error) {
      for (const topics of [this.#requested, this.#topics]) {
        for (const topic of added) confirmed.has(topic) || topics?.delete(topic);
        for (const topic of removed) confirmed.has(topic) && topics?.add(topic);
      }
      this.#call("refused", new Refusal(0, error));
      return;
    }
    this.#confirmed = new Set(without([...confirmed, ...added], new Set(removed)));
    // The topics that are left may have no history.
    if (removed[0]) this.#isResumable &&= undefined;
    const { namespace = "" } = this.totals;
    if (added[0] && this.#options.snapshot && !namespace) this.#replayed = confirmed;
    if (removed.includes(namespace)) this.#setTotals(false, "not subscribed");
    // A snapshot comes only with a new connection.
    if (added.includes(namespace)) this.#phase.abort(WAKE);
  }

  /** @param {Block} block */
  #receiveBlock({ id, event, data }) {
    const { envelope = true } = this.#options;
    /** @type {any} */
    let value = { event: event || null, data };
    if (data === undefined) value = {};
    else if (envelope) value = JSON.parse(data);
    else if (/^(heartbeat|expired|reset|skipped)$/.test(event)) {
      try {
        const notice = JSON.parse(data);
        const { time, reason, skipped } = notice;
        if (time ?? reason ?? skipped) value = { [event]: skipped ?? notice };
      } catch {
        // A message of the application that has such a name.
      }
    }
    if (id !== undefined) value.id = id;
    this.#receive(value, data?.length ?? 0);
  }

  /** @param {any} value An object of an envelope or a WebSocket. @param {number} size */
  #receive(value, size) {
    const { id, namespace, event, data, reset, skipped, error } = value;
    const isMessage = "data" in value;
    // May throw, and a message that is not handled must come again.
    const isForTotals = isMessage && this.#receiveTotals(value);
    if (id != null) this.#isResumable ??= true;
    else if (isMessage) this.#isResumable = false;
    // Last values of added topics are older than the position. There is one of each namespace.
    if (namespace && this.#replayed?.has(namespace) === false) this.#replayed.add(namespace);
    else if (id) {
      this.#replayed = undefined;
      this.#position = id;
    }
    if (reset) this.#gap(reset);
    else if (skipped) this.#gap({ reason: "skipped", skipped });
    else if (value.expired) this.#expired = value.expired.reason;
    else if (error || value.subscribed) this.#answered(error);
    else if (isMessage && !isForTotals) {
      const message = { namespace, event, data, id };
      this.#call("message", message);
      this.#enqueue(message, size);
    }
  }

  /**
   * Keeps the totals. Returns whether the message was only for them.
   * @param {any} message
   */
  #receiveTotals({ id, namespace, event, data }) {
    const { totals } = this;
    if (!this.#options.snapshot || (this.#hasTotals && namespace !== totals.namespace)) return false;
    // Messages that are kept may have these names.
    if (event ? !/^(snapshot|totals)$/.test(id == null && event) : !this.#hasTotals) return false;
    const value = typeof data === "string" ? JSON.parse(data) : data;
    if (event === "totals") {
      this.#setTotals(value.known, value.reason);
    } else {
      const { values } = totals;
      if (event) {
        this.#hasTotals = true;
        totals.namespace = namespace;
        values.clear();
      }
      for (const [key, change] of Object.entries(value)) values.set(key, (values.get(key) ?? 0) + change);
      if (event) this.#setTotals(true, undefined, null);
      else this.#call("totals", totals, value);
    }
    return event;
  }

  /** @param {boolean} known @param {string} [reason] @param {Record<string, number> | null} [changes] */
  #setTotals(known, reason, changes = {}) {
    this.totals.known = known;
    this.totals.reason = reason;
    this.#call("totals", this.totals, changes);
  }
}

/**
 * Reads topics until it is closed: connects at once and again after each loss, with the last id where the server keeps history.
 * @param {string | Iterable<string> | null} topics Namespaces or patterns, such as `/orders/*`. Null if the option `url` says it all.
 * @param {Handlers | ((message: Message) => void)} [handlers] A function is called for each message.
 * @param {Options} [options]
 */
export function subscribe(topics, handlers = {}, options = {}) {
  return new Subscription(topics, typeof handlers === "function" ? { message: handlers } : handlers, options);
}
