// The charts of the overview, which share their time range and the time that the user points at.

import { Chart } from "./admin-chart.js";
import { History, RANGES, rates } from "./admin-history.js";
import { clock } from "./admin-time.js";
import { byId } from "./dom.js";
import { bytes, count, perSecond } from "./units.js";

/** @typedef {import("./admin-history.js").Sample} Sample */
/** @typedef {import("./admin-chart.js").Description & {values: (samples: readonly Sample[]) => (number | null)[], zeros?: "hidden"}} ChartDescription */

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const messagesPerSecond = (/** @type {number} */ value) => `${perSecond(value)}/s`;
const shortNumber = (/** @type {number} */ value) => compact.format(value);
/** Of what is counted there are no fractions. */
const shortCount = (/** @type {number} */ value) => (Number.isInteger(value) ? compact.format(value) : "");

/** @type {readonly ChartDescription[]} */
const CHARTS = [
  { id: "lost", title: "Losses per second", line: "--bad", format: messagesPerSecond, short: shortNumber, values: (all) => rates(all, "lost"), zeros: "hidden" },
  { id: "received", title: "Events received per second", format: messagesPerSecond, short: shortNumber, values: (all) => rates(all, "received") },
  { id: "delivered", title: "Messages sent per second", format: messagesPerSecond, short: shortNumber, values: (all) => rates(all, "delivered") },
  { id: "bytes", title: "Data sent per second", format: (value) => `${bytes(value)}/s`, short: shortBytes, values: (all) => rates(all, "bytes") },
  { id: "connections", title: "Open streams", format: count, short: shortCount, values: (all) => all.map((one) => one.connections) },
  { id: "cpu", title: "CPU cores in use", format: (value) => value.toFixed(2), short: shortNumber, values: (all) => rates(all, "cpu_seconds") },
  { id: "memory", title: "Memory", format: bytes, short: shortBytes, values: (all) => all.map((one) => one.memory_bytes) },
];

/** @param {number} value */
function shortBytes(value) {
  return value < 1000 && !Number.isInteger(value) ? "" : bytes(value).replace(".0 ", " ");
}

export class Charts {
  #history = new History();
  /** @type {number | null} */
  #chosen = null;
  /** The time of the last event if the data are stale. @type {number | null} */
  #staleSince = null;
  #charts = CHARTS.map((description) => ({ description, chart: new Chart(description, (time) => this.#choose(time)) }));

  constructor() {
    byId("charts", HTMLElement).append(...this.#charts.map(({ chart }) => chart.element));
    byId("ranges", HTMLElement).addEventListener("change", (event) => {
      const range = /** @type {HTMLInputElement} */ (event.target).value;
      if (range in RANGES) void this.load(/** @type {import("./admin-history.js").Range} */ (range));
    });
    const theme = matchMedia("(prefers-color-scheme: dark)");
    theme.addEventListener("change", () => this.#charts.forEach(({ chart }) => chart.redraw()));
    this.render();
  }

  /** Reads the samples of a range, by default again those of the one shown. */
  async load(range = this.#history.range) {
    await this.#history.load(range);
    this.render();
  }

  /** @param {Sample} sample */
  push(sample) {
    this.#history.push(sample);
    this.render();
  }

  /** Marks the charts as stale since a time, or with null as current. @param {number | null} since */
  setStale(since) {
    this.#staleSince = since;
    this.render();
  }

  render() {
    const { samples } = this.#history;
    const times = samples.map(({ at }) => at);
    const span = this.#history.span();
    const note = this.#staleSince !== null ? `no data since ${clock(this.#staleSince)}` : "";
    for (const { description, chart } of this.#charts) {
      const values = description.values(samples);
      chart.element.hidden = description.zeros === "hidden" && !values.some((value) => value !== null && value > 0);
      chart.setNote(note);
      chart.setData(times, values, span, this.#chosen);
    }
  }

  /** @param {number | null} time */
  #choose(time) {
    this.#chosen = time;
    for (const { chart } of this.#charts) chart.showAt(time);
  }
}
