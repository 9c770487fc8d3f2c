// Small helpers: the page's elements, and requests to its server.

/**
 * The element with this ID, which the page has.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function byId(id, type) {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`the page has no ${type.name} #${id}`);
  return element;
}

/**
 * A new element with a class and a text.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {string} [className]
 * @param {string} [text]
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/**
 * A colour of the theme.
 * @param {string} name
 */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/**
 * The answer of this server to a request for `path`; nothing if there is none.
 * @param {string} path
 * @returns {Promise<Response | undefined>}
 */
export function get(path) {
  // From the origin on, because a page that was opened with a password in its address may not ask relative to that.
  return fetch(location.origin + path).catch(() => undefined);
}

/**
 * The JSON that this server has at `path`; nothing if it does not answer with such.
 * @param {string} path
 * @returns {Promise<any>}
 */
export async function getJson(path) {
  const response = await get(path);
  return response?.ok ? response.json().catch(() => undefined) : undefined;
}
