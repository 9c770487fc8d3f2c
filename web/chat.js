// The chat: a name, the messages of the others and one's own, and a line to write in.

import { ChannelConnection, channelOf, explanation, stateIn, unreadInTitle } from "./channel.js";
import { byId, make } from "./dom.js";
import { MessageList } from "./message-list.js";

/** A message that was sent this shortly before the server ended the connection may be lost. */
const IN_FLIGHT_MS = 5000;
const NAME = "tallycast.chat.name";

const join = byId("join", HTMLFormElement);
const name = byId("name", HTMLInputElement);
const joinError = byId("join-error", HTMLElement);
const room = byId("room", HTMLElement);
const notice = byId("notice", HTMLElement);
const messages = new MessageList();
const composer = byId("composer", HTMLFormElement);
const text = byId("text", HTMLTextAreaElement);
const send = byId("send", HTMLButtonElement);
const leave = byId("leave", HTMLButtonElement);
const who = byId("who", HTMLElement);

const channel = channelOf("chat");
const showState = stateIn(byId("state", HTMLElement));
const countUnread = unreadInTitle();
byId("channel", HTMLElement).textContent = `#${channel}`;

/** @type {ChannelConnection | undefined} */
let connection;
/** Own messages that the server may not have, and when they were sent. @type {{ element: HTMLElement, at: number }[]} */
let inFlight = [];

/** Marks own messages of which it is not known that they arrived. */
function markInFlight() {
  for (const { element, at } of inFlight) {
    if (Date.now() - at < IN_FLIGHT_MS) element.append(make("p", "doubt", "May not have been delivered"));
  }
  inFlight = [];
}

/** @param {boolean} joined */
function showRoom(joined) {
  join.hidden = joined;
  room.hidden = !joined;
  leave.hidden = !joined;
  who.hidden = !joined;
}

/** @param {string} clientId */
function start(clientId) {
  joinError.textContent = "";
  name.removeAttribute("aria-invalid");
  let joined = false;
  connection = new ChannelConnection(channel, "WS", () => clientId, {
    onMessage(message) {
      messages.add(message, false);
      countUnread();
    },
    onState(state, reason) {
      showState(state, reason);
      send.disabled = state !== "live";
      if (state === "live" && !joined) {
        joined = true;
        byId("me", HTMLElement).textContent = clientId;
        messages.clear();
        showRoom(true);
        text.focus();
      }
      if (state === "live") {
        notice.hidden = true;
      } else if (state === "reconnecting") {
        markInFlight();
        const lost = "You are not connected. What the others write meanwhile comes when you are back.";
        if (joined) [notice.textContent, notice.hidden] = [lost, false];
        else joinError.textContent = `Not connected yet: ${reason}.`;
      }
    },
    onRefused(status, reason) {
      showRoom(false);
      joinError.textContent = explanation(status, reason, channel);
      name.toggleAttribute("aria-invalid", status === 409);
      name.focus();
      name.select();
    },
  });
}

join.addEventListener("submit", (event) => {
  event.preventDefault();
  const clientId = name.value.trim();
  if (!clientId) {
    joinError.textContent = "Enter a name.";
    name.focus();
    return;
  }
  try {
    sessionStorage.setItem(NAME, clientId);
  } catch {
    // The browser keeps nothing for this page.
  }
  connection?.close();
  start(clientId);
});

leave.addEventListener("click", () => {
  connection?.close();
  connection = undefined;
  showRoom(false);
  joinError.textContent = "";
  name.focus();
});

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const payload = text.value.trim();
  if (!payload || !connection?.send(payload)) return;
  const message = { id: "", channelId: channel, clientId: "", payload, createdAt: new Date().toISOString() };
  const element = messages.add(message, true);
  inFlight = [...inFlight.filter(({ at }) => Date.now() - at < IN_FLIGHT_MS), { element, at: Date.now() }];
  text.value = "";
  text.focus();
});

text.addEventListener("keydown", (event) => {
  // Not the Enter that ends the input of a character.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});

byId("newest", HTMLButtonElement).addEventListener("click", () => text.focus());

try {
  name.value = sessionStorage.getItem(NAME) ?? "";
} catch {
  // As above.
}
name.focus();
