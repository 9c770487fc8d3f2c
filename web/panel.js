// The panel with the live posts of one symbol, newest first. The fragment of the address says which: `/#1F602`.

import { back } from "./board-glyphs.js";
import { characterOf, nameOf } from "./board-symbols.js";
import { byId, CONNECTION, get, make } from "./dom.js";
import { subscribe } from "./tallycast.js";
import { ago, count, time } from "./units.js";

/** @typedef {{text?: string, name?: string, screen_name?: string, created_at?: string}} Post */

const MAX_POSTS = 50;
/** New posts are shown at this interval, so that they can be read, */
const SHOW_INTERVAL_MS = 1000;
/** and of more than this the newest. */
const MAX_SHOWN_AT_ONCE = 3;

export class Panel {
  #panel = byId("panel", HTMLElement);
  #title = byId("panel-title", HTMLElement);
  #state = byId("panel-state", HTMLElement);
  #posts = byId("posts", HTMLElement);
  #pause = byId("pause", HTMLButtonElement);
  #onChange;
  /** The symbol that is shown. @type {string | undefined} */
  id;
  /** @type {import("./tallycast.js").Subscription | undefined} */
  #stream;
  /** The newest posts that are not shown yet, newest first. @type {string[]} */
  #queue = [];
  /** The number of posts since the last ones were shown; only the newest of them are kept. */
  #received = 0;
  /** What was left out when posts were last shown, in words. */
  #selection = "";
  #paused = false;
  #connection = "connecting";
  /** Whether Back leads to the page without the panel. */
  #isPushed = false;
  /** Whether Back has been called and has not led there yet. */
  #isClosing = false;

  /** @param {(opened: string | undefined, closed: string | undefined) => void} onChange Called after each opening and closing. */
  constructor(onChange) {
    this.#onChange = onChange;
    byId("close", HTMLButtonElement).addEventListener("click", () => this.close());
    this.#pause.addEventListener("click", () => this.#setPaused(!this.#paused));
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.id !== undefined) this.close();
    });
    addEventListener("popstate", () => {
      this.#isClosing = false;
      this.#isPushed = Boolean(history.state?.isPanel);
      this.#follow();
    });
    setInterval(() => this.#render(), SHOW_INTERVAL_MS);
  }

  /** Opens the panel that the address names. */
  start() {
    this.#isPushed = Boolean(history.state?.isPanel);
    this.#follow();
  }

  /** Opens the panel of a symbol, and names it in the address. @param {string} id */
  open(id) {
    const address = `#${encodeURIComponent(id)}`;
    // Back closes the panel, whatever symbols it has shown.
    if (this.id === undefined) {
      history.pushState({ isPanel: true }, "", address);
      this.#isPushed = true;
    } else {
      history.replaceState(history.state, "", address);
    }
    this.#follow();
  }

  close() {
    // A second call of Back would leave the board.
    if (this.#isClosing) return;
    if (this.#isPushed) {
      this.#isClosing = true;
      history.back();
      return;
    }
    history.replaceState(null, "", location.pathname + location.search);
    this.#follow();
  }

  /** Shows what the address names. */
  #follow() {
    const id = decode(location.hash.slice(1));
    if (id === this.id) return;
    const closed = this.id;
    this.#stream?.close();
    this.#stream = undefined;
    this.id = id;
    this.#panel.hidden = id === undefined;
    if (id !== undefined) this.#show(id);
    this.#onChange(id, closed);
  }

  /** @param {string} id */
  #show(id) {
    this.#posts.replaceChildren();
    this.#posts.hidden = false;
    this.#pause.hidden = false;
    this.#queue = [];
    this.#received = 0;
    this.#selection = "";
    this.#connection = "connecting";
    this.#setPaused(false);
    this.renderName();
    this.renderTotal("");
    this.#title.focus();
    const stream = subscribe(
      null,
      {
        message: ({ event, data }) => {
          if (event === `stream.tweet_updates.${id}`) this.#receive(data);
        },
        state: ({ state }) => {
          if (this.#stream === stream) this.#setConnection(CONNECTION[state]);
        },
      },
      { url: `/subscribe/details/${encodeURIComponent(id)}`, envelope: false },
    );
    this.#stream = stream;
    void this.#loadRecent(id, stream);
  }

  /** Shows the character and the name of the symbol, as far as they are known. */
  renderName() {
    if (this.id === undefined) return;
    const [character, name] = [characterOf(this.id), nameOf(this.id)];
    const element = byId("panel-char", HTMLElement);
    element.textContent = character === this.id ? "" : character;
    back(element);
    this.#title.textContent = `Posts with ${name === this.id ? character : name}`;
    document.title = `${character} – tallycast`;
  }

  /** Shows what is known of the symbol's total. @param {string} text */
  renderTotal(text) {
    byId("panel-total", HTMLElement).textContent = text;
  }

  /**
   * Shows earlier posts below the live ones.
   * @param {string} id
   * @param {import("./tallycast.js").Subscription} stream
   */
  async #loadRecent(id, stream) {
    // Earlier posts are optional: on an error only live posts are shown.
    const response = await get(`/v1/details/${encodeURIComponent(id)}`);
    const details = response?.ok ? await response.json().catch(() => undefined) : undefined;
    if (this.#stream !== stream) return;
    if (response?.status === 404) this.#setConnection("unknown");
    if (!details) return;
    const shown = new Set([...this.#posts.children].map((post) => post.textContent));
    const before = details.recent_tweets.map(postElement);
    this.#posts.append(...before.filter((/** @type {HTMLElement} */ post) => !shown.has(post.textContent)));
    this.#trim();
    this.#renderAges();
  }

  /**
   * Shows the state of the stream. `unknown` stays until a post arrives: the symbol is neither an emoji nor counted yet.
   * @param {string} connection
   */
  #setConnection(connection) {
    if (this.#connection === "unknown" && connection !== "connecting") return;
    this.#connection = connection;
    this.#renderState();
  }

  /** @param {string} data */
  #receive(data) {
    this.#connection = "live";
    this.#queue.unshift(data);
    this.#queue.length = Math.min(this.#queue.length, MAX_POSTS);
    this.#received += 1;
  }

  /** Shows new posts, and how old all are. */
  #render() {
    if (this.id === undefined) return;
    if (!this.#paused) {
      const shown = this.#queue.slice(0, MAX_SHOWN_AT_ONCE);
      this.#posts.prepend(...shown.map((data) => postElement(parse(data))));
      const isPart = this.#received > shown.length;
      this.#selection = isPart ? `, ${shown.length} of ${count(this.#received)} new posts shown` : "";
      this.#queue = [];
      this.#received = 0;
      this.#trim();
    }
    this.#renderAges();
    this.#renderState();
  }

  /** @param {boolean} paused */
  #setPaused(paused) {
    this.#paused = paused;
    this.#pause.textContent = paused ? "Resume" : "Pause";
    this.#render();
  }

  #renderState() {
    const isUnknown = this.#connection === "unknown";
    this.#posts.hidden = isUnknown;
    this.#pause.hidden = isUnknown;
    this.#state.dataset.state = this.#paused && !isUnknown ? "paused" : this.#connection;
    const text = isUnknown
      ? `No symbol has the ID ${this.id}. IDs are code points, such as 1F602, or names that are counted here.`
      : this.#paused
        ? "paused"
        : this.#connection;
    // A status that is set is read out, even if it is the same. Numbers are not read out.
    if (this.#state.textContent !== text) this.#state.textContent = text;
    byId("selection", HTMLElement).textContent = this.#paused ? `, ${count(this.#received)} new` : this.#selection;
  }

  /** Shows how old the posts are. */
  #renderAges() {
    if (document.hidden) return;
    const now = new Date();
    for (const element of this.#posts.querySelectorAll("time")) {
      const date = new Date(element.dateTime);
      const text = `${ago(date, now.getTime())} · ${time(date, now)}`;
      if (element.textContent !== text) element.textContent = text;
    }
  }

  #trim() {
    while (this.#posts.children.length > MAX_POSTS) this.#posts.lastElementChild?.remove();
  }
}

/** The ID in a fragment; `undefined` if it is empty. @param {string} fragment */
function decode(fragment) {
  try {
    return decodeURIComponent(fragment) || undefined;
  } catch {
    return fragment;
  }
}

/**
 * @param {string} data
 * @returns {unknown}
 */
function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    return data;
  }
}

/**
 * Creates the element of a post. All content is inserted as text, never as markup.
 * @param {unknown} value
 */
function postElement(value) {
  const item = make("li", "post");
  if (typeof value !== "object" || value === null) {
    item.append(make("p", "", String(value)));
    return item;
  }
  const post = /** @type {Post} */ (value);
  const author = make("p", "author");
  if (post.name) author.append(make("b", "", String(post.name)), " ");
  if (post.screen_name) author.append(`@${post.screen_name}`);
  item.append(author, make("p", "", post.text ?? JSON.stringify(value)));
  const date = new Date(post.created_at ?? "");
  if (!Number.isNaN(date.getTime())) {
    const element = make("time");
    element.dateTime = date.toISOString();
    element.title = date.toLocaleString();
    item.append(element);
  }
  return item;
}
