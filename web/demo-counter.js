// The counter: exact totals, at the rate that the reader chooses.

import { byId, make } from "./dom.js";
import { eachFrame, explain, flash, glyph, showState } from "./demo-page.js";
import { count, perSecond, Rate, RATES } from "./units.js";
// Shown on the page, to the next line of this kind.
import { subscribe } from "./tallycast.js";

// `show` gets a Map of all totals, and what was just added.
const read = () =>
  subscribe("/eps", { totals: show, state: showState }, {
    snapshot: true,
    params: rate.value ? { "max-rate": rate.value } : {},
  });
// The end of what is shown.

/** @typedef {import("./tallycast.js").Totals} Totals */

const ROWS = 12;

const body = byId("counts", HTMLTableSectionElement);
const rate = byId("rate", HTMLSelectElement);

let requestedAt = 0;
/** Counts, and the messages that brought them. */
let counted = 0;
let messages = 0;
/** @type {Map<string, number>} */
let totals = new Map();
/** Rows by the id of their emoji, and the total that each shows. */
const rows = new Map();

/** @param {Totals} current @param {Record<string, number> | null} changes */
function show({ values }, changes) {
  totals = values;
  if (changes === null) {
    byId("first", HTMLElement).textContent = `${count(performance.now() - requestedAt)} ms`;
  } else if (Object.keys(changes).length > 0) {
    messages += 1;
    for (const change of Object.values(changes)) counted += change;
  }
  render();
}

/** @param {string} id */
function rowOf(id) {
  const row = make("tr");
  const bar = make("div", "bar");
  const total = make("span");
  const number = make("td", "number");
  number.append(total);
  const share = make("td");
  share.append(bar);
  row.append(make("td", "", glyph(id)), number, share);
  return { row, total, bar, shown: NaN };
}

const render = eachFrame(() => {
  const top = [...totals].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1)).slice(0, ROWS);
  const most = top[0]?.[1] ?? 1;
  let sum = 0;
  for (const total of totals.values()) sum += total;
  byId("sum", HTMLElement).textContent = count(sum);
  top.forEach(([id, value], place) => {
    let entry = rows.get(id);
    if (!entry) rows.set(id, (entry = rowOf(id)));
    if (entry.shown !== value) {
      if (!Number.isNaN(entry.shown)) flash(entry.total);
      entry.shown = value;
      entry.total.textContent = count(value);
      entry.bar.style.width = `${(100 * value) / most}%`;
    }
    if (body.children[place] !== entry.row) body.insertBefore(entry.row, body.children[place] ?? null);
  });
  while (body.childElementCount > top.length) body.lastElementChild?.remove();
});

const counts = new Rate();
const received = new Rate();

/** @param {string} id @param {number | undefined} value @param {string} unit */
function showRate(id, value, unit) {
  byId(id, HTMLElement).replaceChildren(value === undefined ? "–" : perSecond(value), " ", make("small", "", unit));
}

setInterval(() => {
  const now = performance.now() / 1000;
  showRate("counted", counts.add(now, counted), RATES.counted.unit);
  showRate("received", received.add(now, messages), "messages/s");
}, 1000);

function start() {
  requestedAt = performance.now();
  counts.clear();
  received.clear();
  return read();
}

let subscription = start();
rate.addEventListener("change", () => {
  subscription.close();
  subscription = start();
});
explain();
