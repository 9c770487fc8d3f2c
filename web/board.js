// The board: all emoji with their live totals, the most frequent first.

import { draw } from "./chart.js";
import { byId, get, getJson, make } from "./dom.js";
import { Panel } from "./panel.js";
import { Stream } from "./stream.js";

/**
 * @typedef {object} Cell
 * @property {string} id
 * @property {string} search What a search looks in.
 * @property {number} total
 * @property {HTMLButtonElement} button
 * @property {HTMLElement} number
 * @property {number} flashedAt
 */

/** @typedef {{char: string, id: string, name: string, score: number}} Ranked */

const RANK_EVERY_MS = 2000;
const FLASH_MS = 200;
/** A cell that is hit again sooner does not flash again: fewer than three a second (WCAG 2.3.1). */
const FLASH_EVERY_MS = 400;
const SPARKLINE_SECONDS = 60;
/** After this time without an event the source is asked for, and again. */
const SILENCE_MS = 3000;
/** Names of new emoji are asked for at most this often. */
const NAMES_EVERY_MS = 5000;

const numbers = new Intl.NumberFormat("en");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const hovers = matchMedia("(hover: hover)");

const grid = byId("grid", HTMLElement);
const search = byId("search", HTMLInputElement);
const panel = new Panel();

/** @type {Map<string, Cell>} */
const cells = new Map();
/** Changes since the last animation frame. @type {Map<string, number>} */
const changes = new Map();
/** @type {Map<string, Ranked>} */
const known = new Map();
/** The cells whose flash is not over. @type {Set<Cell>} */
const lit = new Set();
let exact = false;
let namesAskedAt = -Infinity;
let frame = 0;
let sum = 0;
let eventsThisSecond = 0;
let lastEventAt = 0;
let sourceAskedAt = 0;
let retryAt = 0;
let secondAt = Date.now();
/** @type {number[]} */
const rates = Array(SPARKLINE_SECONDS).fill(0);

/**
 * The character of an ID that the rankings do not name: its code points, or the ID itself.
 * @param {string} id
 */
function character(id) {
  const points = id.split("-");
  const values = points.map((point) => (/^[0-9A-F]{4,6}$/.test(point) ? parseInt(point, 16) : Infinity));
  // Halves of surrogate pairs are no characters.
  if (values.some((value) => value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))) return id;
  return String.fromCodePoint(...values);
}

/** @param {string} id */
function cellOf(id) {
  const cell = cells.get(id);
  if (cell) return cell;
  const button = make("button", "cell");
  button.type = "button";
  button.dataset.id = id;
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-controls", "panel");
  const number = make("span", "total", "0");
  number.dataset.total = "0";
  button.append(make("span", "char"), make("span", "visually-hidden"), number);
  const made = { id, search: "", total: 0, button, number, flashedAt: 0 };
  cells.set(id, made);
  name(made);
  grid.append(button);
  return made;
}

/** Writes what is known of a cell's emoji. @param {Cell} cell */
function name(cell) {
  const { id, button } = cell;
  const ranked = known.get(id);
  const char = ranked?.char ?? character(id);
  const title = ranked?.name.toLowerCase() ?? id;
  const [charElement, nameElement] = button.children;
  if (charElement) {
    charElement.textContent = char;
    charElement.setAttribute("aria-hidden", "true");
  }
  if (nameElement) nameElement.textContent = title;
  button.title = title;
  cell.search = searchable(`${title} ${id} ${char}`);
  filter(cell);
}

async function askNames() {
  if (performance.now() - namesAskedAt < NAMES_EVERY_MS) return;
  namesAskedAt = performance.now();
  // Without names there are still characters and totals; the next new emoji asks again.
  /** @type {Ranked[]} */
  const rankings = (await getJson("/v1/rankings")) ?? [];
  for (const ranked of rankings) {
    known.set(ranked.id, ranked);
    const cell = cells.get(ranked.id);
    if (cell) name(cell);
    // Until the stream has told the exact totals, these are better than none.
    if (!exact) setTotal(cellOf(ranked.id), ranked.score);
  }
  if (!exact) showSum();
}

/** @param {Cell} cell @param {number} total */
function setTotal(cell, total) {
  sum += total - cell.total;
  cell.total = total;
  cell.number.dataset.total = String(total);
  cell.number.textContent = numbers.format(total);
}

/** @param {Cell} cell @param {number} now */
function flash(cell, now) {
  if (calm.matches || now - cell.flashedAt < FLASH_EVERY_MS) return;
  cell.flashedAt = now;
  cell.button.classList.add("hit");
  lit.add(cell);
}

/**
 * Ends flashes that are over. They go on and off: hundreds of animations at once take more time than all the rest.
 * @param {number} now
 */
function unflash(now) {
  for (const cell of lit) {
    if (now - cell.flashedAt < FLASH_MS) continue;
    cell.button.classList.remove("hit");
    lit.delete(cell);
  }
  if (lit.size) frame ||= requestAnimationFrame(show);
}

function showSum() {
  byId("sum", HTMLElement).textContent = numbers.format(sum);
}

/** Shows all changes since the last frame: however many events come, a frame has one turn. */
function show() {
  frame = 0;
  const now = performance.now();
  for (const [id, change] of changes) {
    const cell = cellOf(id);
    setTotal(cell, cell.total + change);
    flash(cell, now);
    if (!known.has(id)) void askNames();
  }
  if (changes.size) showSum();
  changes.clear();
  unflash(now);
}

/** @param {string} data */
function takeChange(data) {
  lastEventAt = Date.now();
  document.documentElement.dataset.source = "there";
  for (const [id, count] of Object.entries(JSON.parse(data))) {
    changes.set(id, (changes.get(id) ?? 0) + count);
    eventsThisSecond += Math.max(0, count);
  }
  frame ||= requestAnimationFrame(show);
}

/** @param {string} data */
function takeSnapshot(data) {
  lastEventAt = Date.now();
  exact = true;
  changes.clear();
  const first = cells.size === 0;
  /** @type {Record<string, number>} */
  const totals = JSON.parse(data);
  for (const cell of cells.values()) {
    if (!(cell.id in totals)) setTotal(cell, 0);
  }
  for (const [id, total] of Object.entries(totals)) setTotal(cellOf(id), total);
  showSum();
  if (first || !inUse()) rank();
  if ([...cells.keys()].some((id) => !known.has(id))) void askNames();
}

/** Puts the cells in order, moving only those that are out of it. */
function rank() {
  const ordered = [...cells.values()].sort((a, b) => b.total - a.total);
  /** @type {Element | null} */
  let place = grid.firstElementChild;
  for (const { button } of ordered) {
    if (button === place) place = place.nextElementSibling;
    else grid.insertBefore(button, place);
  }
}

/** Whether the pointer or the focus is on a cell, which must then not move away. A finger leaves `:hover` behind. */
function inUse() {
  return grid.matches(hovers.matches ? ":hover, :focus-within" : ":active, :focus-within");
}

/**
 * A text without its variants: `:heart_eyes:` and `heart-eyes`, emoji with and without a variation selector.
 * @param {string} text
 */
function searchable(text) {
  return text.toLowerCase().replace(/\uFE0F/g, "").replace(/[\s:_-]+/g, " ");
}

/** @param {Cell} cell */
function filter(cell) {
  cell.button.hidden = !cell.search.includes(searchable(search.value).trim());
}

/** A source that is silent may be away: the stream stands, but nothing comes. Asked only then. */
async function askSource() {
  if (Date.now() - Math.max(lastEventAt, sourceAskedAt) < SILENCE_MS) return;
  sourceAskedAt = Date.now();
  const response = await get("/v1/status");
  if (response) document.documentElement.dataset.source = response.ok ? "there" : "away";
}

/** What there is to say of the stream beside its state. */
function news() {
  const { connection, source } = document.documentElement.dataset;
  const seconds = (/** @type {number} */ time) => Math.max(0, Math.round(time / 1000));
  if (connection === "reconnecting" && retryAt <= Date.now()) return "trying";
  if (connection === "reconnecting") return `next try in ${seconds(retryAt - Date.now())} s`;
  if (connection === "connecting") return "";
  const age = lastEventAt ? `last event ${seconds(Date.now() - lastEventAt)} s ago` : "no event yet";
  return source === "away" ? `the source is away, ${age}` : age;
}

function showNews() {
  byId("age", HTMLElement).textContent = news();
}

function everySecond() {
  // In the background there are fewer turns than one a second.
  const passed = Math.max(1, Math.round((Date.now() - secondAt) / 1000));
  secondAt = Date.now();
  const rate = eventsThisSecond / passed;
  eventsThisSecond = 0;
  for (let second = 0; second < Math.min(passed, SPARKLINE_SECONDS); second += 1) rates.push(rate);
  rates.splice(0, rates.length - SPARKLINE_SECONDS);
  byId("rate", HTMLElement).textContent = numbers.format(Math.round(rate));
  draw(byId("sparkline", HTMLCanvasElement), rates);
  showNews();
  void askSource();
}

search.addEventListener("input", () => {
  cells.forEach(filter);
  byId("nothing", HTMLElement).hidden = [...cells.values()].some((cell) => !cell.button.hidden);
});

grid.addEventListener("click", (event) => {
  const button = event.target instanceof Element ? event.target.closest("button") : null;
  const cell = cells.get(button?.dataset.id ?? "");
  if (cell) panel.open(cell.id, known.get(cell.id)?.char ?? character(cell.id), cell.button);
});

setInterval(everySecond, 1000);
setInterval(() => {
  if (!inUse() && !document.hidden) rank();
}, RANK_EVERY_MS);

void askNames();
new Stream("/subscribe/eps?snapshot=1", {
  events: { snapshot: takeSnapshot, message: takeChange },
  changed(state, at) {
    retryAt = at;
    document.documentElement.dataset.connection = state;
    byId("state", HTMLElement).textContent = state;
    showNews();
  },
});
