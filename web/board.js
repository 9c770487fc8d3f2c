// The board: all emoji with their live totals, highest first.

import { draw } from "./chart.js";
import { byId, get, getJson, make } from "./dom.js";
import { Panel } from "./panel.js";
import { Stream } from "./stream.js";

/**
 * @typedef {object} Cell
 * @property {string} id
 * @property {string} search The text that a search matches.
 * @property {number} total
 * @property {HTMLButtonElement} button
 * @property {HTMLElement} totalElement
 * @property {number} flashedAt
 */

/** @typedef {{char: string, id: string, name: string, score: number}} Ranked */

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
function getOrCreateCell(id) {
  const cell = cells.get(id);
  if (cell) return cell;
  const button = make("button", "cell");
  button.type = "button";
  button.dataset.id = id;
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-controls", "panel");
  const totalElement = make("span", "total", "0");
  totalElement.dataset.total = "0";
  button.append(make("span", "char"), make("span", "visually-hidden"), totalElement);
  const created = { id, search: "", total: 0, button, totalElement, flashedAt: 0 };
  cells.set(id, created);
  renderName(created);
  grid.append(button);
  return created;
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
  /** @type {Ranked[]} */
  const rankings = (await getJson("/v1/rankings")) ?? [];
  for (const ranked of rankings) {
    rankedById.set(ranked.id, ranked);
    const cell = cells.get(ranked.id);
    if (cell) renderName(cell);
    // Approximate totals until the snapshot arrives.
    if (!hasSnapshot) setTotal(getOrCreateCell(ranked.id), ranked.score);
  }
  if (!hasSnapshot) renderSum();
}

/** @param {Cell} cell @param {number} total */
function setTotal(cell, total) {
  sum += total - cell.total;
  cell.total = total;
  cell.totalElement.dataset.total = String(total);
  cell.totalElement.textContent = numbers.format(total);
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

function renderSum() {
  byId("sum", HTMLElement).textContent = numbers.format(sum);
}

/** Renders all changes since the last frame: at most once per frame, regardless of the event rate. */
function render() {
  frame = 0;
  const now = performance.now();
  for (const [id, change] of changes) {
    const cell = getOrCreateCell(id);
    setTotal(cell, cell.total + change);
    flash(cell, now);
    if (!rankedById.has(id)) void loadNames();
  }
  if (changes.size) renderSum();
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
  /** @type {Record<string, number>} */
  const totals = JSON.parse(data);
  for (const cell of cells.values()) {
    if (!(cell.id in totals)) setTotal(cell, 0);
  }
  for (const [id, total] of Object.entries(totals)) setTotal(getOrCreateCell(id), total);
  renderSum();
  if (first || !isInteracting()) sortCells();
  if ([...cells.keys()].some((id) => !rankedById.has(id))) void loadNames();
}

/** Sorts the cells, moving only those in the wrong place. */
function sortCells() {
  const ordered = [...cells.values()].sort((a, b) => b.total - a.total);
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
  if (!isInteracting() && !document.hidden) sortCells();
}, SORT_INTERVAL_MS);

void loadNames();
new Stream("/subscribe/eps?snapshot=1", {
  events: { snapshot: applySnapshot, message: applyChange },
  onStateChange(state, at) {
    retryAt = at;
    document.documentElement.dataset.connection = state;
    byId("state", HTMLElement).textContent = state;
    renderActivity();
  },
});
