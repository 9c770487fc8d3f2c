// Helpers for elements and for requests to the server.

/**
 * The element with an ID. Throws if it is missing.
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
 * Creates an element with a class and a text.
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
 * The value of a CSS custom property, such as a theme colour.
 * @param {string} name
 */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/**
 * Requests `path` from this server. Resolves to `undefined` if there is no response.
 * @param {string} path
 * @param {AbortSignal} [signal]
 * @returns {Promise<Response | undefined>}
 */
export function get(path, signal) {
  // An absolute URL, because `fetch` rejects relative ones on pages whose address includes credentials.
  return fetch(location.origin + path, signal ? { signal } : {}).catch(() => undefined);
}

/**
 * Requests JSON from this server. Resolves to `undefined` on any error.
 * @param {string} path
 * @returns {Promise<any>}
 */
export async function getJson(path) {
  const response = await get(path);
  return response?.ok ? response.json().catch(() => undefined) : undefined;
}

/** The words for the states of a subscription that readers see. */
export const CONNECTION = /** @type {const} */ ({
  connecting: "connecting",
  live: "live",
  waiting: "reconnecting",
  paused: "offline",
  closed: "refused",
});
