// The notifications of a channel, newest first.

import { ChannelConnection, channelOf, explanation, randomId, stateIn, timeElement, unreadInTitle } from "./channel.js";
import { byId, make } from "./dom.js";

/** Notifications that stay on the page. */
const MAX_SHOWN = 200;

const list = byId("notifications", HTMLElement);
const empty = byId("empty", HTMLElement);
const clear = byId("clear", HTMLButtonElement);
const refused = byId("refused", HTMLElement);

const channel = channelOf("notifications");
const showState = stateIn(byId("state", HTMLElement));
const countUnread = unreadInTitle();
byId("channel", HTMLElement).textContent = `#${channel}`;
byId("example", HTMLElement).textContent =
  `curl -H "authorization: Bearer $KEY" -d '{"payload":"Hello"}' ` +
  `${location.origin}/api/v1/channels/${encodeURIComponent(channel)}/messages`;

function update() {
  empty.hidden = list.childElementCount > 0;
  clear.disabled = list.childElementCount === 0;
}

function start() {
  refused.hidden = true;
  // Each attempt is another client, because the server may not know yet that the one before is lost.
  new ChannelConnection(channel, "SSE", () => `page-${randomId()}`, {
    onMessage({ clientId, payload, createdAt }) {
      const item = make("div", "notification");
      const head = make("p", "head");
      // Most are from the server, which need not be said.
      if (clientId !== "server-message") head.append(make("b", "", clientId || "unknown"));
      head.append(timeElement(createdAt));
      item.append(head, make("p", "text", payload));
      list.prepend(item);
      while (list.childElementCount > MAX_SHOWN) list.lastElementChild?.remove();
      update();
      countUnread();
    },
    onState: showState,
    onRefused(status, reason) {
      byId("reason", HTMLElement).textContent = explanation(status, reason, channel);
      refused.hidden = false;
      empty.hidden = true;
    },
  });
}

clear.addEventListener("click", () => {
  list.replaceChildren();
  update();
});
byId("retry", HTMLButtonElement).addEventListener("click", () => {
  update();
  start();
});
start();
