// Tables that keep their rows between updates, so that the focus and a selection survive.

import { make } from "./dom.js";

/**
 * A column. `show` fills a cell; `text` is the short form for one text.
 * @template T
 * @typedef {object} Column
 * @property {string} title
 * @property {(item: T) => string} [text]
 * @property {(cell: HTMLTableCellElement, item: T) => void} [show]
 * @property {string} [className]
 */

/** @template T */
export class Table {
  /** @type {Map<string, {row: HTMLTableRowElement, cells: HTMLTableCellElement[]}>} */
  #rows = new Map();
  #body = make("tbody");
  #columns;
  #key;

  /**
   * Builds the header of `table`. The cells of the first column are the headers of their rows.
   * @param {HTMLTableElement} table
   * @param {readonly Column<T>[]} columns
   * @param {(item: T) => string} key Identifies an item between updates.
   */
  constructor(table, columns, key) {
    this.#columns = columns;
    this.#key = key;
    const head = make("thead");
    const row = make("tr");
    for (const { title, className } of columns) {
      const cell = make("th", className, title);
      cell.scope = "col";
      row.append(cell);
    }
    head.append(row);
    table.replaceChildren(head, this.#body);
    // Narrow screens stack the cells of a row, and browsers drop the roles of cells that are not laid out as a table.
    table.setAttribute("role", "table");
    for (const group of [head, this.#body]) group.setAttribute("role", "rowgroup");
    row.setAttribute("role", "row");
    for (const cell of row.cells) cell.setAttribute("role", "columnheader");
  }

  /**
   * Shows these items, and nothing else. Returns the row of each.
   * @param {readonly T[]} items
   * @returns {HTMLTableRowElement[]}
   */
  render(items) {
    const kept = new Map();
    const rows = items.map((item) => {
      let key = this.#key(item);
      while (kept.has(key)) key += "+";
      const one = this.#rows.get(key) ?? this.#create();
      kept.set(key, one);
      this.#columns.forEach((column, index) => fill(column, /** @type {HTMLTableCellElement} */ (one.cells[index]), item));
      return one.row;
    });
    for (const [key, { row }] of this.#rows) if (!kept.has(key)) row.remove();
    // A row that moves loses the focus, so the others move around the one that has it.
    const focused = rows.find((row) => row.contains(document.activeElement));
    rows.forEach((row, index) => {
      const there = () => /** @type {HTMLTableRowElement} */ (this.#body.rows[index]);
      if (row === focused) while (there() !== row) this.#body.append(there());
      else if (there() !== row) this.#body.insertBefore(row, there() ?? null);
    });
    this.#rows = kept;
    return rows;
  }

  #create() {
    const row = make("tr");
    row.setAttribute("role", "row");
    const cells = this.#columns.map(({ title, className }, index) => {
      const cell = make(index === 0 ? "th" : "td", className);
      if (index === 0) cell.scope = "row";
      cell.setAttribute("role", index === 0 ? "rowheader" : "cell");
      cell.dataset.label = title;
      return cell;
    });
    row.append(...cells);
    return { row, cells };
  }
}

/**
 * @template T
 * @param {Column<T>} column
 * @param {HTMLTableCellElement} cell
 * @param {T} item
 */
function fill({ text, show }, cell, item) {
  if (text) setText(cell, text(item));
  show?.(cell, item);
}

/** Changes a text only if it differs, so that a selection in it survives. @param {Element} element @param {string} text */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replaces the children of an element only if they differ. @param {Element} element @param {readonly Element[]} children */
export function setChildren(element, children) {
  const { children: now } = element;
  if (now.length !== children.length || children.some((child, index) => now[index] !== child)) element.replaceChildren(...children);
}

/**
 * Shows a text and after it a tag, which is hidden if it is empty.
 * @param {HTMLElement} element
 * @param {string} text
 * @param {string} tag
 * @param {string} [className] Of the text.
 */
export function showTagged(element, text, tag, className = "") {
  if (!element.firstChild) element.append(make("span"), " ", make("span", "tag"));
  const [word, mark] = /** @type {HTMLCollectionOf<HTMLElement>} */ (element.children);
  if (!word || !mark) return;
  setText(word, text);
  word.className = className;
  setText(mark, tag);
  mark.hidden = tag === "";
}

/** Shows a text in which `backticks` mark code. @param {HTMLElement} element @param {string} text */
export function showCode(element, text) {
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  element.replaceChildren(...text.split("`").map((part, index) => (index % 2 === 1 ? make("code", "", part) : part)));
}
