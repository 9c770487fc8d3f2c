// Glyphs that the theme's surface would swallow, such as a black spade on a dark one: these get a backing.

import { colour } from "./dom.js";

const SIZE = 24;
/**
 * For dark and light surfaces, the distance to their colour at which a pixel is seen, of 441 between black and white, and the share of
 * a glyph's pixels that must be seen. Light glyphs mostly have an outline.
 */
const LIMITS = { dark: { distance: 150, share: 0.5 }, light: { distance: 58, share: 0.3 } };
/** Glyphs examined without a pause. */
const BATCH = 40;

/** Whether each character needs a backing in the present theme. @type {Map<string, boolean>} */
const known = new Map();
/** The elements to examine. @type {Set<HTMLElement>} */
const waiting = new Set();
let scheduled = false;
/** The colour of the surface. @type {Uint8ClampedArray | undefined} */
let surface;

const context = Object.assign(document.createElement("canvas"), { width: SIZE, height: SIZE }).getContext("2d", {
  willReadFrequently: true,
});

/** Backs the glyph of an element, if it needs it, when the browser has time. @param {HTMLElement} element */
export function back(element) {
  const needs = known.get(element.textContent);
  if (needs !== undefined) {
    element.classList.toggle("backed", needs);
    return;
  }
  waiting.add(element);
  schedule();
}

function schedule() {
  if (scheduled) return;
  scheduled = true;
  setTimeout(examine, 0);
}

function examine() {
  scheduled = false;
  if (!context) return;
  const behind = (surface ??= surfaceColour(context));
  for (const element of [...waiting].slice(0, BATCH)) {
    waiting.delete(element);
    const character = element.textContent;
    const needs = known.get(character) ?? isSwallowed(context, character, behind);
    known.set(character, needs);
    element.classList.toggle("backed", needs);
  }
  if (waiting.size) schedule();
}

/** @param {CanvasRenderingContext2D} context */
function surfaceColour(context) {
  context.fillStyle = colour("--surface");
  context.fillRect(0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} character
 * @param {Uint8ClampedArray} behind
 */
function isSwallowed(context, character, behind) {
  context.clearRect(0, 0, SIZE, SIZE);
  context.font = `${SIZE - 6}px ${colour("--emoji")}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  // Glyphs without colours of their own are drawn in the colour of the text, which is always seen.
  context.fillStyle = colour("--text");
  context.fillText(character, SIZE / 2, SIZE / 2);
  const { data } = context.getImageData(0, 0, SIZE, SIZE);
  const { distance, share } = (behind[0] ?? 0) < 128 ? LIMITS.dark : LIMITS.light;
  let drawn = 0;
  let seen = 0;
  for (let pixel = 0; pixel < data.length; pixel += 4) {
    if ((data[pixel + 3] ?? 0) < 128) continue;
    drawn += 1;
    const [red, green, blue] = [0, 1, 2].map((part) => (data[pixel + part] ?? 0) - (behind[part] ?? 0));
    if (Math.hypot(red ?? 0, green ?? 0, blue ?? 0) >= distance) seen += 1;
  }
  return seen < drawn * share;
}

/** Examines all glyphs again when the theme changes. @param {() => Iterable<HTMLElement>} elements */
export function watchTheme(elements) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    surface = undefined;
    known.clear();
    for (const element of elements()) back(element);
  });
}
