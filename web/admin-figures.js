// The figures of the overview: numbers now, and the losses and errors that are not zero.

import { make, byId } from "./dom.js";
import { setChildren, setText, showTagged } from "./admin-table.js";
import { bytes, count, duration, perSecond, Rate, RATES } from "./units.js";

/** @typedef {import("./admin.js").LiveEvent} LiveEvent */

/** An error count that has grown within this time is marked, in seconds. */
const RECENT_SECONDS = 60;

export class Figures {
  #received = new Rate();
  #delivered = new Rate();
  #bytes = new Rate();
  #cpu = new Rate();

  constructor() {
    for (const [id, { title }] of /** @type {const} */ ([["events-in", RATES.received], ["messages-out", RATES.sent]])) {
      byId(id, HTMLElement).title = title;
    }
  }

  /** Forgets the past, as after a gap. */
  clear() {
    for (const rate of [this.#received, this.#delivered, this.#bytes, this.#cpu]) rate.clear();
  }

  /** @param {LiveEvent} event */
  render({ at, counters, process, inboxes, started_at }) {
    const { source, hub } = counters;
    show("events-in", this.#received.add(at, source?.received ?? 0), perSecond);
    show("messages-out", this.#delivered.add(at, hub?.delivered ?? 0), perSecond);
    show("bytes-out", this.#bytes.add(at, hub?.bytes ?? 0), (value) => `${bytes(value)}/s`);
    show("connections", hub?.connections, count);
    show("cpu", this.#cpu.add(at, process.cpu_seconds ?? 0), (value) => `${value.toFixed(2)} cores`);
    show("memory", process.memory_bytes, bytes);
    show("files", process.open_files, (value) => `${count(value)} of ${count(process.max_files ?? 0)}`);
    const waiting = Math.max(inboxes.decode, inboxes.tally, inboxes.hub);
    show("inbox", waiting, (value) => `${count(value)} of ${count(inboxes.capacity)}`);
    show("uptime", at - started_at, (value) => `up for ${duration(value)}`);
  }
}

/** @param {string} id @param {number | undefined} value @param {(value: number) => string} format */
function show(id, value, format) {
  setText(byId(id, HTMLElement), value === undefined ? "–" : format(value));
}

export class Errors {
  #list = byId("errors", HTMLElement);
  #none = byId("errors-none", HTMLElement);
  #all = byId("errors-all", HTMLInputElement);
  /** The last growth of each count. @type {Map<string, {count: number, grewAt: number}>} */
  #growth = new Map();
  /** The row of each count, which stays so that a selection in it survives. @type {Map<string, HTMLElement>} */
  #rows = new Map();
  /** @type {LiveEvent | undefined} */
  #event;

  constructor() {
    this.#all.addEventListener("change", () => this.#event && this.render(this.#event));
  }

  /** @param {LiveEvent} event */
  render(event) {
    this.#event = event;
    const { at, errors } = event;
    for (const { title, count } of errors) {
      const before = this.#growth.get(title);
      const grewAt = before !== undefined && count > before.count ? at : (before?.grewAt ?? -Infinity);
      this.#growth.set(title, { count, grewAt });
    }
    const shown = errors.filter(({ count }) => this.#all.checked || count > 0);
    // Counts that grow are what matters now.
    const isGrowing = (/** @type {string} */ title) => at - (this.#growth.get(title)?.grewAt ?? -Infinity) < RECENT_SECONDS;
    const rows = shown.map(({ title, count: value }) => {
      const row = this.#rows.get(title) ?? make("div");
      this.#rows.set(title, row);
      if (!row.firstChild) row.append(make("dt"), make("dd"));
      row.className = value > 0 ? "nonzero" : "";
      showTagged(/** @type {HTMLElement} */ (row.firstChild), title, isGrowing(title) ? "growing" : "");
      setText(/** @type {HTMLElement} */ (row.lastChild), count(value));
      return row;
    });
    setChildren(this.#list, rows);
    const zeros = errors.filter(({ count }) => count === 0).length;
    this.#none.hidden = shown.length > 0;
    setText(byId("errors-all-text", HTMLElement), `Show the ${count(zeros)} that are zero`);
  }
}
