// A chart of one value over time: axes, grid, and the value under the pointer or chosen by keyboard.

import { setText } from "./admin-table.js";
import { clock } from "./admin-time.js";
import { colour, make } from "./dom.js";
import uPlot from "./vendor/uplot.js";

/** Points that Page Up and Page Down move by. */
const PAGE = 10;
/** CSS pixels, as in `.chart-plot` of `admin.css`. */
const HEIGHT = 150;
const FONT = "11px system-ui, sans-serif";

/** Seconds between the marks of the time axis. */
const TIME_STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600];

const hours = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

/**
 * @typedef {object} Description
 * @property {string} id
 * @property {string} title With the unit, such as "Messages sent per second".
 * @property {(value: number) => string} format A value, with its unit.
 * @property {(value: number) => string} short A value on the axis.
 * @property {string} [line] The custom property of its colour; by default the accent.
 */

export class Chart {
  element = make("figure", "chart");
  #value = make("span", "chart-value");
  #plot = make("div", "chart-plot");
  #note = make("p", "chart-note");
  /** @type {uPlot | undefined} */
  #uplot;
  /** @type {number[]} */
  #times = [];
  /** @type {(number | null)[]} */
  #values = [];
  #description;
  #choose;

  /**
   * @param {Description} description
   * @param {(time: number | null) => void} choose Called when the user points at a time, or at none.
   */
  constructor(description, choose) {
    this.#description = description;
    this.#choose = choose;
    this.element.id = `chart-${description.id}`;
    const caption = make("figcaption");
    caption.append(make("h3", "chart-title", description.title), this.#value);
    // A slider over time: screen readers then pass the arrow keys on and speak the value of each point.
    this.#plot.tabIndex = 0;
    this.#plot.setAttribute("role", "slider");
    this.#plot.setAttribute("aria-label", description.title);
    this.#plot.addEventListener("keydown", (event) => this.#handleKey(event));
    this.#plot.addEventListener("blur", () => choose(null));
    this.#note.hidden = true;
    const frame = make("div", "chart-frame");
    frame.append(this.#plot, this.#note);
    this.element.append(caption, frame);
    new ResizeObserver(() => this.#resize()).observe(this.#plot);
  }

  /**
   * @param {number[]} times Seconds since the Unix epoch.
   * @param {(number | null)[]} values
   * @param {readonly [number, number]} span The times at the ends of the axis.
   * @param {number | null} chosen The time that the user points at.
   */
  setData(times, values, span, chosen) {
    this.#times = times;
    this.#values = values;
    this.#resize();
    const uplot = this.#uplot;
    if (!uplot) return;
    uplot.batch(() => {
      uplot.setData([times, values], false);
      uplot.setScale("x", { min: span[0], max: span[1] });
    });
    this.#plot.setAttribute("aria-valuemin", String(Math.round(span[0])));
    this.#plot.setAttribute("aria-valuemax", String(Math.round(span[1])));
    this.element.dataset.from = hours.format(span[0] * 1000);
    this.element.dataset.to = hours.format(span[1] * 1000);
    this.showAt(chosen);
  }

  /** Shows the value at a time, or with null the last one. @param {number | null} time */
  showAt(time) {
    const last = this.#values.findLastIndex((value) => value !== null);
    const index = time === null ? last : nearest(this.#times, time);
    const value = this.#values[index] ?? null;
    const at = this.#times[index];
    const text = value === null ? "no value" : this.#description.format(value);
    setText(this.#value, time === null || at === undefined ? text : `${text} at ${clock(at)}`);
    this.#plot.setAttribute("aria-valuenow", String(Math.round(at ?? 0)));
    this.#plot.setAttribute("aria-valuetext", at === undefined ? "no value" : `${text} at ${clock(at)}`);
    const left = time === null || at === undefined ? -10 : (this.#uplot?.valToPos(at, "x") ?? -10);
    this.#uplot?.setCursor({ left, top: 0 }, false);
  }

  /** Says over the chart why it has no newer values, or with an empty text nothing. @param {string} text */
  setNote(text) {
    this.#note.hidden = text === "";
    setText(this.#note, text);
  }

  /** Draws again, in the colours of another theme. */
  redraw() {
    this.#uplot?.redraw(false);
  }

  #resize() {
    const width = this.#plot.clientWidth;
    if (width === 0) return;
    if (!this.#uplot) this.#uplot = this.#create(width);
    else if (this.#uplot.width !== width) this.#uplot.setSize({ width, height: HEIGHT });
  }

  /** @param {number} width */
  #create(width) {
    const { short, line = "--accent" } = this.#description;
    const axis = { stroke: () => colour("--muted"), font: FONT, ticks: { show: false }, grid: { stroke: () => colour("--border"), width: 1 } };
    const uplot = new uPlot(
      {
        width,
        height: HEIGHT,
        padding: [8, 12, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false } },
        scales: { x: { time: true }, y: { range: (_, __, max) => [0, top(max)] } },
        axes: [
          { ...axis, size: 24, space: 56, incrs: TIME_STEPS, values: (_, times) => times.map((time) => hours.format(time * 1000)) },
          { ...axis, size: 52, space: 32, values: (_, values) => values.map((value) => short(value)) },
        ],
        series: [
          {},
          { stroke: () => colour(line), fill: () => `color-mix(in srgb, ${colour(line)} 14%, transparent)`, width: 1.5, points: { show: false } },
        ],
      },
      [[], []],
      this.#plot,
    );
    uplot.over.addEventListener("mousemove", () => {
      const { left } = uplot.cursor;
      if (left !== undefined && left >= 0) this.#choose(this.#times[uplot.posToIdx(left)] ?? null);
    });
    uplot.over.addEventListener("mouseleave", () => this.#choose(null));
    return uplot;
  }

  /** @param {KeyboardEvent} event */
  #handleKey(event) {
    const last = this.#times.length - 1;
    const now = Number(this.#plot.getAttribute("aria-valuenow"));
    const index = nearest(this.#times, now);
    /** @type {Record<string, number>} */
    const targets = {
      ArrowLeft: index - 1,
      ArrowDown: index - 1,
      ArrowRight: index + 1,
      ArrowUp: index + 1,
      PageDown: index - PAGE,
      PageUp: index + PAGE,
      Home: 0,
      End: last,
    };
    const target = targets[event.key];
    if (event.key === "Escape") this.#choose(null);
    else if (target === undefined) return;
    else this.#choose(this.#times[Math.min(last, Math.max(0, target))] ?? null);
    event.preventDefault();
  }
}

/** The index of the time nearest to `time`; -1 of none. @param {readonly number[]} times @param {number} time */
function nearest(times, time) {
  const after = times.findIndex((one) => one >= time);
  if (after === -1) return times.length - 1;
  const before = times[after - 1];
  return before !== undefined && time - before < /** @type {number} */ (times[after]) - time ? after - 1 : after;
}

/** The upper end of an axis: a little more than the maximum. @param {number | null} max */
function top(max) {
  return max === null || max <= 0 ? 1 : max * 1.08;
}
