// The live messages of a namespace, in a list that can be paused.

import { reportUnauthorized } from "./admin-api.js";
import { setText } from "./admin-table.js";
import { clock } from "./admin-time.js";
import { byId, CONNECTION, make } from "./dom.js";
import { subscribe } from "./tallycast.js";
import { bytes, count } from "./units.js";

/** @typedef {{at: number, namespace: string, event: string | null, id: string | null, data: string, bytes: number}} TailMessage */

/** Messages in the list, and those that wait while it is paused. */
const MAX_MESSAGES = 200;

export class Tail {
  #start = byId("tail-start", HTMLButtonElement);
  #pause = byId("tail-pause", HTMLButtonElement);
  #clear = byId("tail-clear", HTMLButtonElement);
  #below = byId("tail-below", HTMLInputElement);
  #list = byId("tail", HTMLElement);
  #status = byId("tail-status", HTMLElement);
  #counts = byId("tail-counts", HTMLElement);
  #namespace = "/";
  /** @type {import("./tallycast.js").Subscription | undefined} */
  #stream;
  /** Messages that are not in the list yet. @type {TailMessage[]} */
  #waiting = [];
  #isPaused = false;
  #frame = 0;
  #received = 0;
  /** Left out by the server, because there were too many. */
  #skipped = 0;
  /** Left out by this list while it was paused. */
  #dropped = 0;

  constructor() {
    this.#start.addEventListener("click", () => (this.#stream ? this.stop() : this.#open()));
    this.#pause.addEventListener("click", () => this.#setPaused(!this.#isPaused));
    this.#clear.addEventListener("click", () => this.#reset());
    this.#below.addEventListener("change", () => this.#stream && this.#open());
  }

  /** @param {string} namespace */
  setNamespace(namespace) {
    if (namespace === this.#namespace) return;
    this.#namespace = namespace;
    if (this.#stream) this.#open();
    else this.#reset();
  }

  stop() {
    this.#stream?.close();
    this.#stream = undefined;
    this.#start.textContent = "Start tail";
    this.#pause.disabled = true;
    setText(this.#status, "");
  }

  #open() {
    this.stop();
    this.#reset();
    this.#setPaused(false);
    this.#start.textContent = "Stop tail";
    this.#pause.disabled = false;
    // A topic without wildcards includes what is below it; `/` is everything.
    const topic = this.#namespace;
    this.#stream = subscribe(
      null,
      {
        message: ({ data }) => this.#add(JSON.parse(data)),
        gap: ({ skipped }) => {
          this.#skipped += skipped ?? 0;
          this.#schedule();
        },
        state: ({ state, reason }) => {
          // What ended it is there already.
          if (state === "closed") return;
          const words = reason === undefined ? CONNECTION[state] : `${CONNECTION[state]}: ${reason}`;
          setText(this.#status, state === "live" ? `tailing ${topic}` : words);
        },
        refused: ({ status, reason, permanent }) => {
          if (status === 401) reportUnauthorized();
          if (!permanent) return;
          this.stop();
          setText(this.#status, `Not tailing: ${reason}`);
        },
      },
      { url: `/admin/tail?namespace=${encodeURIComponent(topic)}`, envelope: false },
    );
  }

  #reset() {
    this.#waiting = [];
    [this.#received, this.#skipped, this.#dropped] = [0, 0, 0];
    this.#list.replaceChildren();
    this.#render();
  }

  /** @param {boolean} isPaused */
  #setPaused(isPaused) {
    this.#isPaused = isPaused;
    this.#pause.setAttribute("aria-pressed", String(isPaused));
    this.#render();
  }

  /** @param {TailMessage} message */
  #add(message) {
    if (!this.#below.checked && message.namespace !== this.#namespace) return;
    this.#received += 1;
    this.#waiting.push(message);
    if (this.#waiting.length > MAX_MESSAGES) {
      this.#waiting.shift();
      if (this.#isPaused) this.#dropped += 1;
    }
    this.#schedule();
  }

  /** Renders once for all messages between two frames. */
  #schedule() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#render();
    });
  }

  #render() {
    if (!this.#isPaused && this.#waiting.length > 0) {
      // Newest first. The place of a reader who has scrolled down stays.
      this.#list.prepend(...this.#waiting.splice(0).map(row).reverse());
      while (this.#list.children.length > MAX_MESSAGES) this.#list.lastChild?.remove();
    }
    const parts = [`${count(this.#received)} received`];
    if (this.#skipped > 0) parts.push(`${count(this.#skipped)} skipped by the server`);
    if (this.#isPaused && this.#waiting.length > 0) parts.push(`${count(this.#waiting.length)} waiting`);
    if (this.#dropped > 0) parts.push(`${count(this.#dropped)} skipped while paused`);
    setText(this.#counts, this.#stream || this.#received > 0 ? parts.join(", ") : "");
  }
}

/** @param {TailMessage} message */
function row({ at, namespace, event, id, data, bytes: size }) {
  const row = make("li");
  const head = make("p", "tail-head");
  head.append(make("time", "muted", clock(at)), " ", make("span", "mono", namespace));
  if (event !== null) head.append(" ", make("span", "tag", event));
  if (id !== null) {
    const shown = make("span", "muted mono tail-id", id);
    shown.title = id;
    head.append(" ", shown);
  }
  const cut = new TextEncoder().encode(data).length < size ? ", cut" : "";
  head.append(" ", make("span", "muted", `${bytes(size)}${cut}`));
  row.append(head, make("p", "tail-data mono", data));
  return row;
}
