// The table of sessions.

import { Refresh, request } from "./admin-api.js";
import { setText, Table } from "./admin-table.js";
import { clock } from "./admin-time.js";
import { byId } from "./dom.js";
import { count } from "./units.js";

/**
 * @typedef {object} Session
 * @property {string} id
 * @property {string | null} subject
 * @property {string[]} topics
 * @property {string | null} connection On this node, by its identifier in the table of streams.
 * @property {{node: string}[]} connections On all nodes.
 * @property {number} created_at
 * @property {number} queued
 */

const LIMIT = 50;
const REFRESH_MS = 5000;

/** @type {Table<Session>} */
const table = new Table(
  byId("session-table", HTMLTableElement),
  [
    { title: "Session", text: ({ id }) => id },
    { title: "Subject", text: ({ subject }) => subject ?? "none" },
    { title: "Topics", text: ({ topics }) => (topics.length === 0 ? "none" : topics.join(", ")), className: "wide" },
    { title: "Streams", text: showConnections },
    { title: "Created", text: ({ created_at }) => clock(created_at) },
    { title: "Waiting", text: ({ queued }) => count(queued), className: "number" },
  ],
  ({ id, created_at }) => `${id} ${created_at}`,
);

/** @param {Session} session */
function showConnections({ connection, connections }) {
  const nodes = connections.map(({ node }) => node).join(", ");
  if (nodes === "") return "none";
  return connection === null ? nodes : `${nodes} (${connection})`;
}

export class Sessions {
  #id = byId("session-id", HTMLInputElement);
  #range = byId("session-range", HTMLElement);
  #list = byId("session-list", HTMLElement);
  #refresh = new Refresh(() => void this.#load(), REFRESH_MS);
  /** The session that is searched for; without a name all of them. */
  #wanted = "";

  constructor() {
    byId("session-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.#wanted = this.#id.value.trim();
      this.#list.hidden = true;
      this.#refresh.start();
    });
  }

  show() {
    this.#refresh.start();
  }

  hide() {
    this.#refresh.stop();
  }

  async #load() {
    const query = new URLSearchParams({ limit: String(LIMIT) });
    const wanted = this.#wanted;
    if (wanted !== "") query.set("id", wanted);
    const answer = await request(`/admin/sessions.json?${query}`);
    if (wanted !== this.#wanted) return;
    if (!answer.ok) {
      setText(this.#range, answer.reason);
      return;
    }
    const { total, sessions } = answer.data;
    this.#list.hidden = sessions.length === 0;
    setText(this.#range, `Sessions: ${count(sessions.length)} of ${count(total)}`);
    table.render(sessions);
  }
}
