// A line chart on a canvas, in the screen's resolution and the theme's colours.

import { colour } from "./dom.js";

/**
 * Draws `values`, oldest first, scaled from zero to their maximum.
 * @param {HTMLCanvasElement} canvas
 * @param {readonly number[]} values
 */
export function draw(canvas, values) {
  const scale = devicePixelRatio;
  const width = canvas.clientWidth * scale;
  const height = canvas.clientHeight * scale;
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  if (!context || values.length < 2) return;
  context.clearRect(0, 0, width, height);
  const top = Math.max(...values, 1);
  const x = (/** @type {number} */ index) => (index / (values.length - 1)) * width;
  const y = (/** @type {number} */ value) => height - scale - (value / top) * (height - 2 * scale);
  context.beginPath();
  values.forEach((value, index) => context.lineTo(x(index), y(value)));
  context.strokeStyle = colour("--accent");
  context.lineWidth = 1.5 * scale;
  context.lineJoin = "round";
  context.stroke();
  context.lineTo(width, height);
  context.lineTo(0, height);
  context.globalAlpha = 0.15;
  context.fillStyle = context.strokeStyle;
  context.fill();
  context.globalAlpha = 1;
}
