// The cells of the board: one for each of the symbols with the highest totals, in the order of their ranks.

import { back, watchTheme } from "./board-glyphs.js";
import { characterOf, nameOf } from "./board-symbols.js";
import { byId, make } from "./dom.js";
import { count } from "./units.js";

/**
 * @typedef {object} Cell
 * @property {string} id
 * @property {HTMLButtonElement} button
 * @property {Record<"char" | "total" | "name" | "rank" | "id", HTMLElement>} parts
 * @property {number} flashedAt
 */

/** The symbols with the highest totals have cells; more would make the page slow. */
const MAX_CELLS = 2000;
const FLASH_MS = 200;
/** A cell does not flash more often than this: less than three times per second (WCAG 2.3.1). */
const FLASH_INTERVAL_MS = 400;
const MOVE_MS = 350;
/** A total of more characters than this is set smaller. */
const LONG_TOTAL = 13;

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const canHover = matchMedia("(hover: hover)");

export class Cells {
  #grid = byId("grid", HTMLElement);
  #totals;
  /** @type {Map<string, Cell>} */
  #cells = new Map();
  /** The cells that are flashing. @type {Set<Cell>} */
  #flashing = new Set();
  /** A symbol without a cell may have a higher total than one with a cell. */
  #outdated = false;
  /** The lowest total of a cell when the cells were last selected. */
  #lowest = -Infinity;
  /** The cell that the Tab key reaches. @type {Cell | undefined} */
  #tabStop;
  /** Whether a symbol matches the search. @type {(id: string) => boolean} */
  #matches = () => true;

  /** @param {import("./board-totals.js").Totals} totals */
  constructor(totals) {
    this.#totals = totals;
    this.#grid.addEventListener("keydown", (event) => this.#moveFocus(event));
    this.#grid.addEventListener("focusin", (event) => {
      const cell = this.ofElement(event.target);
      if (cell) this.#setTabStop(cell);
    });
    watchTheme(() => [...this.#cells.values()].map((cell) => cell.parts.char));
  }

  get size() {
    return this.#cells.size;
  }

  ids() {
    return this.#cells.keys();
  }

  /** @param {string} id */
  get(id) {
    return this.#cells.get(id);
  }

  /** The cell that an element is part of. @param {EventTarget | null} target */
  ofElement(target) {
    const button = target instanceof Element ? target.closest("button") : null;
    return this.#cells.get(button?.dataset.id ?? "");
  }

  /** Whether the pointer or the focus is on a cell, which must not move then. Touch screens keep `:hover` after a tap. */
  isHeld() {
    return this.#grid.matches(canHover.matches ? ":hover, :focus-within" : ":active, :focus-within");
  }

  /** Shows a total that has changed. @param {string} id */
  renderTotal(id) {
    const value = this.#totals.get(id);
    const cell = this.#cells.get(id);
    if (cell) {
      cell.parts.total.dataset.total = String(value);
      const text = count(value);
      cell.parts.total.textContent = text;
      cell.parts.total.classList.toggle("long", text.length > LONG_TOTAL);
    }
    const belongs = value > this.#lowest || this.#totals.size <= MAX_CELLS;
    this.#outdated ||= cell ? value < this.#lowest : belongs && this.#totals.has(id);
  }

  /** Gives new symbols cells while there is room for all. */
  addNew() {
    if (this.#outdated && this.#totals.size <= MAX_CELLS) this.select();
  }

  /** Gives the symbols with the highest totals cells, and takes them from the others. */
  select() {
    this.#outdated = false;
    const { ids, lowest } = this.#totals.highest(MAX_CELLS);
    this.#lowest = lowest;
    for (const cell of this.#cells.values()) {
      if (!ids.has(cell.id)) this.#remove(cell);
    }
    const added = [...ids].filter((id) => !this.#cells.has(id)).sort(this.#totals.compare);
    this.#grid.append(...added.map((id) => this.#create(id).button));
    this.#repairTabStop();
  }

  /** Shows the ranks, and moves the cells to their places, if they may `move`. @param {boolean} move */
  rank(move) {
    if (move && this.#outdated) this.select();
    const ordered = [...this.#cells.values()].sort((a, b) => this.#totals.compare(a.id, b.id));
    ordered.forEach(({ parts }, index) => {
      const rank = `#${index + 1}`;
      if (parts.rank.textContent !== rank) parts.rank.textContent = rank;
    });
    if (move) this.#order(ordered);
  }

  /** Moves only the cells that are in the wrong place. @param {Cell[]} ordered */
  #order(ordered) {
    /** @type {Element | null} */
    let place = this.#grid.firstElementChild;
    let misplaced = false;
    for (const { button } of ordered) {
      if (button !== place) misplaced = true;
      place = place?.nextElementSibling ?? null;
    }
    if (!misplaced) return;
    const before = reducedMotion.matches ? undefined : this.#places();
    place = this.#grid.firstElementChild;
    for (const { button } of ordered) {
      if (button === place) place = place.nextElementSibling;
      else this.#grid.insertBefore(button, place);
    }
    if (before) this.#animate(before);
    this.#repairTabStop();
  }

  /** The places of the cells that are in view. */
  #places() {
    /** @type {Map<Cell, DOMRect>} */
    const places = new Map();
    for (const cell of this.#cells.values()) {
      const place = cell.button.getBoundingClientRect();
      if (place.height && place.bottom > 0 && place.top < innerHeight) places.set(cell, place);
    }
    return places;
  }

  /** Has the cells glide to their new places, and those that come from out of view appear. @param {Map<Cell, DOMRect>} before */
  #animate(before) {
    for (const [cell, to] of this.#places()) {
      const from = before.get(cell);
      const [x, y] = from ? [from.left - to.left, from.top - to.top] : [0, 0];
      if (from && !x && !y) continue;
      const start = from ? { transform: `translate(${x}px, ${y}px)` } : { opacity: 0 };
      cell.button.animate([start, {}], { duration: MOVE_MS, easing: "ease-in-out" });
    }
  }

  /** Shows the name and the character of a symbol. @param {string} id */
  renderName(id) {
    const cell = this.#cells.get(id);
    if (!cell) return;
    const { button, parts } = cell;
    const [name, character] = [nameOf(id), characterOf(id)];
    parts.char.textContent = character;
    parts.char.classList.toggle("text", character === id);
    back(parts.char);
    parts.name.textContent = name;
    // What is its own name, is named once.
    parts.name.hidden = name === id;
    button.title = name === id ? id : `${name} (${id})`;
    button.hidden = !this.#matches(id);
  }

  /** Shows only matching cells. Returns the number of these. @param {(id: string) => boolean} matches */
  filter(matches) {
    this.#matches = matches;
    let shown = 0;
    for (const { id, button } of this.#cells.values()) {
      button.hidden = !matches(id);
      if (!button.hidden) shown += 1;
    }
    this.#repairTabStop();
    return shown;
  }

  /** Flashes a cell. @param {string} id @param {number} now */
  flash(id, now) {
    const cell = this.#cells.get(id);
    if (!cell || reducedMotion.matches || now - cell.flashedAt < FLASH_INTERVAL_MS) return;
    cell.flashedAt = now;
    cell.button.classList.add("updated");
    this.#flashing.add(cell);
  }

  /**
   * Ends flashes that are over. They switch without animation: hundreds of animations at once are too expensive. Returns
   * whether others go on.
   * @param {number} now
   */
  endFlashes(now) {
    for (const cell of this.#flashing) {
      if (now - cell.flashedAt < FLASH_MS) continue;
      cell.button.classList.remove("updated");
      this.#flashing.delete(cell);
    }
    return this.#flashing.size > 0;
  }

  /** @param {string} id */
  #create(id) {
    const button = make("button", "cell");
    button.type = "button";
    button.tabIndex = -1;
    button.dataset.id = id;
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-controls", "panel");
    const parts = {
      char: make("span", "char"),
      name: make("span", "name"),
      total: make("span", "total"),
      rank: make("span", "rank"),
      id: make("span", "id", id),
    };
    parts.char.setAttribute("aria-hidden", "true");
    // With spaces, so that screen readers do not read them as one word.
    button.append(...Object.values(parts).flatMap((part) => [part, " "]));
    this.#cells.set(id, { id, button, parts, flashedAt: 0 });
    this.renderName(id);
    this.renderTotal(id);
    return { button };
  }

  /** @param {Cell} cell */
  #remove(cell) {
    this.#cells.delete(cell.id);
    this.#flashing.delete(cell);
    cell.button.remove();
  }

  /** @param {Cell | undefined} cell */
  #setTabStop(cell) {
    if (this.#tabStop) this.#tabStop.button.tabIndex = -1;
    this.#tabStop = cell;
    if (cell) cell.button.tabIndex = 0;
  }

  /** Has the Tab key reach a cell that is shown. */
  #repairTabStop() {
    const { button } = this.#tabStop ?? {};
    if (button?.isConnected && !button.hidden) return;
    this.#setTabStop(this.ofElement(this.#shown()[0] ?? null));
  }

  /** The buttons that are shown, in order. @returns {HTMLElement[]} */
  #shown() {
    return [...this.#grid.querySelectorAll("button")].filter((button) => !button.hidden);
  }

  /** Moves the focus as the arrow keys say. @param {KeyboardEvent} event */
  #moveFocus(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const columns = getComputedStyle(this.#grid).gridTemplateColumns.split(" ").length;
    const shown = this.#shown();
    const steps = new Map([
      ["ArrowLeft", -1],
      ["ArrowRight", 1],
      ["ArrowUp", -columns],
      ["ArrowDown", columns],
      ["Home", -shown.length],
      ["End", shown.length],
    ]);
    const step = steps.get(event.key);
    const from = shown.findIndex((button) => button === document.activeElement);
    if (step === undefined || from < 0) return;
    event.preventDefault();
    const to = from + step;
    const isJump = Math.abs(step) === shown.length;
    if (isJump || (to >= 0 && to < shown.length)) shown[Math.max(0, Math.min(shown.length - 1, to))]?.focus();
  }
}
