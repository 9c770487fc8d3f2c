// The notifications of a user, newest first. The last id that a user has seen is kept while another one is shown.

import { timeElement, unreadInTitle } from "./channel.js";
import { explain, showState as state } from "./demo-page.js";
import { byId, make } from "./dom.js";
import { count } from "./units.js";
// Shown on the page, to the next line of this kind.
import { subscribe } from "./tallycast.js";

// The last five notices, or everything after the last id.
const read = () =>
  subscribe(`/notices/${user}`, { message: show, gap, state }, {
    params: { last: "5" },
    lastEventId: inbox().lastId,
  });

// Later notices are read after this id, which the user keeps.
function leave() {
  inbox().lastId = subscription.lastEventId;
  subscription.close();
}
// The end of what is shown.

const OFFLINE_S = 5;
/** Notices of a user that stay on the page. */
const MAX_SHOWN = 100;

const list = byId("inbox", HTMLOListElement);
const offline = byId("offline", HTMLButtonElement);
const outcome = byId("outcome", HTMLElement);
const users = [...document.querySelectorAll("input[name=user]")].map((input) => /** @type {HTMLInputElement} */ (input));

/**
 * What a user has received. Notices are numbered, and come in this order.
 * @typedef {object} Inbox
 * @property {string} lastId The id of the last notice.
 * @property {HTMLElement[]} items Oldest first.
 * @property {number} first The number of the first notice, or 0.
 * @property {number} last The number of the last one.
 * @property {number} received How many came from the first to the last.
 * @property {number} twice How many came again.
 */

/** @type {Map<string, Inbox>} */
const inboxes = new Map(
  users.map(({ value }) => [value, { lastId: "", items: [], first: 0, last: 0, received: 0, twice: 0 }]),
);
const countUnread = unreadInTitle();

let user = "ada";
/** Until when the reader is offline, in milliseconds, and how many notices came after that. */
let offlineUntil = 0;
let missed = 0;
/** By how much this clock is ahead of the server's, at most. */
let skew = Infinity;

/** @returns {Inbox} */
function inbox() {
  return /** @type {Inbox} */ (inboxes.get(user));
}

/** @param {import("./tallycast.js").Message} message */
function show({ data }) {
  const { number, text = JSON.stringify(data), createdAt = "" } = data ?? {};
  const own = inbox();
  if (number <= own.last) {
    own.twice += 1;
  } else if (number) {
    own.first ||= number;
    own.last = number;
    own.received += 1;
  }
  const at = Date.parse(createdAt);
  if (!Number.isNaN(at)) skew = Math.min(skew, Date.now() - at);
  const item = make("li", "notice-item");
  item.dataset.unread = "";
  item.append(make("span", "number", number === undefined ? "" : `#${number}`), make("p", "", String(text)), timeElement(createdAt));
  if (offlineUntil && at + skew < offlineUntil) {
    missed += 1;
    item.querySelector("p")?.append(" ", make("span", "tag", "while you were offline"));
    say(`${missed === 1 ? "One notice" : `${missed} notices`} came while you were offline. ${verdict()}`);
  }
  own.items.push(item);
  if (own.items.length > MAX_SHOWN) own.items.shift()?.remove();
  list.prepend(item);
  countUnread();
  showFigures();
}

/** The server may have started again, and with it the numbers. @param {import("./tallycast.js").Gap} gap */
function gap({ reason }) {
  Object.assign(inbox(), { first: 0, last: 0, received: 0 });
  say(`Notices may be missing: ${reason}.`);
}

/** @param {string} text */
function say(text) {
  if (outcome.textContent !== text) outcome.textContent = text;
}

/** How many numbers between the first and the last are missing. */
function lost() {
  const { first, last, received } = inbox();
  return first ? last - first + 1 - received : 0;
}

function verdict() {
  return lost() ? `${lost()} are missing.` : "None is missing.";
}

function showFigures() {
  const { items, received, twice } = inbox();
  const unread = items.filter((item) => "unread" in item.dataset).length;
  for (const [id, value] of Object.entries({ unread, received, lost: lost(), twice })) {
    byId(id, HTMLElement).textContent = count(value);
  }
}

let subscription = read();

/** Shows the notices of a user, and reads on where this page left off. @param {string} next */
function change(next) {
  if (!offline.disabled) leave();
  user = next;
  list.replaceChildren(...inbox().items.toReversed());
  showFigures();
  say("");
  offlineUntil = 0;
  if (!offline.disabled) subscription = read();
}

function goOffline() {
  leave();
  offline.disabled = true;
  [offlineUntil, missed] = [Date.now() + OFFLINE_S * 1000, 0];
  let left = OFFLINE_S;
  const tick = () => {
    if (left > 0) {
      say(`Offline. The connection is closed; back in ${left} s.`);
      left -= 1;
      setTimeout(tick, 1000);
      return;
    }
    offline.disabled = false;
    [offlineUntil, missed] = [Date.now(), 0];
    say(`Back. Nothing new came while you were offline. ${verdict()}`);
    subscription = read();
  };
  tick();
}

offline.addEventListener("click", goOffline);
byId("read", HTMLButtonElement).addEventListener("click", () => {
  for (const item of inbox().items) delete item.dataset.unread;
  showFigures();
});
for (const input of users) {
  // Browsers keep the choice when a page is loaded again.
  input.checked = input.value === user;
  input.addEventListener("change", () => change(input.value));
}
explain();
