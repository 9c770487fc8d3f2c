/**
 * A random pause in milliseconds ("full jitter"): clients that have lost the same server do not come back at once.
 * @param {number} failures How many attempts have failed in a row, before the last one.
 */
export function backoff(failures: number, min?: number, max?: number): number;
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
export function createParser(onBlock: (block: Block) => void, onRetry?: (milliseconds: number) => void): (bytes: Uint8Array) => void;
/**
 * Reads topics until it is closed: connects at once and again after each loss, with the last id where the server keeps history.
 * @param {string | Iterable<string> | null} topics Namespaces or patterns, such as `/orders/*`. Null if the option `url` says it all.
 * @param {Handlers | ((message: Message) => void)} [handlers] A function is called for each message.
 * @param {Options} [options]
 */
export function subscribe(topics: string | Iterable<string> | null, handlers?: Handlers | ((message: Message) => void), options?: Options): Subscription;
/** A refusal of the server. It ends the subscription if it is permanent. */
export class Refusal extends Error {
    /**
     * @param {number} status The status of the response, the code that closed the WebSocket, or 0 if a change of topics was refused.
     * @param {string} reason One line of text.
     * @param {boolean} permanent Whether another attempt is useless, so that there is none.
     * @param {number} retryAfter How long the server wants to be left alone, in milliseconds.
     */
    constructor(status: number, reason: string, permanent?: boolean, retryAfter?: number);
    status: number;
    reason: string;
    permanent: boolean;
    retryAfter: number;
}
/** A running subscription: see `subscribe`. */
export class Subscription {
    /**
     * @param {string | Iterable<string> | null} topics
     * @param {Handlers} handlers
     * @param {Options} options
     */
    constructor(topics: string | Iterable<string> | null, handlers: Handlers, options: Options);
    /**
     * The totals, with the option `snapshot`. The same object and map for as long as the subscription lasts.
     * @type {Totals}
     */
    totals: Totals;
    /** The state. Each change makes a new object. */
    get status(): Status;
    /** The topics, of which some may not be confirmed yet. */
    get topics(): string[];
    /** The id of the last message that was handled, or the empty string. */
    get lastEventId(): string;
    /** Reads these topics from now on. @param {string | Iterable<string>} topics */
    setTopics(topics: string | Iterable<string>): void;
    /** Reads more topics. @param {string | Iterable<string>} topics */
    add(topics: string | Iterable<string>): void;
    /** Reads fewer topics. @param {string | Iterable<string>} topics */
    remove(topics: string | Iterable<string>): void;
    /** Ends the subscription. No handler is called after that, but `state` with `closed`. */
    close(): void;
    /**
     * The messages and gaps from here on, in order. The end of the loop closes the subscription; a permanent refusal is thrown.
     * @returns {AsyncGenerator<Item, void, void>}
     */
    [Symbol.asyncIterator](): AsyncGenerator<Item, void, void>;
    #private;
}
/**
 * A block of an event stream that has an id or data. An id without data is a position alone.
 */
export type Block = {
    id: string | undefined;
    event: string;
    data: string | undefined;
};
/**
 * A message. Without envelopes, `data` is always a string, and over server-sent events there is no namespace.
 */
export type Message = {
    /**
     * Where it was published, such as `/orders/eu`.
     */
    namespace?: string | undefined;
    /**
     * Its name, or null.
     */
    event: string | null;
    /**
     * The payload: JSON where it is JSON, and otherwise a string.
     */
    data: any;
    /**
     * Its position, where the route keeps history. Store it with the result to resume in another process.
     */
    id?: string | undefined;
};
/**
 * Messages that this subscription has not received, or a part of its buffer that was not read.
 */
export type Gap = {
    /**
     * `disconnected`: the
     * connection was lost or paused, or topics changed, and the route keeps no history. `trimmed`, `unknown` and `lagged`: see resets of
     * the API. `skipped`: the server left messages out, because this reader fell behind. `overflow`: the iterator fell behind.
     */
    reason: "disconnected" | "trimmed" | "unknown" | "lagged" | "skipped" | "overflow" | (string & {});
    /**
     * How many messages are missing, where that is known.
     */
    skipped?: number | undefined;
    /**
     * After a reset, the id of the oldest message that is kept.
     */
    earliest?: string | undefined;
};
/**
 * The totals of a namespace.
 */
export type Totals = {
    /**
     * The total of each key.
     */
    values: Map<string, number>;
    /**
     * Whether the totals are exact and current.
     */
    known: boolean;
    /**
     * Why they are not.
     */
    reason?: string | undefined;
    /**
     * The namespace, once there was a snapshot.
     */
    namespace?: string | undefined;
};
export type Status = {
    /**
     * `waiting`: for the next attempt to connect. `paused`: while
     * offline or hidden, or without topics. `closed`: for good.
     */
    state: "connecting" | "live" | "waiting" | "paused" | "closed";
    /**
     * Why it is waiting, paused or closed.
     */
    reason?: string | undefined;
    /**
     * When waiting, the time of the next attempt in milliseconds, as in `Date.now()`.
     */
    retryAt?: number | undefined;
};
/**
 * All are optional. An error that a handler throws is reported as uncaught, and does not end the subscription.
 */
export type Handlers = {
    /**
     * Called for each message, in order.
     */
    message?: ((message: Message) => void) | undefined;
    /**
     * Called where messages are missing, between those before and after.
     */
    gap?: ((gap: Gap) => void) | undefined;
    /**
     * With the option `snapshot`, called after each change
     * of the totals: with what was added, which is nothing if only `known` changed, or null if a snapshot replaced all values.
     */
    totals?: ((totals: Totals, changes: Record<string, number> | null) => void) | undefined;
    /**
     * Called for each change of state.
     */
    state?: ((status: Status) => void) | undefined;
    /**
     * Called when the server refuses a connection or, over WebSocket, a change of topics.
     */
    refused?: ((refusal: Refusal) => void) | undefined;
};
export type Options = {
    /**
     * The path of any stream of the API, `/subscribe` by default, for both transports. Relative to the page; other
     * programs need a whole URL.
     */
    url?: string | URL | undefined;
    /**
     * Server-sent events by default.
     */
    transport?: "sse" | "websocket" | undefined;
    /**
     * A token, or a function that is called for each connection.
     */
    token?: string | (() => string | Promise<string>) | undefined;
    /**
     * Start with the totals of the one namespace, or the last values of all topics.
     */
    snapshot?: boolean | undefined;
    /**
     * Receive namespaces, and payloads as JSON; true by default.
     */
    envelope?: boolean | undefined;
    /**
     * Resume after this id, or from `earliest`.
     */
    lastEventId?: string | undefined;
    /**
     * Further parameters of the URL, such as `{"max-rate": "4/s"}`.
     */
    params?: Record<string, string> | undefined;
    /**
     * Disconnect while the page is hidden, after this many milliseconds. Without it, stay connected.
     */
    pauseHidden?: number | undefined;
    /**
     * Milliseconds without data, not even a keep-alive, after which a connection counts as lost. 45,000 by default;
     * choose at least twice the `--keep-alive` of the server.
     */
    watchdog?: number | undefined;
    /**
     * Bound of the first pause before another attempt, in milliseconds; 1,000 by default. It doubles each time.
     */
    minDelay?: number | undefined;
    /**
     * Bound of the longest pause, in milliseconds; 30,000 by default.
     */
    maxDelay?: number | undefined;
    /**
     * Messages that wait for the iterator; 1,000 by default. The oldest ones are dropped, with a gap.
     */
    buffer?: number | undefined;
    /**
     * Closes the subscription.
     */
    signal?: AbortSignal | undefined;
    /**
     * Of requests: `include` sends cookies to other origins as well.
     */
    credentials?: "include" | "omit" | "same-origin" | undefined;
    /**
     * Another implementation.
     */
    fetch?: typeof fetch | undefined;
    /**
     * Another implementation, for runtimes without one.
     */
    WebSocket?: (new (url: string, protocols: string[]) => any) | undefined;
};
/**
 * What the iterator returns.
 */
export type Item = (Message & {
    gap?: undefined;
}) | {
    gap: Gap;
};
