// The list of recent warnings and errors of the log.

import { Refresh, request } from "./admin-api.js";
import { setText } from "./admin-table.js";
import { clock } from "./admin-time.js";
import { byId, make } from "./dom.js";
import { count } from "./units.js";

/** @typedef {{at: number, level: string, target: string, message: string, fields: Record<string, unknown>, count: number}} LogRecord */

const REFRESH_MS = 3000;

export class Log {
  #list = byId("records", HTMLElement);
  #status = byId("log-status", HTMLElement);
  #refresh = new Refresh(() => void this.#load(), REFRESH_MS);
  #shown = "";

  show() {
    this.#refresh.start();
  }

  hide() {
    this.#refresh.stop();
  }

  async #load() {
    const answer = await request("/admin/log.json");
    if (!answer.ok) {
      setText(this.#status, answer.reason);
      return;
    }
    /** @type {LogRecord[]} */
    const records = answer.data.records;
    const number = records.length === 1 ? "1 record" : `${count(records.length)} records`;
    setText(this.#status, records.length === 0 ? "No warnings since the start." : `${number}, newest first`);
    // A list that has not changed keeps the selection of its reader.
    const text = JSON.stringify(records);
    if (text === this.#shown) return;
    this.#shown = text;
    this.#list.replaceChildren(...records.map(row));
  }
}

/** @param {LogRecord} record */
function row({ at, level, target, message, fields, count: times }) {
  const row = make("li");
  row.dataset.level = level;
  const head = make("p", "record-head");
  const when = make("time", "muted", clock(at));
  when.dateTime = new Date(at * 1000).toISOString();
  head.append(when, " ", make("span", level === "ERROR" ? "bad" : "warn", level), " ", make("b", "", message));
  if (times > 1) head.append(" ", make("span", "tag", `${count(times)} times`));
  row.append(head);
  const names = Object.entries(fields);
  const detail = make("p", "record-fields mono");
  detail.append(make("span", "muted", target), ...names.flatMap(([name, value]) => [" ", field(name, value)]));
  row.append(detail);
  return row;
}

/** @param {string} name @param {unknown} value */
function field(name, value) {
  const field = make("span", "field");
  field.append(make("span", "muted", `${name}=`), typeof value === "string" ? value : JSON.stringify(value));
  return field;
}
