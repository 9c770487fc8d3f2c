// The board: the symbols with the highest totals, live.

import { Cells } from "./board-cells.js";
import { renderEmpty } from "./board-empty.js";
import { loadKeywords, matcher } from "./board-search.js";
import { SourceMonitor } from "./board-source.js";
import { isNamed, loadNames } from "./board-symbols.js";
import { Totals } from "./board-totals.js";
import { draw } from "./chart.js";
import { byId, CONNECTION } from "./dom.js";
import { Panel } from "./panel.js";
import { subscribe } from "./tallycast.js";
import { count, perSecond, Rate, RATES } from "./units.js";

const RANK_INTERVAL_MS = 2000;
const SPARKLINE_SECONDS = 60;
/** The title of the page while no symbol is open. */
const TITLE = document.title;
/** The key of the choice in the browser's storage. */
const RERANK = "tallycast.rerank";

const { dataset } = document.documentElement;
const search = byId("search", HTMLInputElement);
const rerank = byId("rerank", HTMLInputElement);
const totals = new Totals();
const cells = new Cells(totals);
const source = new SourceMonitor(renderState);
const rate = new Rate();
const panel = new Panel((opened, closed) => {
  for (const id of [opened, closed]) cells.get(id ?? "")?.button.setAttribute("aria-expanded", String(id === opened));
  renderPanelTotal();
  if (opened === undefined) {
    document.title = TITLE;
    // The search may have hidden the cell.
    const button = cells.get(closed ?? "")?.button;
    (button && !button.hidden ? button : search).focus();
  } else {
    // The cells have moved aside.
    cells.get(opened)?.button.scrollIntoView({ block: "nearest" });
  }
});

/** Changes since the last animation frame. @type {Map<string, number>} */
const changes = new Map();
let hasSnapshot = false;
let isNaming = false;
let frame = 0;
let retryAt = 0;
let lastTickAt = performance.now();
/** The rate in each of the last seconds; `undefined` where the page was not connected. @type {(number | undefined)[]} */
const rates = Array(SPARKLINE_SECONDS).fill(undefined);

async function requestNames() {
  if (isNaming) return;
  isNaming = true;
  for (const { id, score } of await loadNames()) {
    // Approximate totals until the snapshot arrives.
    if (!hasSnapshot) setTotal(id, score);
    cells.renderName(id);
    if (id === panel.id) panel.renderName();
  }
  isNaming = false;
  if (!hasSnapshot) renderTotals();
}

/** @param {string} id @param {number} value */
function setTotal(id, value) {
  totals.set(id, value);
  cells.renderTotal(id);
}

/** Renders what depends on several totals. */
function renderTotals() {
  byId("sum", HTMLElement).textContent = count(totals.sum);
  const isFirst = cells.size === 0;
  cells.addNew();
  if (isFirst) cells.rank(true);
  const left = totals.size - cells.size;
  byId("more", HTMLElement).textContent = left ? `${count(left)} more with lower totals are not shown.` : "";
  renderEmpty(hasSnapshot && totals.size === 0);
  renderPanelTotal();
}

function renderPanelTotal() {
  const { id } = panel;
  if (id === undefined) return;
  const rank = cells.get(id)?.parts.rank.textContent;
  panel.renderTotal(totals.has(id) ? [id, rank, count(totals.get(id))].filter(Boolean).join(" · ") : id);
}

/** Renders all changes since the last frame: at most once per frame, regardless of the rate. */
function render() {
  frame = 0;
  const now = performance.now();
  for (const [id, change] of changes) setTotal(id, totals.get(id) + change);
  if (changes.size) renderTotals();
  for (const id of changes.keys()) {
    cells.flash(id, now);
    if (cells.get(id) && !isNamed(id)) void requestNames();
  }
  changes.clear();
  if (cells.endFlashes(now)) frame ||= requestAnimationFrame(render);
}

/** @param {Record<string, number>} added */
function applyChange(added) {
  source.received();
  for (const [id, change] of Object.entries(added)) {
    changes.set(id, (changes.get(id) ?? 0) + change);
    totals.counted += Math.max(0, change);
  }
  frame ||= requestAnimationFrame(render);
}

/** @param {ReadonlyMap<string, number>} values */
function applySnapshot(values) {
  hasSnapshot = true;
  changes.clear();
  totals.replace(values);
  const isFirst = cells.size === 0;
  if (isFirst || !cells.isHeld()) cells.select();
  for (const id of cells.ids()) cells.renderTotal(id);
  renderTotals();
  cells.rank(isFirst);
  if ([...cells.ids()].some((id) => !isNamed(id))) void requestNames();
}

/**
 * Applies what the subscription knows of the totals: a snapshot, or what was added.
 * @param {import("./tallycast.js").Totals} subscribed
 * @param {Record<string, number> | null} added
 */
function applyTotals({ values, known, reason }, added) {
  if (!added) applySnapshot(values);
  else if (Object.keys(added).length) applyChange(added);
  // The state says when the page is not connected.
  if (reason !== "disconnected") renderNotice(known ? "" : `These totals may be wrong: ${reason}.`);
}

/** Shows why the totals are not exact, or hides it. @param {string} text */
function renderNotice(text) {
  const notice = byId("notice", HTMLElement);
  if (notice.textContent === text) return;
  notice.hidden = !text;
  notice.textContent = text;
}

/** The state of the page in words: live only if its source is, too. */
function stateText() {
  if (dataset.connection !== "live") return dataset.connection ?? "";
  return { available: "live", unavailable: "source down" }[dataset.source ?? ""] ?? "checking source";
}

/** Details of the state. */
function activityText() {
  const seconds = (/** @type {number} */ time) => `${Math.max(0, Math.round(time / 1000))} s`;
  if (dataset.connection === "reconnecting") {
    return retryAt <= Date.now() ? "retrying now" : `retrying in ${seconds(retryAt - Date.now())}`;
  }
  if (dataset.connection !== "live") return "";
  return source.lastEventAt ? `last count ${seconds(Date.now() - source.lastEventAt)} ago` : "no counts yet";
}

function renderState() {
  const [state, activity] = [byId("state", HTMLElement), byId("activity", HTMLElement)];
  // A status that is set is read out, even if it is the same.
  if (state.textContent !== stateText()) state.textContent = stateText();
  activity.textContent = activityText();
}

/** Whether the rate is known now: nothing is counted while the page is not connected. */
function isConnected() {
  return dataset.connection === "live" && hasSnapshot;
}

function tick() {
  const now = performance.now();
  const perTick = isConnected() ? rate.add(now / 1000, totals.counted) : undefined;
  if (!isConnected()) rate.clear();
  // In background tabs timers run less often than once per second.
  const elapsed = Math.min(SPARKLINE_SECONDS, Math.max(1, Math.round((now - lastTickAt) / 1000)));
  lastTickAt = now;
  for (let second = 0; second < elapsed; second += 1) rates.push(perTick);
  rates.splice(0, rates.length - SPARKLINE_SECONDS);
  byId("rate", HTMLElement).textContent = `${perTick === undefined ? "–" : perSecond(perTick)} ${RATES.counted.unit}`;
  draw(byId("sparkline", HTMLCanvasElement), rates);
  renderState();
}

function applySearch() {
  const shown = cells.filter(matcher(search.value));
  byId("no-matches", HTMLElement).textContent = shown || !cells.size ? "" : `Nothing matches “${search.value}”.`;
}

/** Ranks the cells, and moves them if the reader wants it and is not at one. */
function rankCells() {
  if (document.hidden) return;
  cells.rank(rerank.checked && !cells.isHeld());
  renderPanelTotal();
}

/** The choice of the live order; the page may have no storage. @param {boolean} [choice] */
function storedRerank(choice) {
  try {
    if (choice !== undefined) localStorage.setItem(RERANK, choice ? "on" : "off");
    return localStorage.getItem(RERANK) !== "off";
  } catch {
    return choice ?? true;
  }
}

search.addEventListener("focus", () => void loadKeywords().then(applySearch));
search.addEventListener("input", () => {
  applySearch();
  void loadKeywords().then(applySearch);
});

rerank.checked = storedRerank();
rerank.addEventListener("change", () => {
  storedRerank(rerank.checked);
  rankCells();
});

byId("grid", HTMLElement).addEventListener("click", (event) => {
  const cell = cells.ofElement(event.target);
  if (cell) panel.open(cell.id);
});

byId("rate-box", HTMLElement).title = RATES.counted.title;
byId("sparkline", HTMLCanvasElement).setAttribute("aria-label", "Counts per second over the last minute");

setInterval(tick, 1000);
setInterval(rankCells, RANK_INTERVAL_MS);
panel.start();
void requestNames();
subscribe(
  null,
  {
    totals: applyTotals,
    refused: ({ reason }) => renderNotice(`Not live: ${reason}.`),
    state({ state, retryAt: at = 0 }) {
      retryAt = at;
      if (state === "live") renderNotice("");
      else source.reset();
      dataset.connection = CONNECTION[state];
      renderState();
    },
  },
  { url: "/subscribe/eps", snapshot: true },
);
