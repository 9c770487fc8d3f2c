// What is wrong: the alarms of the server, and its silence.

import { setChildren, setText, showCode } from "./admin-table.js";
import { clock, serverTime } from "./admin-time.js";
import { byId, make } from "./dom.js";
import { count, duration } from "./units.js";

/**
 * @typedef {object} Alarm
 * @property {string} id
 * @property {"critical" | "warning"} severity
 * @property {string} title
 * @property {string} detail
 * @property {string} action
 * @property {number} since
 * @property {string} [link]
 */

const TITLE = document.title;

export class Alarms {
  #list = byId("alarms", HTMLElement);
  #well = byId("all-well", HTMLElement);
  #summary = byId("alarm-summary", HTMLAnchorElement);
  /** @type {Map<string, {alarm: Alarm, item: HTMLElement}>} */
  #shown = new Map();
  #isFirst = true;

  /**
   * Shows these alarms, most severe first, or without any that all is well.
   * @param {readonly Alarm[]} alarms
   * @param {string | null} well What "all is well" is based on, or null if it is not known.
   */
  render(alarms, well) {
    this.#announce(alarms);
    const shown = new Map();
    const items = alarms.map((alarm) => {
      const item = this.#shown.get(alarm.id)?.item ?? create();
      fill(item, alarm);
      shown.set(alarm.id, { alarm, item });
      return item;
    });
    this.#shown = shown;
    setChildren(this.#list, items);
    this.#well.hidden = alarms.length > 0;
    this.#well.classList.toggle("good", well !== null);
    setText(this.#well, well === null ? "Unknown: no values arrive." : `All is well. ${well}`);
    const worst = alarms[0]?.severity ?? "none";
    this.#summary.dataset.severity = worst;
    const none = well === null ? "Unknown" : "No alarms";
    setText(this.#summary, alarms.length === 0 ? none : alarms.length === 1 ? "1 alarm" : `${count(alarms.length)} alarms`);
    const title = alarms.length === 0 ? TITLE : `(${alarms.length}) ${alarms[0]?.title} - ${TITLE}`;
    if (document.title !== title) document.title = title;
  }

  /** Reports changes to screen readers, and nothing between them. @param {readonly Alarm[]} alarms */
  #announce(alarms) {
    const began = alarms.filter(({ id }) => !this.#shown.has(id)).map(({ severity, title }) => `${severity} alarm: ${title}`);
    const ended = [...this.#shown.values()]
      .filter(({ alarm }) => !alarms.some(({ id }) => id === alarm.id))
      .map(({ alarm }) => `no longer: ${alarm.title}`);
    const changes = [...began, ...ended];
    if (changes.length > 0 && !(this.#isFirst && began.length === 0)) byId("announcement", HTMLElement).textContent = changes.join("; ");
    this.#isFirst = false;
  }
}

function create() {
  const item = make("li", "alarm");
  const head = make("h3");
  head.append(make("span", "severity"), " ", make("span", "alarm-title"));
  const action = make("p", "alarm-action");
  action.append(make("b", "", "What to do: "), make("span"));
  const foot = make("p", "alarm-foot");
  foot.append(make("span", "alarm-since"), make("a", "", "Runbook"));
  item.append(head, make("p", "alarm-detail"), action, foot);
  return item;
}

/** @param {HTMLElement} item @param {Alarm} alarm */
function fill(item, { id, severity, title, detail, action, since, link }) {
  item.dataset.alarm = id;
  item.dataset.severity = severity;
  const part = (/** @type {string} */ selector) => /** @type {HTMLElement} */ (item.querySelector(selector));
  setText(part(".severity"), severity === "critical" ? "Critical" : "Warning");
  setText(part(".alarm-title"), title);
  showCode(part(".alarm-detail"), detail);
  showCode(part(".alarm-action span"), action);
  setText(part(".alarm-since"), `For ${duration(serverTime() - since)}, since ${clock(since)}`);
  const anchor = part("a");
  anchor.hidden = link === undefined;
  anchor.setAttribute("href", `#runbook/${link?.split("#")[1] ?? ""}`);
  anchor.setAttribute("aria-label", `Runbook: ${title}`);
}
