// The board without totals: how to feed it, by commands to copy.

import { byId, make } from "./dom.js";

/** The server says here what is switched on: `data-store`, `data-count` and `data-routes`. */
const { store, count, routes } = document.documentElement.dataset;

/**
 * @typedef {object} Recipe
 * @property {string} title
 * @property {string} text
 * @property {string} [command]
 */

/** @returns {Recipe[]} */
function recipes() {
  /** @type {Recipe[]} */
  const found = [];
  const redis = [
    "redis-cli <<'EOF'",
    "MULTI",
    "ZINCRBY emojitrack_score 1 1F602",
    "PUBLISH stream.score_updates 1F602",
    "EXEC",
    `PUBLISH stream.tweet_updates.1F602 '{"text": "hello 😂"}'`,
    "EOF",
  ];
  if (store === "redis" && routes === "default") {
    const text = "Raise a score and publish the event in one transaction, which keeps totals exact. The last line is a post.";
    found.push({ title: "With Redis", text, command: redis.join("\n") });
  } else if (routes === "custom") {
    found.push({ title: "With your routes", text: "This server has routes of its own: tallycast check prints them." });
  }
  if (count === "key") {
    const command = `curl -H "authorization: Bearer $TALLYCAST_PUBLISH_KEY" \\\n  -d '{"1F602": 1}' ${location.origin}/count/eps`;
    found.push({ title: "With HTTP", text: "Raise totals by POST /count, with a publishing key of this server.", command });
  } else if (store === "redis") {
    const needs = routes === "default" ? "with --publish-key" : "with --publish-key, and with a tally route and totals for /eps,";
    found.push({ title: "With HTTP", text: `POST /count is off. Start tallycast ${needs} to switch it on.` });
  }
  found.push({
    title: "With generated traffic",
    text: "Try it without a broker, on another port.",
    command: "tallycast demo --port 8002",
  });
  return found;
}

/** @param {Recipe} recipe */
function card({ title, text, command }) {
  const element = make("div", "recipe card");
  const header = make("header");
  header.append(make("h3", "", title));
  element.append(header, make("p", "muted", text));
  if (!command) return element;
  const code = make("pre", "", command);
  code.tabIndex = 0;
  code.setAttribute("aria-label", `Command: ${title}`);
  code.setAttribute("role", "region");
  const button = make("button", "", "Copy");
  button.type = "button";
  button.addEventListener("click", () => void copy(command, code, button));
  header.append(button);
  element.append(code);
  return element;
}

/** @param {string} command @param {HTMLElement} code @param {HTMLElement} button */
async function copy(command, code, button) {
  try {
    await navigator.clipboard.writeText(command);
    button.textContent = "Copied";
  } catch {
    // Without TLS there is no clipboard, except on localhost.
    getSelection()?.selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

/** Shows or hides the help. @param {boolean} isEmpty */
export function renderEmpty(isEmpty) {
  const section = byId("empty", HTMLElement);
  if (isEmpty === !section.hidden) return;
  section.hidden = !isEmpty;
  if (!isEmpty) return;
  const title = make("h2", "", "Nothing counted yet");
  title.id = "empty-title";
  section.replaceChildren(title, make("p", "", "The first count appears here at once. Ways to send it:"), ...recipes().map(card));
}
