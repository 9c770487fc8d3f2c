// The board: all emoji with their live totals, the most frequent first.

import { draw } from "./chart.js";
import { byId, get, make } from "./dom.js";
import { Panel } from "./panel.js";
import { Stream } from "./stream.js";

/**
 * @typedef {object} Cell
 * @property {string} id
 * @property {string} search What a search looks in.
 * @property {number} total
 * @property {HTMLButtonElement} button
 * @property {HTMLElement} number
 * @property {HTMLElement} flash
 * @property {number} flashedAt
 */

/** @typedef {{char: string, id: string, name: string, score: number}} Ranked */

const RANK_EVERY_MS = 2000;
/** A cell that was hit again sooner goes on with the flash it has. */
const FLASH_MS = 450;
const SPARKLINE_SECONDS = 60;
/** After this time without an event the source is asked for, and again. */
const SILENCE_MS = 3000;
/** Names of new emoji are asked for at most this often. */
const NAMES_EVERY_MS = 5000;

const numbers = new Intl.NumberFormat("en");
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const grid = byId("grid", HTMLElement);
const search = byId("search", HTMLInputElement);
const panel = new Panel();

/** @type {Map<string, Cell>} */
const cells = new Map();
/** Changes since the last animation frame. @type {Map<string, number>} */
const changes = new Map();
/** @type {Map<string, Ranked>} */
const known = new Map();
let namesAskedAt = -Infinity;
let frame = 0;
let sum = 0;
let eventsThisSecond = 0;
let lastEventAt = 0;
let sourceAskedAt = 0;
let retryAt = 0;
const rates = Array(SPARKLINE_SECONDS).fill(0);

/**
 * The character of an ID that the rankings do not name: its code points, or the ID itself.
 * @param {string} id
 */
function character(id) {
  const points = id.split("-");
  if (!points.every((point) => /^[0-9A-F]{4,6}$/.test(point) && parseInt(point, 16) <= 0x10ffff)) return id;
  return String.fromCodePoint(...points.map((point) => parseInt(point, 16)));
}

/** @param {string} id */
function cellOf(id) {
  const cell = cells.get(id);
  if (cell) return cell;
  const button = make("button", "cell");
  button.type = "button";
  button.dataset.id = id;
  const flash = make("span", "flash");
  const number = make("span", "total", "0");
  number.dataset.total = "0";
  button.append(make("span", "char"), make("span", "visually-hidden"), number, flash);
  const made = { id, search: "", total: 0, button, number, flash, flashedAt: 0 };
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
  cell.search = `${title} ${id.toLowerCase()} ${char}`;
  filter(cell);
}

async function askNames() {
  if (performance.now() - namesAskedAt < NAMES_EVERY_MS) return;
  namesAskedAt = performance.now();
  // Without names there are still characters and totals; the next new emoji asks again.
  const response = await get("/v1/rankings");
  if (!response?.ok) return;
  /** @type {Ranked[]} */
  const rankings = await response.json();
  for (const ranked of rankings) {
    known.set(ranked.id, ranked);
    const cell = cells.get(ranked.id);
    if (cell) name(cell);
  }
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
  if (calm.matches || now - cell.flashedAt < FLASH_MS / 3) return;
  cell.flashedAt = now;
  cell.flash.animate({ opacity: [0.45, 0] }, FLASH_MS);
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
  changes.clear();
  byId("sum", HTMLElement).textContent = numbers.format(sum);
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
  changes.clear();
  /** @type {Record<string, number>} */
  const totals = JSON.parse(data);
  for (const cell of cells.values()) {
    if (!(cell.id in totals)) setTotal(cell, 0);
  }
  for (const [id, total] of Object.entries(totals)) setTotal(cellOf(id), total);
  byId("sum", HTMLElement).textContent = numbers.format(sum);
  rank();
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

/** @param {Cell} cell */
function filter(cell) {
  const wanted = search.value.trim().toLowerCase();
  cell.button.hidden = !cell.search.includes(wanted);
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
  if (connection === "reconnecting") return `next try in ${seconds(retryAt - Date.now())} s`;
  if (connection === "connecting") return "";
  const age = lastEventAt ? `last event ${seconds(Date.now() - lastEventAt)} s ago` : "no event yet";
  return source === "away" ? `the source is away, ${age}` : age;
}

function everySecond() {
  rates.push(eventsThisSecond);
  rates.shift();
  byId("rate", HTMLElement).textContent = numbers.format(eventsThisSecond);
  eventsThisSecond = 0;
  draw(byId("sparkline", HTMLCanvasElement), rates);
  byId("age", HTMLElement).textContent = news();
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
  // What the pointer or the focus is on must not move away.
  if (!grid.matches(":hover, :focus-within") && !document.hidden) rank();
}, RANK_EVERY_MS);

void askNames().then(() => {
  new Stream("/subscribe/eps?snapshot=1", {
    events: { snapshot: takeSnapshot, message: takeChange },
    changed(state, at) {
      retryAt = at;
      document.documentElement.dataset.connection = state;
      byId("state", HTMLElement).textContent = state;
    },
  });
});
