// A list of messages that follows its end while the reader is there.

import { timeElement } from "./channel.js";
import { byId, make } from "./dom.js";

/** @typedef {import("./channel.js").Message} Message */

/** Messages that stay on the page. */
const MAX_SHOWN = 500;
/** How near the end of the list counts as its end, in pixels. */
const NEAR_END = 60;

/** The elements `messages`, `empty` and `newest` of the page. */
export class MessageList {
  #list = byId("messages", HTMLElement);
  #empty = byId("empty", HTMLElement);
  #newest = byId("newest", HTMLButtonElement);

  constructor() {
    this.#newest.addEventListener("click", () => this.toEnd());
    this.#list.addEventListener("scroll", () => {
      if (this.#isAtEnd()) this.#newest.hidden = true;
    });
  }

  #isAtEnd() {
    return this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < NEAR_END;
  }

  toEnd() {
    this.#list.scrollTop = this.#list.scrollHeight;
    this.#newest.hidden = true;
  }

  clear() {
    this.#list.replaceChildren();
    this.#empty.hidden = false;
  }

  /** Adds a message at the end. Returns its element. @param {Message} message @param {boolean} own */
  add({ clientId, payload, createdAt }, own) {
    const follow = own || this.#isAtEnd();
    const isServer = clientId === "server-message";
    const item = make("div", own ? "message own" : isServer ? "message server" : "message");
    const head = make("p", "head");
    head.append(make("b", "", own ? "You" : isServer ? "Server" : clientId || "unknown"), timeElement(createdAt));
    item.append(head, make("p", "text", payload));
    this.#list.append(item);
    while (this.#list.childElementCount > MAX_SHOWN) this.#list.firstElementChild?.remove();
    this.#empty.hidden = true;
    if (follow) this.toEnd();
    else this.#newest.hidden = false;
    return item;
  }
}
