// The form that publishes a message to a namespace.

import { request } from "./admin-api.js";
import { setText } from "./admin-table.js";
import { clock, serverTime } from "./admin-time.js";
import { byId } from "./dom.js";

/** Characters of the data in the confirmation. */
const MAX_SHOWN = 80;

export class Publish {
  #fields = byId("publish-fields", HTMLFieldSetElement);
  #namespace = byId("publish-namespace", HTMLInputElement);
  #event = byId("publish-event", HTMLInputElement);
  #data = byId("publish-data", HTMLTextAreaElement);
  #result = byId("publish-result", HTMLElement);
  #isBusy = false;

  constructor() {
    byId("publish-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#publish();
    });
  }

  /** @param {string} namespace */
  setNamespace(namespace) {
    this.#namespace.value = namespace;
  }

  /** @param {boolean} readOnly */
  setReadOnly(readOnly) {
    this.#fields.disabled = readOnly;
    byId("publish-read-only", HTMLElement).hidden = !readOnly;
  }

  async #publish() {
    // A second click or Enter before the answer would publish twice.
    if (this.#isBusy) return;
    this.#isBusy = true;
    const [namespace, event, data] = [this.#namespace.value.trim(), this.#event.value, this.#data.value];
    const body = event === "" ? { namespace, data } : { namespace, data, event };
    this.#result.className = "muted";
    setText(this.#result, "Publishing…");
    const answer = await request("/admin/publish", body);
    this.#isBusy = false;
    this.#result.className = answer.ok ? "notice good" : "notice bad";
    if (!answer.ok) {
      setText(this.#result, answer.status === 0 ? "No answer: the message may have been published." : `Not published: ${answer.reason}`);
      return;
    }
    const shown = data.length > MAX_SHOWN ? `${data.slice(0, MAX_SHOWN)}…` : data;
    const name = event === "" ? "" : ` as ${event}`;
    setText(this.#result, `Published to ${namespace}${name} at ${clock(serverTime())}: ${shown}`);
  }
}
