// The panel with the live posts of one emoji, newest first.

import { byId, getJson, make } from "./dom.js";
import { Stream } from "./stream.js";

/** @typedef {{text?: string, name?: string, screen_name?: string, created_at?: string}} Post */

const MAX_POSTS = 50;

export class Panel {
  #panel = byId("panel", HTMLElement);
  #title = byId("panel-title", HTMLElement);
  #state = byId("panel-state", HTMLElement);
  #posts = byId("posts", HTMLElement);
  #pause = byId("pause", HTMLButtonElement);
  /** @type {Stream | undefined} */
  #stream;
  /** The cell that opened the panel. @type {HTMLElement | undefined} */
  #opener;
  /** Posts received during a pause or since the last animation frame, newest first. @type {string[]} */
  #queue = [];
  /** The number of posts received during a pause; only the newest ones are kept. */
  #receivedWhilePaused = 0;
  #frame = 0;
  #paused = false;

  constructor() {
    byId("close", HTMLButtonElement).addEventListener("click", () => this.close());
    this.#pause.addEventListener("click", () => this.#setPaused(!this.#paused));
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.#panel.hidden) this.close();
    });
  }

  /**
   * @param {string} id
   * @param {string} char
   * @param {HTMLElement} opener
   */
  open(id, char, opener) {
    this.close();
    this.#opener = opener;
    opener.setAttribute("aria-expanded", "true");
    this.#title.textContent = `Posts with ${char}`;
    this.#posts.replaceChildren();
    this.#queue = [];
    this.#receivedWhilePaused = 0;
    this.#setPaused(false);
    this.#panel.hidden = false;
    this.#title.focus();
    const stream = new Stream(`/subscribe/details/${encodeURIComponent(id)}`, {
      events: { [`stream.tweet_updates.${id}`]: (data) => this.#receive(data) },
      onStateChange: (state) => {
        this.#state.dataset.state = state;
        this.#renderState();
      },
    });
    this.#stream = stream;
    void this.#loadRecent(id, stream);
  }

  close() {
    this.#stream?.close();
    this.#stream = undefined;
    this.#panel.hidden = true;
    this.#opener?.setAttribute("aria-expanded", "false");
    // A search may have hidden the cell.
    (this.#opener?.hidden ? byId("search", HTMLInputElement) : this.#opener)?.focus();
    this.#opener = undefined;
  }

  /**
   * Shows earlier posts below the live ones.
   * @param {string} id
   * @param {Stream} stream
   */
  async #loadRecent(id, stream) {
    // Earlier posts are optional: on an error only live posts are shown.
    const details = await getJson(`/v1/details/${encodeURIComponent(id)}`);
    if (!details || this.#stream !== stream) return;
    const shown = new Set([...this.#posts.children].map((post) => post.textContent));
    const before = details.recent_tweets.map(postElement);
    this.#posts.append(...before.filter((/** @type {HTMLElement} */ post) => !shown.has(post.textContent)));
    this.#trim();
  }

  /** @param {string} data */
  #receive(data) {
    this.#queue.unshift(data);
    this.#queue.length = Math.min(this.#queue.length, MAX_POSTS);
    if (this.#paused) this.#receivedWhilePaused += 1;
    this.#frame ||= requestAnimationFrame(() => this.#render());
  }

  /** Renders the queued posts; on a fast stream only the newest become elements. */
  #render() {
    this.#frame = 0;
    if (!this.#paused) {
      this.#posts.prepend(...this.#queue.map((data) => postElement(parse(data))));
      this.#queue = [];
      this.#trim();
    }
    this.#renderState();
  }

  /** @param {boolean} paused */
  #setPaused(paused) {
    this.#paused = paused;
    this.#pause.setAttribute("aria-pressed", String(paused));
    this.#pause.textContent = paused ? "Resume" : "Pause";
    this.#receivedWhilePaused = 0;
    this.#render();
  }

  #renderState() {
    this.#state.textContent = this.#paused ? `paused, ${this.#receivedWhilePaused} new` : (this.#state.dataset.state ?? "");
  }

  #trim() {
    while (this.#posts.children.length > MAX_POSTS) this.#posts.lastElementChild?.remove();
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
  const author = make("p", "author", [post.name, post.screen_name && `@${post.screen_name}`].filter(Boolean).join(" "));
  const date = new Date(post.created_at ?? "");
  if (!Number.isNaN(date.getTime())) {
    const time = make("time", "", ` · ${date.toLocaleTimeString()}`);
    time.dateTime = date.toISOString();
    time.title = date.toLocaleString();
    author.append(time);
  }
  item.append(author, make("p", "", post.text ?? JSON.stringify(value)));
  return item;
}
