// Characters and names of symbols.

import { getJson } from "./dom.js";

/** @typedef {{char: string, id: string, name: string, score: number}} Ranked */

/** The minimum interval between requests for the names of new symbols. */
const NAMES_INTERVAL_MS = 5000;

/** @type {Map<string, Ranked>} */
const rankedById = new Map();
let requestedAt = -Infinity;

/**
 * Requests all names, a while after the last time. Resolves to what is new. On an error there are characters and totals without
 * names.
 * @returns {Promise<Ranked[]>}
 */
export async function loadNames() {
  const pause = requestedAt + NAMES_INTERVAL_MS - performance.now();
  if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
  requestedAt = performance.now();
  /** @type {Ranked[]} */
  const rankings = (await getJson("/v1/rankings")) ?? [];
  const added = rankings.filter(({ id }) => !rankedById.has(id));
  for (const ranked of added) rankedById.set(ranked.id, ranked);
  return added;
}

/** @param {string} id */
export function isNamed(id) {
  return rankedById.has(id);
}

/** The name of a symbol, or its ID. @param {string} id */
export function nameOf(id) {
  const name = rankedById.get(id)?.name ?? id;
  // Names of characters are in capitals.
  return name === id ? id : name.toLowerCase();
}

/** The character of a symbol: from the rankings, from its code points, or the ID itself. @param {string} id */
export function characterOf(id) {
  const ranked = rankedById.get(id);
  if (ranked) return ranked.char;
  const values = id.split("-").map((point) => (/^[0-9A-F]{4,6}$/.test(point) ? parseInt(point, 16) : Infinity));
  // Surrogates are not characters.
  if (values.some((value) => value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))) return id;
  return String.fromCodePoint(...values);
}
