// The prices: a table of last values, of which the watched ones change.

import { byId, make } from "./dom.js";
import { eachFrame, explain, flash, showState } from "./demo-page.js";
import { count, perSecond, Rate } from "./units.js";
// Shown on the page, to the next line of this kind.
import { subscribe } from "./tallycast.js";

// The last values come first, then the new ones. With a rate,
// the newest of each symbol.
const read = () =>
  subscribe(watched(), { message: show, state: showState }, {
    transport: "websocket",
    snapshot: true,
    params: rate.value ? { "max-rate": rate.value } : {},
  });

// Another watch-list, on the same connection.
const change = () => subscription.setTopics(watched());
// The end of what is shown.

/** @typedef {{name: string, price: number, open: number, tick: number}} Quote */

const ALL = ["/prices/*"];
const FEW = 5;
/** Time for the last values to come before their rows are shown. */
const GATHER_MS = 60;

const body = byId("prices", HTMLTableSectionElement);
const rate = byId("rate", HTMLSelectElement);
const topics = byId("topics", HTMLElement);

/**
 * A row of the table.
 * @typedef {object} Row
 * @property {HTMLTableRowElement} row
 * @property {HTMLInputElement} box
 * @property {HTMLElement} price
 * @property {HTMLElement} change
 * @property {Quote} quote
 * @property {boolean} isNew Whether the row does not show its price yet.
 * @property {boolean} isStale Whether the price was not watched all the time since it came.
 */

/** @type {Map<string, Row>} */
const rows = new Map();
let requestedAt = performance.now();
let isFirst = true;
/** Whether there are rows that are not shown yet. */
let waits = false;
let received = 0;
let produced = 0;

/** @param {string} symbol @param {Quote} quote @returns {Row} */
function rowOf(symbol, quote) {
  const row = make("tr");
  const box = make("input");
  box.type = "checkbox";
  box.checked = true;
  box.addEventListener("change", choose);
  const label = make("label");
  label.append(box, symbol);
  const head = make("th");
  head.scope = "row";
  head.append(label);
  const price = make("span");
  const change = make("span");
  const [priceCell, changeCell] = [make("td", "number"), make("td", "number change")];
  priceCell.append(price);
  changeCell.append(change);
  row.append(head, make("td", "company optional", quote.name), priceCell, changeCell);
  return { row, box, price, change, quote, isNew: true, isStale: false };
}

/** Shows the rows that are new, in the order of their symbols. */
function showRows() {
  waits = false;
  const sorted = [...rows].sort(([a], [b]) => (a < b ? -1 : 1));
  rows.clear();
  for (const [symbol, entry] of sorted) rows.set(symbol, entry);
  body.replaceChildren(...sorted.map(([, { row }]) => row));
}

/** @param {import("./tallycast.js").Message} message */
function show({ namespace = "", data }) {
  const symbol = namespace.slice(namespace.lastIndexOf("/") + 1);
  // Other programs may publish anything there.
  if (typeof data?.price !== "number" || typeof data.open !== "number") return;
  const quote = /** @type {Quote} */ (data);
  const known = rows.get(symbol);
  if (isFirst) byId("first", HTMLElement).textContent = `${count(performance.now() - requestedAt)} ms`;
  isFirst = false;
  if (known) {
    received += 1;
    // Those that were skipped had numbers, too.
    produced += known.isStale ? 1 : Math.max(0, quote.tick - known.quote.tick);
    known.isStale = false;
    known.isNew = known.quote.price !== quote.price || known.isNew;
    known.quote = quote;
  } else {
    rows.set(symbol, rowOf(symbol, quote));
    // The others follow at once. Together they move nothing.
    if (!waits) setTimeout(showRows, GATHER_MS);
    waits = true;
  }
  render();
}

const render = eachFrame(() => {
  for (const entry of rows.values()) {
    if (!entry.isNew) continue;
    entry.isNew = false;
    const { price, open } = entry.quote;
    const before = Number(entry.price.textContent || price);
    entry.price.textContent = price.toFixed(2);
    const percent = (price / open - 1) * 100;
    const [arrow, word, style] = percent > 0 ? ["▲", "up", "good"] : percent < 0 ? ["▼", "down", "bad"] : ["=", "unchanged", "muted"];
    entry.change.className = style;
    const sign = make("span", "", arrow);
    sign.setAttribute("aria-hidden", "true");
    entry.change.replaceChildren(make("span", "visually-hidden", word), sign, ` ${Math.abs(percent).toFixed(2)}%`);
    if (before !== price) flash(entry.price);
  }
});

/** The topics of what is checked. At first it is not known what there is. */
function watched() {
  const symbols = [...rows].filter(([, { box }]) => box.checked).map(([symbol]) => symbol);
  return symbols.length === rows.size ? ALL : symbols.map((symbol) => `/prices/${symbol}`);
}

/** Watches what is checked. */
function choose() {
  for (const entry of rows.values()) {
    entry.row.classList.toggle("unwatched", !entry.box.checked);
    if (!entry.box.checked) entry.isStale = true;
  }
  change();
  showTopics();
}

function showTopics() {
  topics.textContent = subscription.topics.join(" ") || "none";
}

/** Checks the first rows. @param {number} checked */
function check(checked) {
  [...rows.values()].forEach(({ box }, place) => (box.checked = place < checked));
  choose();
}

const rates = { produced: new Rate(), received: new Rate() };

/** @param {string} id @param {string} value @param {string} unit */
function figure(id, value, unit) {
  byId(id, HTMLElement).replaceChildren(value, " ", make("small", "", unit));
}

setInterval(() => {
  const now = performance.now() / 1000;
  const [made, got] = [rates.produced.add(now, produced), rates.received.add(now, received)];
  if (made === undefined || got === undefined) return;
  figure("produced", perSecond(made), "prices/s");
  figure("received", perSecond(got), "prices/s");
  figure("skipped", made > 0 ? `${Math.max(0, Math.round((1 - got / made) * 100))}` : "0", "%");
}, 1000);

function start() {
  requestedAt = performance.now();
  isFirst = true;
  rates.produced.clear();
  rates.received.clear();
  return read();
}

let subscription = start();
showTopics();
rate.addEventListener("change", () => {
  subscription.close();
  subscription = start();
});
byId("all", HTMLButtonElement).addEventListener("click", () => check(rows.size));
byId("few", HTMLButtonElement).addEventListener("click", () => check(FEW));
byId("none", HTMLButtonElement).addEventListener("click", () => check(0));
explain();
