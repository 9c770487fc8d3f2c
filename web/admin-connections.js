// The table of open streams: a page of those whose namespace is asked for.

import { byId, get, make } from "./dom.js";
import { count, duration } from "./units.js";

/**
 * @typedef {object} Connection
 * @property {string} request_path
 * @property {number} created_at
 * @property {string} client_ip
 * @property {string} user_agent
 * @property {number} msgs_sent
 */

const PAGE = 50;
/** However often streams come and go, the table is asked for at most this often. */
const REFRESH_MS = 2000;

export class Connections {
  #filter = byId("filter", HTMLInputElement);
  #sort = byId("sort", HTMLSelectElement);
  #previous = byId("previous", HTMLButtonElement);
  #next = byId("next", HTMLButtonElement);
  #offset = 0;
  #seen = "";
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  constructor() {
    this.#filter.addEventListener("input", () => this.#turn(0));
    this.#sort.addEventListener("change", () => this.#turn(0));
    this.#previous.addEventListener("click", () => this.#turn(this.#offset - PAGE));
    this.#next.addEventListener("click", () => this.#turn(this.#offset + PAGE));
    void this.#load();
  }

  /**
   * Asks for the table anew if `state`, which tells of all streams that came and went, is another than before.
   * @param {string} state
   */
  changed(state) {
    if (state === this.#seen || document.hidden) return;
    this.#seen = state;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.#load();
    }, REFRESH_MS);
  }

  /** @param {number} offset */
  #turn(offset) {
    this.#offset = Math.max(0, offset);
    void this.#load();
  }

  async #load() {
    const namespace = this.#filter.value.trim();
    const offset = this.#offset;
    const query = new URLSearchParams({ limit: String(PAGE), offset: String(offset), sort: this.#sort.value, namespace });
    const response = await get(`/admin/status.json?${query}`);
    if (offset !== this.#offset || namespace !== this.#filter.value.trim()) return;
    const place = byId("place", HTMLElement);
    if (!response?.ok) {
      place.textContent = response?.status === 400 ? "no such namespace" : "cannot be told now";
      return;
    }
    const status = await response.json();
    const now = status.reported_at;
    byId("open", HTMLElement).replaceChildren(...status.connections.map((/** @type {Connection} */ one) => row(one, now)));
    const matched = status.connections_matched;
    const last = Math.min(offset + PAGE, matched);
    place.textContent = `${matched ? offset + 1 : 0} to ${last} of ${count(matched)}`;
    this.#previous.disabled = offset === 0;
    this.#next.disabled = last >= matched;
  }
}

/** @param {Connection} connection @param {number} now */
function row(connection, now) {
  const row = make("tr");
  row.dataset.connectionPath = connection.request_path;
  const program = make("td", "", connection.user_agent);
  program.title = connection.user_agent;
  row.append(make("td", "", connection.request_path), make("td", "", connection.client_ip), program);
  row.append(make("td", "number", duration(now - connection.created_at)));
  row.append(make("td", "number", count(connection.msgs_sent)));
  return row;
}
