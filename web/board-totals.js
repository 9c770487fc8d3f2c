// The totals of the board: exact numbers by ID, and which IDs have the highest.

/** Totals that are kept. Further ones count in the sum only. */
const MAX_KEYS = 200_000;

export class Totals {
  /** A map, not an object: an ID may be the name of a property of every object. @type {Map<string, number>} */
  #values = new Map();
  /** The sum of all totals, including those that are not kept. */
  sum = 0;
  /** The growth of all totals since the page was opened. */
  counted = 0;

  get size() {
    return this.#values.size;
  }

  /** @param {string} id */
  has(id) {
    return this.#values.has(id);
  }

  /** @param {string} id */
  get(id) {
    return this.#values.get(id) ?? 0;
  }

  /** @param {string} id @param {number} value */
  set(id, value) {
    const before = this.#values.get(id);
    this.sum += value - (before ?? 0);
    if (before === undefined && this.#values.size === MAX_KEYS) return;
    this.#values.set(id, value);
  }

  /** Replaces all totals. IDs that are gone keep the total zero. @param {ReadonlyMap<string, number>} snapshot */
  replace(snapshot) {
    for (const id of this.#values.keys()) {
      if (!snapshot.has(id)) this.set(id, 0);
    }
    for (const [id, value] of snapshot) this.set(id, value);
    this.sum = 0;
    for (const value of snapshot.values()) this.sum += value;
  }

  /**
   * The IDs with the highest totals, at most `count`, and the lowest total among them if others are left out.
   * @param {number} count
   */
  highest(count) {
    if (this.#values.size <= count) return { ids: new Set(this.#values.keys()), lowest: -Infinity };
    const values = Float64Array.from(this.#values.values()).sort();
    const lowest = values[values.length - count] ?? 0;
    const ids = [...this.#values].filter(([, value]) => value > lowest).map(([id]) => id);
    for (const [id, value] of this.#values) {
      if (ids.length === count) break;
      if (value === lowest) ids.push(id);
    }
    return { ids: new Set(ids), lowest };
  }

  /** Compares two IDs by rank: the order of `/v1/rankings`. @param {string} a @param {string} b */
  compare = (a, b) => this.get(b) - this.get(a) || (a < b ? 1 : -1);
}
