// What the demo pages share: the state of a subscription in the header, and the flash of a value that has changed.

import { characterOf } from "./board-symbols.js";
import { byId, CONNECTION } from "./dom.js";

/** These pages close subscriptions themselves. */
const WORDS = { ...CONNECTION, closed: "closed" };
const FLASH_MS = 600;
const COPIED_MS = 1500;

const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** @param {import("./tallycast.js").Status} status */
export function showState({ state, reason = "" }) {
  const element = byId("state", HTMLElement);
  document.documentElement.dataset.connection = WORDS[state];
  element.textContent = state === "paused" ? reason : WORDS[state];
  element.title = state === "live" ? "" : reason;
}

/** @param {HTMLElement} element */
export function flash(element) {
  // One that is not over goes on.
  if (!calm.matches && !element.getAnimations().length) element.animate([{ backgroundColor: "var(--flash)" }, {}], FLASH_MS);
}

/** Calls a function in the next frame, once however often it is requested. @param {() => void} render */
export function eachFrame(render) {
  let frame = 0;
  return () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      render();
    });
  };
}

/** The character of an Emojitracker ID, in colour; other texts as they are. @param {string} id */
export function glyph(id) {
  const text = characterOf(id);
  return text !== id && [...text].length === 1 ? `${text}\ufe0f` : text;
}

/** Names this server in the commands for a shell, and copies what is shown of the code. */
export function explain() {
  for (const element of document.querySelectorAll("[data-reads]")) {
    element.textContent = `curl -N "${location.origin}${element.getAttribute("data-reads")}"`;
  }
  for (const button of document.querySelectorAll("button[data-copies]")) {
    button.addEventListener("click", async () => {
      const code = document.querySelector(`[data-shows="${button.getAttribute("data-copies")}"]`);
      // Pages that are not served over TLS have no clipboard, except on this machine.
      const copied = await navigator.clipboard?.writeText(code?.textContent ?? "").then(() => true, () => false);
      button.textContent = copied ? "Copied" : "Not allowed";
      setTimeout(() => (button.textContent = "Copy"), COPIED_MS);
    });
  }
}
