// The search: symbols by name, keyword, ID or character.

import { characterOf, nameOf } from "./board-symbols.js";
import { get } from "./dom.js";

/** The keywords of emoji by ID, once they are loaded. @type {Map<string, string> | undefined} */
let keywords;
/** @type {Promise<void> | undefined} */
let loading;

/**
 * Loads the keywords when the search is first used. Without them it finds names, IDs and characters.
 * @returns {Promise<void>}
 */
export function loadKeywords() {
  loading ??= (async () => {
    const response = await get("/assets/keywords.txt");
    if (!response?.ok) {
      loading = undefined;
      return;
    }
    const lines = (await response.text()).split("\n");
    keywords = new Map(lines.map((line) => [line.slice(0, line.indexOf(" ")), line.slice(line.indexOf(" ") + 1)]));
  })();
  return loading;
}

/**
 * Normalises a text: `:heart_eyes:` equals `heart-eyes`, and variation selectors are ignored.
 * @param {string} text
 */
function normalise(text) {
  return text.toLowerCase().replace(/\uFE0F/g, "").replace(/[\s:_,-]+/g, " ").trim();
}

/** The test whether a symbol matches: each word of the search begins a word of the symbol. @param {string} search */
export function matcher(search) {
  const terms = normalise(search).split(" ").filter(Boolean);
  return (/** @type {string} */ id) => {
    if (!terms.length) return true;
    const text = ` ${normalise(`${nameOf(id)} ${id} ${characterOf(id)} ${keywords?.get(id) ?? ""}`)}`;
    return terms.every((term) => text.includes(` ${term}`));
  };
}
