// A connection to a channel of /api/v1/channels that reconnects with back-off, misses nothing meanwhile, and reports its state.

import { get } from "./dom.js";

/**
 * @typedef {object} Message
 * @property {string} id
 * @property {string} channelId
 * @property {string} clientId
 * @property {string} payload
 * @property {string} createdAt
 */

/** @typedef {"connecting" | "live" | "reconnecting" | "closed"} State */

/**
 * @typedef {object} Handlers
 * @property {(message: Message) => void} onMessage Called once for each message.
 * @property {(state: State, reason: string) => void} onState Called for each change of state. The reason is that of
 *   reconnecting.
 * @property {(status: number, reason: string) => void} onRefused Called when the connection cannot be had, or has been ended. It is
 *   closed then, and does not come back.
 */

const MIN_BACKOFF_MS = 500;
const MAX_BACKOFF_MS = 30_000;
/** Replies of a server or a proxy that is about to be back. */
const TEMPORARY = [408, 429, 500, 502, 503, 504];
/** How far this clock may be behind what the server remembers. */
const MARGIN_S = 5;
/** Messages that are known, so that none is shown twice. */
const MAX_KNOWN = 1000;
/** Close code for a client that is not wanted (RFC 6455, §7.4.1). */
const POLICY = 1008;

/** A random id of a client, also for pages that are not served over TLS, which have no `crypto.randomUUID`. */
export function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The channel that the page shows: `?channel=`, or the default. @param {string} byDefault */
export function channelOf(byDefault) {
  return new URLSearchParams(location.search).get("channel") || byDefault;
}

/** The message of a text. Another program may have added anything. @param {string} text @returns {Message} */
function messageOf(text) {
  try {
    const message = JSON.parse(text);
    if (typeof message?.id === "string") return message;
  } catch {
    // Wrapped below, as other values are.
  }
  return { id: randomId(), channelId: "", clientId: "", payload: text, createdAt: new Date().toISOString() };
}

/** What a client is told about a refusal. @param {number} status @param {string} reason @param {string} channel */
export function explanation(status, reason, channel) {
  switch (status) {
    case 401:
    case 403:
      return `You may not use this channel: ${reason}.`;
    case 404:
      return `There is no channel “${channel}”.`;
    case 409:
      return "This name is taken. Choose another one.";
    case 422:
      return "The channel is full. Try again later.";
    default:
      return `Not connected: ${reason}.`;
  }
}

export class ChannelConnection {
  /** @type {WebSocket | EventSource | undefined} */
  #socket;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** The last attempt, until it has a socket: it is over once this is aborted. @type {AbortController | undefined} */
  #attempt;
  #failures = 0;
  #closed = false;
  /** When the server was last heard, in milliseconds, or 0. */
  #receivedAt = 0;
  #position = "";
  /** @type {Set<string>} */
  #known = new Set();
  #path;
  #kind;
  #clientId;
  #handlers;

  /**
   * @param {string} channel
   * @param {"WS" | "SSE"} kind
   * @param {() => string} clientId Called for each attempt.
   * @param {Handlers} handlers
   */
  constructor(channel, kind, clientId, handlers) {
    this.#path = `/api/v1/channels/${encodeURIComponent(channel)}`;
    this.#kind = kind;
    this.#clientId = clientId;
    this.#handlers = handlers;
    handlers.onState("connecting", "");
    void this.#connect();
    addEventListener("online", this.#reconnectNow);
  }

  /** Sends a text. Returns whether there is a connection. @param {string} text */
  send(text) {
    if (!(this.#socket instanceof WebSocket) || this.#socket.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(text);
    return true;
  }

  close() {
    this.#closed = true;
    removeEventListener("online", this.#reconnectNow);
    clearTimeout(this.#timer);
    this.#attempt?.abort();
    this.#socket?.close();
    this.#socket = undefined;
    this.#handlers.onState("closed", "");
  }

  async #connect() {
    // Two attempts would open two sockets, the first of which no one would close. An old one may wait for a network that is gone.
    this.#attempt?.abort();
    const { signal } = (this.#attempt = new AbortController());
    const clientId = this.#clientId();
    const query = new URLSearchParams({ clientId });
    // A WebSocket does not say why it is refused, so a question comes first.
    const answer = await get(`${this.#path}?${query}&upgrade=0`, signal);
    if (signal.aborted) return;
    const reason = answer ? ((await answer.json().catch(() => ({}))).message ?? `status ${answer.status}`) : "";
    if (signal.aborted) return;
    if (!answer || TEMPORARY.includes(answer.status)) return this.#retry(reason || "the server does not answer");
    // The server may not know yet that the connection before is lost.
    if (this.#receivedAt && [409, 422].includes(answer.status)) return this.#retry("waiting for a place");
    if (!answer.ok) return this.#refuse(answer.status, reason);
    this.#open(query);
  }

  /** @param {URLSearchParams} query */
  #open(query) {
    if (this.#kind === "SSE") {
      if (this.#position) query.set("lastEventId", this.#position);
      else query.set("last", "20");
    } else if (this.#receivedAt) {
      // The clock may have been set back.
      query.set("since", `${Math.max(0, Math.ceil((Date.now() - this.#receivedAt) / 1000)) + MARGIN_S}s`);
    }
    query.set("upgrade", "1");
    const url = `${location.protocol}//${location.host}${this.#path}?${query}`;
    const socket = this.#kind === "SSE" ? new EventSource(url) : new WebSocket(url.replace(/^http/, "ws"));
    this.#socket = socket;
    socket.onopen = () => {
      this.#receivedAt = Date.now();
      this.#handlers.onState("live", "");
    };
    socket.onmessage = (/** @type {MessageEvent<string>} */ event) => this.#receive(event);
    if (socket instanceof EventSource) {
      socket.onerror = () => this.#lost(socket, "connection lost");
    } else {
      socket.onclose = ({ code, reason }) => {
        if (code === POLICY && this.#socket === socket) this.#refuse(code, reason || "the connection was ended");
        else this.#lost(socket, reason || "connection lost");
      };
    }
  }

  /** @param {MessageEvent<string>} event */
  #receive({ data, lastEventId }) {
    this.#failures = 0;
    this.#receivedAt = Date.now();
    this.#position = lastEventId || this.#position;
    const message = messageOf(data);
    if (this.#known.has(message.id)) return;
    this.#known.add(message.id);
    for (const oldest of this.#known) {
      if (this.#known.size <= MAX_KNOWN) break;
      this.#known.delete(oldest);
    }
    this.#handlers.onMessage(message);
  }

  /** @param {number} status @param {string} reason */
  #refuse(status, reason) {
    this.close();
    this.#handlers.onRefused(status, reason);
  }

  /** @param {WebSocket | EventSource} socket @param {string} reason */
  #lost(socket, reason) {
    if (this.#closed || this.#socket !== socket) return;
    this.#retry(reason);
  }

  /** @param {string} reason */
  #retry(reason) {
    this.#socket?.close();
    this.#socket = undefined;
    const backoff = Math.min(MAX_BACKOFF_MS, MIN_BACKOFF_MS * 2 ** this.#failures);
    const delay = backoff * (0.5 + Math.random() / 2);
    this.#failures += 1;
    this.#handlers.onState("reconnecting", reason);
    this.#timer = setTimeout(() => void this.#connect(), delay);
  }

  /** Reconnects immediately, for example when the network is available again. */
  #reconnectNow = () => {
    if (this.#closed || this.#socket) return;
    clearTimeout(this.#timer);
    void this.#connect();
  };
}

/** The text for a state. @param {State} state @param {string} reason */
function stateText(state, reason) {
  if (state === "live") return "connected";
  return state === "reconnecting" ? `reconnecting: ${reason}` : state;
}

/** Shows states in an element, and in the attribute by which it has its colour. @param {HTMLElement} element */
export function stateIn(element) {
  return (/** @type {State} */ state, /** @type {string} */ reason) => {
    document.documentElement.dataset.connection = state;
    element.hidden = state === "closed";
    element.textContent = stateText(state, reason);
  };
}

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** A time of today as hours and minutes, another one with its day. @param {string} text */
export function timeElement(text) {
  const element = document.createElement("time");
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return element;
  element.dateTime = date.toISOString();
  element.title = date.toLocaleString();
  element.textContent = (date.toDateString() === new Date().toDateString() ? TIME : DAY).format(date);
  return element;
}

/** Counts in the title what came while the page was hidden. */
export function unreadInTitle() {
  const title = document.title;
  let unread = 0;
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    unread = 0;
    document.title = title;
  });
  return () => {
    if (!document.hidden) return;
    unread += 1;
    document.title = `(${unread}) ${title}`;
  };
}
