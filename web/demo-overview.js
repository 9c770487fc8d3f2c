// The overview: a line of each demo, over one connection.

import { explain, glyph, showState } from "./demo-page.js";
import { byId, make } from "./dom.js";
// Shown on the page, to the next line of this kind.
import { subscribe } from "./tallycast.js";

// One connection with four topics, at most two batches a second.
const topics = ["/raw", "/prices/*", "/realtime/lounge", "/notices/*"];
subscribe(topics, { message: show, state: showState }, {
  transport: "websocket",
  params: { "max-rate": "2/s", last: "20" },
});
// The end of what is shown.

/** @param {string} id @param {string} source @param {string} text */
function sample(id, source, text) {
  byId(`sample-${id}`, HTMLElement).replaceChildren(make("span", "", source), " ", text);
}

/** @param {import("./tallycast.js").Message} message */
function show({ namespace = "", data }) {
  const name = namespace.slice(namespace.lastIndexOf("/") + 1);
  if (namespace === "/raw") sample("counter", "Just counted", glyph(String(data)));
  else if (namespace.startsWith("/prices/")) sample("prices", name, Number(data?.price).toFixed(2));
  else if (namespace.startsWith("/notices/")) sample("notifications", `To ${name}`, String(data?.text));
  else sample("chat", String(data?.clientId), String(data?.payload));
}

explain();
