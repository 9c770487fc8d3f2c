// The view of a namespace: its children with their rates, and what can be done with it. `#explore/details` shows `/details`.

import { Refresh, request } from "./admin-api.js";
import { setText, Table } from "./admin-table.js";
import { Tail } from "./admin-tail.js";
import { Publish } from "./admin-publish.js";
import { byId, make } from "./dom.js";
import { count, perSecond } from "./units.js";

/**
 * @typedef {object} Child
 * @property {string} segment
 * @property {string} namespace
 * @property {number} readers
 * @property {number} rate
 * @property {boolean} has_children
 * @property {boolean} keeps_totals
 * @property {boolean} history
 */

/** Less than the time after which the server stops counting. */
const REFRESH_MS = 2000;

/** The fragment of a namespace. Names such as `https://example.com/1` follow a `=`. @param {string} namespace */
function fragment(namespace) {
  const path = namespace.split("/").map(encodeURIComponent).join("/");
  return namespace.startsWith("/") ? `#explore${path}` : `#explore=${path}`;
}

export class Explore {
  #namespace = "/";
  #isLoading = false;
  #error = byId("explore-error", HTMLElement);
  #summary = byId("explore-summary", HTMLElement);
  #more = byId("children-more", HTMLElement);
  #refresh = new Refresh(() => void this.#load(), REFRESH_MS);
  #tail = new Tail();
  #publish = new Publish();
  /** @type {Table<Child>} */
  #children = new Table(
    byId("children", HTMLTableElement),
    [
      { title: "Namespace", show: showNamespace },
      { title: "Messages/s", text: ({ rate }) => perSecond(rate), className: "number" },
      { title: "Readers", text: ({ readers }) => count(readers), className: "number" },
      { title: "Keeps", text: ({ keeps_totals, history }) => [keeps_totals && "totals", history && "history"].filter(Boolean).join(", ") },
    ],
    ({ namespace }) => namespace,
  );

  constructor() {
    byId("explore-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      const namespace = byId("explore-namespace", HTMLInputElement).value.trim();
      location.hash = fragment(/^\/|:/.test(namespace) ? namespace : `/${namespace}`);
    });
  }

  /** @param {string} argument */
  show(argument) {
    const namespace = argument === "" ? "/" : argument.replace(/^=/, "");
    if (namespace !== this.#namespace) this.#children.render([]);
    this.#namespace = namespace;
    byId("explore-namespace", HTMLInputElement).value = namespace;
    this.#showPath();
    this.#tail.setNamespace(namespace);
    this.#publish.setNamespace(namespace);
    if (namespace.startsWith("/")) this.#refresh.start();
    else {
      this.#refresh.stop();
      this.#error.hidden = true;
      setText(this.#summary, "A name has no namespaces below it.");
      setText(this.#more, "");
    }
  }

  hide() {
    this.#refresh.stop();
    this.#tail.stop();
  }

  /** @param {boolean} readOnly */
  setReadOnly(readOnly) {
    this.#publish.setReadOnly(readOnly);
  }

  /** Shows the namespaces above this one, and this one, as links. */
  #showPath() {
    const isPath = this.#namespace.startsWith("/");
    const segments = isPath ? this.#namespace.split("/").filter((segment) => segment !== "") : [this.#namespace];
    const items = ["", ...segments].map((segment, index) => {
      const item = make("li");
      const link = make("a", "", index === 0 ? "/" : segment);
      link.href = fragment(isPath || index === 0 ? `/${segments.slice(0, index).join("/")}` : segment);
      if (index === 0) link.setAttribute("aria-label", "all namespaces");
      if (index === segments.length) link.setAttribute("aria-current", "page");
      item.append(link);
      return item;
    });
    byId("explore-path", HTMLElement).replaceChildren(...items);
  }

  async #load() {
    if (this.#isLoading) return;
    this.#isLoading = true;
    const namespace = this.#namespace;
    const answer = await request(`/admin/namespaces.json?prefix=${encodeURIComponent(namespace)}`);
    this.#isLoading = false;
    if (namespace !== this.#namespace) {
      if (this.#namespace.startsWith("/")) void this.#load();
      return;
    }
    this.#error.hidden = answer.ok;
    if (!answer.ok) {
      setText(this.#error, answer.reason);
      setText(this.#summary, "");
      return;
    }
    const { readers, rate, measured_seconds, more, children } = answer.data;
    const measured = measured_seconds < 1 ? "counting begins" : `${perSecond(rate)} messages/s`;
    setText(this.#summary, `${measured}, ${count(readers)} ${readers === 1 ? "reader" : "readers"}`);
    this.#children.render(children);
    const text = children.length === 0 ? "No namespaces below this one have readers or messages now." : more > 0 ? `and ${count(more)} more` : "";
    setText(this.#more, text);
  }
}

/** @param {HTMLElement} cell @param {Child} child */
function showNamespace(cell, { segment, namespace, has_children }) {
  if (!cell.firstChild) {
    const link = make("a");
    link.href = fragment(namespace);
    cell.append(link);
  }
  setText(/** @type {Element} */ (cell.firstChild), has_children ? `${segment}/` : segment);
}
