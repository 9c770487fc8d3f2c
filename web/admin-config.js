// The table of the effective configuration.

import { request } from "./admin-api.js";
import { setText, Table } from "./admin-table.js";
import { byId } from "./dom.js";
import { count } from "./units.js";

/** @typedef {{name: string, value: string, origin: string, default: boolean}} Option */

/** @type {Table<Option>} */
const table = new Table(
  byId("options", HTMLTableElement),
  [
    { title: "Option", text: ({ name }) => name },
    { title: "Value", text: ({ value }) => value, className: "wide mono" },
    { title: "Origin", text: ({ origin }) => origin },
  ],
  // An option may occur several times.
  ({ name, value }) => `${name} ${value}`,
);

export class Config {
  #filter = byId("option-filter", HTMLInputElement);
  #all = byId("option-all", HTMLInputElement);
  #count = byId("option-count", HTMLElement);
  /** @type {Option[]} */
  #options = [];

  constructor() {
    this.#filter.addEventListener("input", () => this.#render());
    this.#all.addEventListener("change", () => this.#render());
  }

  async show() {
    const answer = await request("/admin/config.json");
    if (answer.ok) this.#options = answer.data.options;
    this.#render();
    if (!answer.ok) setText(this.#count, answer.reason);
  }

  #render() {
    const text = this.#filter.value.trim().toLowerCase();
    const isWanted = (/** @type {Option} */ option) =>
      (this.#all.checked || !option.default) && `${option.name} ${option.value} ${option.origin}`.toLowerCase().includes(text);
    const shown = this.#options.filter(isWanted);
    table.render(shown);
    setText(this.#count, `${count(shown.length)} of ${count(this.#options.length)} options`);
  }
}
