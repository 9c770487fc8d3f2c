// A line chart on a canvas, in the screen's resolution and the theme's colours.

import { colour } from "./dom.js";

/**
 * Draws `values`, oldest first, scaled from zero to their maximum. Nothing is drawn where a value is `undefined`.
 * @param {HTMLCanvasElement} canvas
 * @param {readonly (number | undefined)[]} values
 */
export function draw(canvas, values) {
  const scale = devicePixelRatio;
  const width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  if (!context || values.length < 2) return;
  context.clearRect(0, 0, width, height);
  const top = Math.max(...values.map((value) => value ?? 0), 1);
  const x = (/** @type {number} */ index) => (index / (values.length - 1)) * width;
  const y = (/** @type {number} */ value) => height - scale - (value / top) * (height - 2 * scale);
  context.strokeStyle = colour("--accent");
  context.fillStyle = context.strokeStyle;
  context.lineWidth = 1.5 * scale;
  context.lineJoin = "round";
  for (const [start, run] of runs(values)) {
    context.beginPath();
    // A single value is a short line.
    if (run.length === 1) context.lineTo(x(start - 0.5), y(run[0] ?? 0));
    run.forEach((value, index) => context.lineTo(x(start + index), y(value)));
    context.stroke();
    if (run.length === 1) continue;
    context.lineTo(x(start + run.length - 1), height);
    context.lineTo(x(start), height);
    context.globalAlpha = 0.15;
    context.fill();
    context.globalAlpha = 1;
  }
}

/**
 * The stretches of values that are known, with the index of each one's first.
 * @param {readonly (number | undefined)[]} values
 */
function runs(values) {
  /** @type {[number, number[]][]} */
  const found = [];
  values.forEach((value, index) => {
    if (value === undefined) return;
    const last = found.at(-1);
    if (last && last[0] + last[1].length === index) last[1].push(value);
    else found.push([index, [value]]);
  });
  return found;
}
