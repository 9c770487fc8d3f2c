// The panel with the live posts of one emoji, the newest first.

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
  /** The cell that was clicked. @type {HTMLElement | undefined} */
  #opener;
  /** Posts that came during a pause, or since the last animation frame, the newest first. @type {string[]} */
  #waiting = [];
  /** How many came during a pause; only the newest of them are kept. */
  #missed = 0;
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
    this.#waiting = [];
    this.#missed = 0;
    this.#setPaused(false);
    this.#panel.hidden = false;
    this.#title.focus();
    const stream = new Stream(`/subscribe/details/${encodeURIComponent(id)}`, {
      events: { [`stream.tweet_updates.${id}`]: (data) => this.#take(data) },
      changed: (state) => {
        this.#state.dataset.state = state;
        this.#tell();
      },
    });
    this.#stream = stream;
    void this.#before(id, stream);
  }

  close() {
    this.#stream?.close();
    this.#stream = undefined;
    this.#panel.hidden = true;
    this.#opener?.setAttribute("aria-expanded", "false");
    // A search may have hidden the cell meanwhile.
    (this.#opener?.hidden ? byId("search", HTMLInputElement) : this.#opener)?.focus();
    this.#opener = undefined;
  }

  /**
   * Shows the posts from before the panel was opened, below those that have come since.
   * @param {string} id
   * @param {Stream} stream
   */
  async #before(id, stream) {
    // Without them there are still the live posts, which are what matters.
    const details = await getJson(`/v1/details/${encodeURIComponent(id)}`);
    if (!details || this.#stream !== stream) return;
    const shown = new Set([...this.#posts.children].map((post) => post.textContent));
    const before = details.recent_tweets.map(element);
    this.#posts.append(...before.filter((/** @type {HTMLElement} */ post) => !shown.has(post.textContent)));
    this.#trim();
  }

  /** @param {string} data */
  #take(data) {
    this.#waiting.unshift(data);
    this.#waiting.length = Math.min(this.#waiting.length, MAX_POSTS);
    if (this.#paused) this.#missed += 1;
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  /** Shows what came since the last frame: of a fast stream only the newest posts become elements. */
  #show() {
    this.#frame = 0;
    if (!this.#paused) {
      this.#posts.prepend(...this.#waiting.map((data) => element(parse(data))));
      this.#waiting = [];
      this.#trim();
    }
    this.#tell();
  }

  /** @param {boolean} paused */
  #setPaused(paused) {
    this.#paused = paused;
    this.#pause.setAttribute("aria-pressed", String(paused));
    this.#pause.textContent = paused ? "Go on" : "Pause";
    this.#missed = 0;
    this.#show();
  }

  #tell() {
    this.#state.textContent = this.#paused ? `paused, ${this.#missed} new` : (this.#state.dataset.state ?? "");
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
 * A post as an element. All of it is put in as text, whatever it looks like.
 * @param {unknown} value
 */
function element(value) {
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
