// The paginated table of open streams, filtered by namespace.

import { byId, get, make } from "./dom.js";
import { count, duration } from "./units.js";

/**
 * @typedef {object} Connection
 * @property {string} request_path
 * @property {number} created_at
 * @property {string} client_ip
 * @property {string} user_agent
 * @property {number} msgs_sent
 * @property {string | null} subject
 */

const PAGE_SIZE = 50;
/** The minimum interval between refreshes. */
const REFRESH_MS = 2000;

export class ConnectionTable {
  #filter = byId("filter", HTMLInputElement);
  #sort = byId("sort", HTMLSelectElement);
  #previous = byId("previous", HTMLButtonElement);
  #next = byId("next", HTMLButtonElement);
  #offset = 0;
  #version = "";
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  constructor() {
    this.#filter.addEventListener("input", () => this.#goTo(0));
    this.#sort.addEventListener("change", () => this.#goTo(0));
    this.#previous.addEventListener("click", () => this.#goTo(this.#offset - PAGE_SIZE));
    this.#next.addEventListener("click", () => this.#goTo(this.#offset + PAGE_SIZE));
    void this.#load();
  }

  /**
   * Refreshes the table if `version`, which changes whenever a stream is opened or closed, is new.
   * @param {string} version
   */
  refreshIfChanged(version) {
    if (version === this.#version || document.hidden) return;
    this.#version = version;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.#load();
    }, REFRESH_MS);
  }

  /** @param {number} offset */
  #goTo(offset) {
    this.#offset = Math.max(0, offset);
    void this.#load();
  }

  async #load() {
    const namespace = this.#filter.value.trim();
    const offset = this.#offset;
    const query = new URLSearchParams({ limit: String(PAGE_SIZE), offset: String(offset), sort: this.#sort.value, namespace });
    const response = await get(`/admin/status.json?${query}`);
    if (offset !== this.#offset || namespace !== this.#filter.value.trim()) return;
    const range = byId("range", HTMLElement);
    if (!response?.ok) {
      range.textContent = response?.status === 400 ? "invalid namespace" : "status unavailable";
      return;
    }
    const status = await response.json();
    const now = status.reported_at;
    byId("streams", HTMLElement).replaceChildren(...status.connections.map((/** @type {Connection} */ connection) => row(connection, now)));
    const matched = status.connections_matched;
    const last = Math.min(offset + PAGE_SIZE, matched);
    range.textContent = `${matched ? offset + 1 : 0}–${last} of ${count(matched)}`;
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
  const { client_ip, subject } = connection;
  const client = subject === null ? client_ip : `${subject} (${client_ip})`;
  row.append(make("td", "", connection.request_path), make("td", "", client), program);
  row.append(make("td", "number", duration(now - connection.created_at)));
  row.append(make("td", "number", count(connection.msgs_sent)));
  return row;
}
