// The board: the emoji with the highest totals, live.

import { draw } from "./chart.js";
import { byId, get, getJson, make } from "./dom.js";
import { Panel } from "./panel.js";
import { Stream } from "./stream.js";

/**
 * @typedef {object} Cell
 * @property {string} id
 * @property {string} search The text that a search matches.
 * @property {HTMLButtonElement} button
 * @property {HTMLElement} totalElement
 * @property {number} flashedAt
 */

/** @typedef {{char: string, id: string, name: string, score: number}} Ranked */

/** The emoji with the highest totals have cells; more would make the page slow. */
const MAX_CELLS = 2000;
/** Emoji whose totals are kept. Further ones count in the sum only. */
const MAX_KEYS = 200000;
const SORT_INTERVAL_MS = 2000;
const FLASH_MS = 200;
/** A cell does not flash more often than this: less than three times per second (WCAG 2.3.1). */
const FLASH_INTERVAL_MS = 400;
const SPARKLINE_SECONDS = 60;
/** The state of the source is requested after this time without events, and again at this interval. */
const SOURCE_CHECK_MS = 3000;
/** The minimum interval between requests for the names of new emoji. */
const NAMES_INTERVAL_MS = 5000;

const numbers = new Intl.NumberFormat("en");
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const canHover = matchMedia("(hover: hover)");

const grid = byId("grid", HTMLElement);
const search = byId("search", HTMLInputElement);
const panel = new Panel();

/** Maps, not objects: an ID may be the name of a property of every object. @type {Map<string, number>} */
const totals = new Map();
/** @type {Map<string, Cell>} */
const cells = new Map();
/** Changes since the last animation frame. @type {Map<string, number>} */
const changes = new Map();
/** @type {Map<string, Ranked>} */
const rankedById = new Map();
/** The cells that are flashing. @type {Set<Cell>} */
const flashing = new Set();
let hasSnapshot = false;
let namesRequestedAt = -Infinity;
let frame = 0;
let sum = 0;
/** An emoji without a cell may have a higher total than one with a cell. */
let selectionOutdated = false;
/** The lowest total of a cell when the cells were last selected. */
let lowestSelected = 0;
let eventsThisSecond = 0;
let lastEventAt = 0;
let sourceCheckedAt = 0;
let retryAt = 0;
let lastTickAt = Date.now();
/** @type {number[]} */
const rates = Array(SPARKLINE_SECONDS).fill(0);

/**
 * The character of an ID that is not in the rankings: its code points, or the ID itself.
 * @param {string} id
 */
function character(id) {
  const points = id.split("-");
  const values = points.map((point) => (/^[0-9A-F]{4,6}$/.test(point) ? parseInt(point, 16) : Infinity));
  // Surrogates are not characters.
  if (values.some((value) => value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))) return id;
  return String.fromCodePoint(...values);
}

/** @param {string} id */
function createCell(id) {
  const button = make("button", "cell");
  button.type = "button";
  button.dataset.id = id;
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-controls", "panel");
  const totalElement = make("span", "total", "0");
  totalElement.dataset.total = "0";
  button.append(make("span", "char"), make("span", "visually-hidden"), totalElement);
  const created = { id, search: "", button, totalElement, flashedAt: 0 };
  cells.set(id, created);
  renderName(created);
  renderTotal(created);
  grid.append(button);
  return created;
}

/** The IDs with the highest totals. */
function highest() {
  if (totals.size <= MAX_CELLS) return new Set(totals.keys());
  const values = Float64Array.from(totals.values()).sort();
  lowestSelected = values[values.length - MAX_CELLS] ?? 0;
  const selected = [...totals].filter(([, value]) => value > lowestSelected);
  for (const entry of totals) {
    if (selected.length === MAX_CELLS) break;
    if (entry[1] === lowestSelected) selected.push(entry);
  }
  return new Set(selected.map(([id]) => id));
}

/** Gives the emoji with the highest totals cells, and takes them from the others. */
function selectCells() {
  selectionOutdated = false;
  const selected = highest();
  for (const cell of cells.values()) {
    if (!selected.has(cell.id)) removeCell(cell);
  }
  for (const id of selected) cells.get(id) ?? createCell(id);
  renderMore();
}

/** @param {Cell} cell */
function removeCell(cell) {
  cells.delete(cell.id);
  flashing.delete(cell);
  cell.button.remove();
}

/** @param {string} id */
function total(id) {
  return totals.get(id) ?? 0;
}

function renderMore() {
  const more = byId("more", HTMLElement);
  more.hidden = totals.size === cells.size;
  more.textContent = `${numbers.format(totals.size - cells.size)} more with lower totals are not shown.`;
}

/** Shows the character and name of a cell's emoji. @param {Cell} cell */
function renderName(cell) {
  const { id, button } = cell;
  const ranked = rankedById.get(id);
  const char = ranked?.char ?? character(id);
  const title = ranked?.name.toLowerCase() ?? id;
  const [charElement, nameElement] = button.children;
  if (charElement) {
    charElement.textContent = char;
    charElement.setAttribute("aria-hidden", "true");
  }
  if (nameElement) nameElement.textContent = title;
  button.title = title;
  cell.search = normalise(`${title} ${id} ${char}`);
  filter(cell);
}

async function loadNames() {
  if (performance.now() - namesRequestedAt < NAMES_INTERVAL_MS) return;
  namesRequestedAt = performance.now();
  // If this fails, characters and totals are shown without names, and the next new emoji repeats the request.
  /** @type {Ranked[] | undefined} */
  const rankings = await getJson("/v1/rankings");
  if (!rankings) return;
  rankedById.clear();
  for (const ranked of rankings) {
    rankedById.set(ranked.id, ranked);
    const cell = cells.get(ranked.id);
    if (cell) renderName(cell);
    // Approximate totals until the snapshot arrives.
    if (!hasSnapshot) setTotal(ranked.id, ranked.score);
  }
  if (!hasSnapshot) renderTotals();
}

/** @param {string} id @param {number} value */
function setTotal(id, value) {
  const before = totals.get(id);
  sum += value - (before ?? 0);
  if (before === undefined && totals.size === MAX_KEYS) return;
  totals.set(id, value);
  const cell = cells.get(id);
  if (cell) renderTotal(cell);
  selectionOutdated ||= cell ? value < lowestSelected : value > lowestSelected || totals.size <= MAX_CELLS;
}

/** @param {Cell} cell */
function renderTotal(cell) {
  cell.totalElement.dataset.total = String(total(cell.id));
  cell.totalElement.textContent = numbers.format(total(cell.id));
}

/** @param {Cell} cell @param {number} now */
function flash(cell, now) {
  if (reducedMotion.matches || now - cell.flashedAt < FLASH_INTERVAL_MS) return;
  cell.flashedAt = now;
  cell.button.classList.add("updated");
  flashing.add(cell);
}

/**
 * Removes expired flashes. They switch without animation: hundreds of animations at once are too expensive.
 * @param {number} now
 */
function endFlashes(now) {
  for (const cell of flashing) {
    if (now - cell.flashedAt < FLASH_MS) continue;
    cell.button.classList.remove("updated");
    flashing.delete(cell);
  }
  if (flashing.size) frame ||= requestAnimationFrame(render);
}

/** Renders the sum, and cells for new emoji while there is room for all. */
function renderTotals() {
  byId("sum", HTMLElement).textContent = numbers.format(sum);
  if (selectionOutdated && totals.size <= MAX_CELLS) selectCells();
  else renderMore();
}

/** Renders all changes since the last frame: at most once per frame, regardless of the event rate. */
function render() {
  frame = 0;
  const now = performance.now();
  for (const [id, change] of changes) {
    setTotal(id, total(id) + change);
  }
  if (changes.size) renderTotals();
  for (const id of changes.keys()) {
    const cell = cells.get(id);
    if (!cell) continue;
    flash(cell, now);
    if (!rankedById.has(id)) void loadNames();
  }
  changes.clear();
  endFlashes(now);
}

/** @param {string} data */
function applyChange(data) {
  lastEventAt = Date.now();
  document.documentElement.dataset.source = "available";
  for (const [id, count] of Object.entries(JSON.parse(data))) {
    changes.set(id, (changes.get(id) ?? 0) + count);
    eventsThisSecond += Math.max(0, count);
  }
  frame ||= requestAnimationFrame(render);
}

/** @param {string} data */
function applySnapshot(data) {
  lastEventAt = Date.now();
  hasSnapshot = true;
  changes.clear();
  const first = cells.size === 0;
  /** @type {Map<string, number>} */
  const snapshot = new Map(Object.entries(JSON.parse(data)));
  for (const id of totals.keys()) {
    if (!snapshot.has(id)) setTotal(id, 0);
  }
  for (const [id, value] of snapshot) setTotal(id, value);
  // Including emoji whose totals are not kept.
  sum = 0;
  for (const value of snapshot.values()) sum += value;
  if (first || !isInteracting()) selectCells();
  renderTotals();
  if (first || !isInteracting()) sortCells();
  if ([...cells.keys()].some((id) => !rankedById.has(id))) void loadNames();
}

/** Shows whether the totals are exact. @param {string} data */
function applyTotalsState(data) {
  const { known, reason } = JSON.parse(data);
  renderNotice(known ? "" : `These totals may be wrong: ${reason}.`);
}

/** Shows why the totals are not exact, or hides it. @param {string} text */
function renderNotice(text) {
  const notice = byId("notice", HTMLElement);
  notice.hidden = !text;
  notice.textContent = text;
}

/** Sorts the cells, moving only those in the wrong place. */
function sortCells() {
  const ordered = [...cells.values()].sort((a, b) => total(b.id) - total(a.id));
  /** @type {Element | null} */
  let place = grid.firstElementChild;
  for (const { button } of ordered) {
    if (button === place) place = place.nextElementSibling;
    else grid.insertBefore(button, place);
  }
}

/** Whether the pointer or the focus is on a cell, which must not move then. Touch screens keep `:hover` after a tap. */
function isInteracting() {
  return grid.matches(canHover.matches ? ":hover, :focus-within" : ":active, :focus-within");
}

/**
 * Normalises a text for searching: `:heart_eyes:` equals `heart-eyes`, and variation selectors are ignored.
 * @param {string} text
 */
function normalise(text) {
  return text.toLowerCase().replace(/\uFE0F/g, "").replace(/[\s:_-]+/g, " ");
}

/** @param {Cell} cell */
function filter(cell) {
  cell.button.hidden = !cell.search.includes(normalise(search.value).trim());
}

/** Checks the source after a period without events: the stream stays open while the source is unavailable. */
async function checkSource() {
  if (Date.now() - Math.max(lastEventAt, sourceCheckedAt) < SOURCE_CHECK_MS) return;
  sourceCheckedAt = Date.now();
  const response = await get("/v1/status");
  if (response) document.documentElement.dataset.source = response.ok ? "available" : "unavailable";
}

/** Details of the connection state. */
function activityText() {
  const { connection, source } = document.documentElement.dataset;
  const seconds = (/** @type {number} */ time) => Math.max(0, Math.round(time / 1000));
  if (connection === "reconnecting" && retryAt <= Date.now()) return "retrying now";
  if (connection === "reconnecting") return `retrying in ${seconds(retryAt - Date.now())} s`;
  if (connection === "connecting") return "";
  const age = lastEventAt ? `last event ${seconds(Date.now() - lastEventAt)} s ago` : "no events yet";
  return source === "unavailable" ? `source unavailable, ${age}` : age;
}

function renderActivity() {
  byId("activity", HTMLElement).textContent = activityText();
}

function tick() {
  // In background tabs timers run less often than once per second.
  const elapsedSeconds = Math.max(1, Math.round((Date.now() - lastTickAt) / 1000));
  lastTickAt = Date.now();
  const rate = eventsThisSecond / elapsedSeconds;
  eventsThisSecond = 0;
  for (let second = 0; second < Math.min(elapsedSeconds, SPARKLINE_SECONDS); second += 1) rates.push(rate);
  rates.splice(0, rates.length - SPARKLINE_SECONDS);
  byId("rate", HTMLElement).textContent = numbers.format(Math.round(rate));
  draw(byId("sparkline", HTMLCanvasElement), rates);
  renderActivity();
  void checkSource();
}

search.addEventListener("input", () => {
  cells.forEach(filter);
  byId("no-matches", HTMLElement).hidden = [...cells.values()].some((cell) => !cell.button.hidden);
});

grid.addEventListener("click", (event) => {
  const button = event.target instanceof Element ? event.target.closest("button") : null;
  const cell = cells.get(button?.dataset.id ?? "");
  if (cell) panel.open(cell.id, rankedById.get(cell.id)?.char ?? character(cell.id), cell.button);
});

setInterval(tick, 1000);
setInterval(() => {
  if (isInteracting() || document.hidden) return;
  if (selectionOutdated) selectCells();
  sortCells();
}, SORT_INTERVAL_MS);

void loadNames();
new Stream("/subscribe/eps?snapshot=1", {
  events: { snapshot: applySnapshot, message: applyChange, totals: applyTotalsState },
  onOpen: () => renderNotice(""),
  onRefused: (_status, reason) => renderNotice(`Not live: ${reason}.`),
  onStateChange(state, at) {
    retryAt = at;
    document.documentElement.dataset.connection = state;
    byId("state", HTMLElement).textContent = state;
    renderActivity();
  },
});
