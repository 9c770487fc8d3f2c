// The chat: everyone reads, and those who join with a name also write.

import { explanation, unreadInTitle } from "./channel.js";
import { explain, showState } from "./demo-page.js";
import { byId, getJson, make } from "./dom.js";
import { MessageList } from "./message-list.js";
// Shown on the page, to the next line of this kind.
import { ChannelConnection } from "./channel.js";
import { subscribe } from "./tallycast.js";

// Everyone reads: the last 50 messages, then the new ones.
const topic = "/realtime/lounge";
subscribe(topic, { message: show, state: showState }, {
  transport: "websocket",
  params: { last: "50" },
});

// Writers join with a name. `connection.send(text)` sends a message.
const join = () =>
  new ChannelConnection("lounge", "WS", () => me, handlers);

// Names are the subjects of the subscriptions to the channel.
const whoIsThere = () =>
  getJson(`/subscriptions?topic=${topic}`);
// The end of what is shown.

const PRESENCE_MS = 2000;
/** What the subjects of clients of the channel start with. */
const SUBJECT = "realtime:lounge:";
const NAME = "tallycast.demo.name";

const joinForm = byId("join", HTMLFormElement);
const composer = byId("composer", HTMLFormElement);
const nameField = byId("name", HTMLInputElement);
const text = byId("text", HTMLInputElement);
const send = byId("send", HTMLButtonElement);
const error = byId("error", HTMLElement);
const people = byId("people", HTMLElement);

const messages = new MessageList();
const countUnread = unreadInTitle();
/** @type {ChannelConnection | undefined} */
let connection;
let me = "";
let seen = "";

/** @param {import("./tallycast.js").Message} message */
function show({ data }) {
  // What other programs add need not be a message.
  const message = typeof data?.payload === "string" ? data : { clientId: "", payload: JSON.stringify(data), createdAt: "" };
  messages.add(message, me !== "" && message.clientId === me);
  countUnread();
}

/** @param {boolean} joined */
function showJoined(joined) {
  joinForm.hidden = joined;
  composer.hidden = !joined;
}

const handlers = { onState, onRefused, onMessage() {} };

/** @param {import("./channel.js").State} state @param {string} reason */
function onState(state, reason) {
  send.disabled = state !== "live";
  if (state === "live" && composer.hidden) {
    showJoined(true);
    text.focus();
    void showPeople();
  }
  error.textContent = state === "reconnecting" ? `Not connected: ${reason}. What you write cannot be sent now.` : "";
}

/** @param {number} status @param {string} reason */
function onRefused(status, reason) {
  me = "";
  showJoined(false);
  error.textContent = explanation(status, reason, "lounge");
  nameField.focus();
  nameField.select();
}

async function showPeople() {
  /** @type {{count: number, subscriptions: {subject: string | null}[]} | undefined} */
  const there = await whoIsThere();
  if (!there) return;
  const subjects = there.subscriptions.flatMap(({ subject }) => subject ?? []);
  const names = subjects.filter((subject) => subject.startsWith(SUBJECT)).map((subject) => subject.slice(SUBJECT.length));
  names.sort((a, b) => a.localeCompare(b));
  const readers = there.count - names.length;
  const line = JSON.stringify([names, readers]);
  if (line === seen) return;
  seen = line;
  const windows = `${readers} ${readers === 1 ? "window reads" : "windows read"}`;
  people.replaceChildren(make("b", "", String(names.length)), ` joined${names.length ? ": " : ""}`);
  names.forEach((name, place) => people.append(place ? ", " : "", make("b", "", name)));
  people.append(` · ${windows}`);
}

joinForm.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = nameField.value.trim();
  error.textContent = name ? "" : "Enter a name.";
  if (!name) return nameField.focus();
  try {
    sessionStorage.setItem(NAME, name);
  } catch {
    // The browser keeps nothing for this page.
  }
  connection?.close();
  me = name;
  connection = join();
});

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const line = text.value.trim();
  // It appears when it comes back.
  if (line && connection?.send(line)) text.value = "";
  text.focus();
});

byId("leave", HTMLButtonElement).addEventListener("click", () => {
  connection?.close();
  connection = undefined;
  showJoined(false);
  nameField.focus();
  void showPeople();
});

try {
  nameField.value = sessionStorage.getItem(NAME) ?? "";
} catch {
  // As above.
}
setInterval(() => {
  if (!document.hidden) void showPeople();
}, PRESENCE_MS);
void showPeople();
explain();
