// The runbook: the table of alarms of `docs/operations.md`, with the alarm that the fragment names marked.

import { setText, showCode, Table } from "./admin-table.js";
import { byId, make } from "./dom.js";

/** @typedef {{id: string, severity: string, condition: string, action: string}} Entry */

const DOCUMENT = "/assets/operations.md";
const ROW = /^\| <a id="([^"]+)"><\/a>`[^`]+`, (\S+) \| (.+) \| (.+) \|$/;

/** @type {Table<Entry>} */
const table = new Table(
  byId("runbook-table", HTMLTableElement),
  [
    { title: "Alarm", text: ({ id }) => id },
    { title: "Severity", show: (cell, { severity }) => cell.replaceChildren(make("span", severity === "critical" ? "bad" : "warn", severity)) },
    { title: "Raised when", show: (cell, { condition }) => showCode(cell, condition), className: "wide" },
    { title: "What to do", show: (cell, { action }) => showCode(cell, action), className: "wide" },
  ],
  ({ id }) => id,
);

export class Runbook {
  /** @type {Entry[]} */
  #entries = [];

  /** @param {string} argument `/` and the identifier of an alarm. */
  async show(argument) {
    if (this.#entries.length === 0) await this.#load();
    const rows = table.render(this.#entries);
    this.#entries.forEach(({ id }, index) => {
      const row = rows[index];
      if (id !== argument.slice(1)) row?.removeAttribute("aria-current");
      else {
        row?.setAttribute("aria-current", "true");
        row?.scrollIntoView({ block: "center" });
      }
    });
  }

  async #load() {
    const response = await fetch(location.origin + DOCUMENT).catch(() => undefined);
    const text = response?.ok ? await response.text() : "";
    this.#entries = text.split("\n").flatMap((line) => {
      const [, id, severity, condition, action] = ROW.exec(line) ?? [];
      return id && severity && condition && action ? [{ id, severity: severity.replaceAll("*", ""), condition, action }] : [];
    });
    setText(byId("runbook-state", HTMLElement), this.#entries.length === 0 ? "The runbook cannot be read: the server does not answer." : "");
  }
}
