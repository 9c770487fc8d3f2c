// The tables of sources and of feeds.

import { setText, Table } from "./admin-table.js";
import { clock, serverTime } from "./admin-time.js";
import { byId } from "./dom.js";
import { count, duration } from "./units.js";

/** @typedef {import("./admin.js").LiveEvent} LiveEvent */
/** @typedef {{name: string, kind: string | null, state: string, since: number}} Source */
/** @typedef {{namespace: string, framing: string, policy: string, readers: number}} Feed */

/** @type {Readonly<Record<string, string>>} */
const CLASSES = { subscribed: "good", idle: "muted", connecting: "warn", lost: "bad" };

/** @type {Table<Source>} */
const sources = new Table(
  byId("sources", HTMLTableElement),
  [
    { title: "Source", text: ({ name }) => name },
    { title: "Kind", text: ({ kind }) => kind ?? "" },
    { title: "State", show: showState },
    { title: "Since", text: ({ since }) => `${clock(since)} (${duration(serverTime() - since)})` },
  ],
  ({ name }) => name,
);

/** @type {Table<Feed>} */
const feeds = new Table(
  byId("feeds", HTMLTableElement),
  [
    { title: "Topics", text: ({ namespace }) => namespace, className: "wide" },
    { title: "Readers", text: ({ readers }) => count(readers), className: "number" },
    { title: "Framing", text: ({ framing }) => framing },
    { title: "Slow readers", text: ({ policy }) => policy },
  ],
  ({ namespace, framing, policy }) => `${namespace} ${framing} ${policy}`,
);

/** @param {HTMLElement} cell @param {Source} source */
function showState(cell, { state }) {
  setText(cell, state);
  cell.className = CLASSES[state] ?? "";
}

/** @param {LiveEvent} event */
export function renderSources(event) {
  sources.render(event.sources);
  const { gaps, gap_seconds } = event.broker;
  setText(byId("gaps", HTMLElement), gaps === 0 ? "" : `${count(gaps)} ${gaps === 1 ? "gap" : "gaps"} since the start, ${duration(gap_seconds)} in all`);
}

/** @param {LiveEvent} event */
export function renderFeeds({ feeds: shown, feeds_total }) {
  feeds.render(shown);
  const more = feeds_total - shown.length;
  setText(byId("feeds-more", HTMLElement), shown.length === 0 ? "No open streams." : more > 0 ? `and ${count(more)} more` : "");
}
