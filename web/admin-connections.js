// The paginated table of open streams, filtered by namespace, and the dialog that ends one.

import { Refresh, request } from "./admin-api.js";
import { setText, Table } from "./admin-table.js";
import { byId, make } from "./dom.js";
import { count, duration } from "./units.js";

/**
 * @typedef {object} Connection
 * @property {string} id
 * @property {string} request_path
 * @property {number} created_at
 * @property {string} client_ip
 * @property {string} user_agent
 * @property {number} msgs_sent
 * @property {string | null} subject
 */

const PAGE_SIZE = 50;
/** The interval between refreshes, and the shorter time after which a stream that is opened or closed shows. */
const REFRESH_MS = 5000;
const CHANGE_MS = 2000;

export class Connections {
  #filter = byId("filter", HTMLInputElement);
  #sort = byId("sort", HTMLSelectElement);
  #previous = byId("previous", HTMLButtonElement);
  #next = byId("next", HTMLButtonElement);
  #range = byId("range", HTMLElement);
  #dialog = new DisconnectDialog(() => void this.#load());
  #refresh = new Refresh(() => void this.#load(), REFRESH_MS);
  #offset = 0;
  #now = 0;
  #version = "";
  #isShown = false;
  #readOnly = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {Table<Connection>} */
  #table = new Table(
    byId("streams", HTMLTableElement),
    [
      { title: "Path", text: ({ request_path }) => request_path, className: "wide" },
      { title: "Client", text: ({ client_ip, subject }) => (subject === null ? client_ip : `${subject} (${client_ip})`) },
      { title: "User agent", show: showProgram, className: "cut" },
      { title: "Age", text: ({ created_at }) => duration(this.#now - created_at), className: "number" },
      { title: "Messages", text: ({ msgs_sent }) => count(msgs_sent), className: "number" },
      { title: "Action", show: (cell, connection) => this.#showAction(cell, connection) },
    ],
    ({ id }) => id,
  );

  constructor() {
    this.#filter.addEventListener("input", () => this.#goTo(0));
    this.#sort.addEventListener("change", () => this.#goTo(0));
    this.#previous.addEventListener("click", () => this.#goTo(this.#offset - PAGE_SIZE));
    this.#next.addEventListener("click", () => this.#goTo(this.#offset + PAGE_SIZE));
  }

  show() {
    this.#isShown = true;
    this.#refresh.start();
  }

  hide() {
    this.#isShown = false;
    this.#refresh.stop();
  }

  /**
   * Refreshes the table if `version`, which changes whenever a stream is opened or closed, is new.
   * @param {string} version
   * @param {boolean} readOnly Whether the server refuses to end streams.
   */
  update(version, readOnly) {
    if (readOnly !== this.#readOnly) {
      this.#readOnly = readOnly;
      this.#version = "";
    }
    if (version === this.#version || document.hidden || !this.#isShown) return;
    this.#version = version;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.#load();
    }, CHANGE_MS);
  }

  /** @param {number} offset */
  #goTo(offset) {
    this.#offset = Math.max(0, offset);
    void this.#load();
  }

  async #load() {
    const namespace = this.#filter.value.trim();
    const [offset, sort] = [this.#offset, this.#sort.value];
    const query = new URLSearchParams({ limit: String(PAGE_SIZE), offset: String(offset), sort, namespace });
    const answer = await request(`/admin/status.json?${query}`);
    if (offset !== this.#offset || sort !== this.#sort.value || namespace !== this.#filter.value.trim()) return;
    this.#filter.setAttribute("aria-invalid", String(!answer.ok && answer.status === 400));
    if (!answer.ok) {
      setText(this.#range, answer.reason);
      return;
    }
    const { connections, connections_matched: matched, reported_at } = answer.data;
    // The last page may have become empty.
    if (offset > 0 && offset >= matched) return this.#goTo(Math.floor(Math.max(0, matched - 1) / PAGE_SIZE) * PAGE_SIZE);
    this.#now = reported_at;
    this.#table.render(connections).forEach((row, index) => {
      row.dataset.connectionPath = connections[index].request_path;
    });
    const last = Math.min(offset + PAGE_SIZE, matched);
    setText(this.#range, matched === 0 ? "no streams" : `${count(offset + 1)}–${count(last)} of ${count(matched)}`);
    this.#previous.disabled = offset === 0;
    this.#next.disabled = last >= matched;
  }

  /** @param {HTMLElement} cell @param {Connection} connection */
  #showAction(cell, connection) {
    if (!cell.firstChild) {
      const button = make("button", "danger", "Disconnect");
      button.type = "button";
      button.addEventListener("click", () => this.#dialog.open(connection));
      button.setAttribute("aria-label", `Disconnect ${connection.client_ip}, ${connection.request_path}`);
      cell.append(button);
    }
    const button = /** @type {HTMLButtonElement} */ (cell.firstChild);
    button.disabled = this.#readOnly;
    button.title = this.#readOnly ? "The server is read-only: --admin-read-only" : "";
  }
}

class DisconnectDialog {
  #dialog = byId("disconnect", HTMLDialogElement);
  #confirm = byId("disconnect-confirm", HTMLButtonElement);
  #error = byId("disconnect-error", HTMLElement);
  #result = byId("disconnect-result", HTMLElement);
  #done;
  /** @type {Connection | undefined} */
  #connection;

  /** @param {() => void} done Called when a stream has ended. */
  constructor(done) {
    this.#done = done;
    this.#confirm.addEventListener("click", () => void this.#disconnect());
    byId("disconnect-cancel", HTMLButtonElement).addEventListener("click", () => this.#dialog.close());
  }

  /** @param {Connection} connection */
  open(connection) {
    this.#connection = connection;
    this.#error.textContent = "";
    const { client_ip, subject, request_path, user_agent } = connection;
    setText(byId("disconnect-client", HTMLElement), subject === null ? client_ip : `${subject} (${client_ip})`);
    setText(byId("disconnect-path", HTMLElement), request_path);
    setText(byId("disconnect-program", HTMLElement), user_agent);
    this.#dialog.showModal();
  }

  async #disconnect() {
    const connection = this.#connection;
    if (connection === undefined) return;
    this.#confirm.disabled = true;
    const answer = await request("/admin/disconnect", { connection: connection.id });
    this.#confirm.disabled = false;
    if (!answer.ok && answer.status !== 404) {
      this.#error.textContent = answer.status === 0 ? "No answer: the stream may have ended." : `Not disconnected: ${answer.reason}`;
      return;
    }
    this.#dialog.close();
    // The button that opened the dialog is about to leave.
    byId("streams-title", HTMLElement).focus();
    const ended = answer.ok ? "Disconnected" : "Already gone:";
    this.#result.textContent = `${ended} ${connection.client_ip}, ${connection.request_path}`;
    this.#done();
  }
}

/** @param {HTMLElement} cell @param {Connection} connection */
function showProgram(cell, { user_agent }) {
  setText(cell, user_agent);
  cell.title = user_agent;
}
