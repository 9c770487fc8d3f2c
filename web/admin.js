// The page for operators: live figures from /admin/events, and the open streams by the page.

import { Connections } from "./admin-connections.js";
import { draw } from "./chart.js";
import { byId, get, make } from "./dom.js";
import { Stream } from "./stream.js";
import { bytes, count, duration } from "./units.js";

/**
 * What every stage counts since the start.
 * @typedef {Record<string, Record<string, number>>} Counters
 */

/**
 * @typedef {object} Event
 * @property {number} at
 * @property {string} node
 * @property {string} version
 * @property {number} started_at
 * @property {{state: string, gaps: number, gap_seconds: number}} broker
 * @property {Counters} counters
 * @property {{memory_bytes?: number, cpu_seconds?: number, open_files?: number, max_files?: number}} process
 * @property {{decode: number, tally: number, hub: number, capacity: number}} inboxes
 * @property {{namespace: string, framing: string, policy: string, readers: number}[]} feeds
 */

/**
 * One point of the charts; all but the memory are since the start.
 * @typedef {Record<"at" | "received" | "delivered" | "bytes" | "memory_bytes" | "cpu_seconds", number>} Sample
 */

const MAX_SAMPLES = 600;

/** What has gone wrong, and where it is counted. @type {[string, string, string][]} */
const LOST = [
  ["Slow readers disconnected", "hub", "slow_disconnected"],
  ["Slow readers that skipped", "hub", "slow_skipped"],
  ["Slow readers merged", "hub", "slow_merged"],
  ["Readers that stalled", "hub", "stalled"],
  ["Totals corrected", "hub", "corrections"],
  ["Readers without totals", "hub", "without_totals"],
  ["Events lost to a full inbox", "source", "overflowed"],
  ["Gaps in the subscription", "source", "gaps"],
  ["Events not valid", "decode", "rejected"],
  ["Connections refused", "http", "refused"],
  ["Refused by address", "http", "refused_address"],
  ["Refused by rate", "http", "refused_rate"],
  ["Refused by namespace", "http", "refused_namespace"],
  ["Failed accepts", "http", "accept_errors"],
  ["Requests too slow", "http", "head_timeouts"],
];

/** @type {Sample[]} */
let samples = [];
const series = byId("series", HTMLSelectElement);
const connections = new Connections();

/** @param {string} id @param {string} text */
function write(id, text) {
  byId(id, HTMLElement).textContent = text;
}

/** @param {Event} event @returns {Sample} */
function sample({ at, counters, process }) {
  const { source, hub } = counters;
  return {
    at,
    received: source?.received ?? 0,
    delivered: hub?.delivered ?? 0,
    bytes: hub?.bytes ?? 0,
    memory_bytes: process.memory_bytes ?? 0,
    cpu_seconds: process.cpu_seconds ?? 0,
  };
}

/** How fast each of the counts grew between two samples. @param {Sample} from @param {Sample} to */
function rate(from, to) {
  const seconds = to.at - from.at || 1;
  return (/** @type {"received" | "delivered" | "bytes" | "cpu_seconds"} */ name) =>
    Math.max(0, (to[name] - from[name]) / seconds);
}

/** @param {string} data */
function take(data) {
  /** @type {Event} */
  const event = JSON.parse(data);
  samples.push(sample(event));
  if (samples.length > MAX_SAMPLES) samples.shift();
  const { broker, counters, process } = event;
  write("node", event.node);
  write("version", event.version);
  write("uptime", duration(event.at - event.started_at));
  const gaps = broker.gaps ? `, ${broker.gaps} gaps of ${duration(broker.gap_seconds)}` : "";
  write("broker", broker.state + gaps);
  write("connections", count(counters.hub?.connections ?? 0));
  write("memory", process.memory_bytes === undefined ? "unknown" : bytes(process.memory_bytes));
  write("files", process.open_files === undefined ? "unknown" : `${count(process.open_files)} of ${count(process.max_files ?? 0)}`);
  const [before, now] = samples.slice(-2);
  if (before && now) {
    const grown = rate(before, now);
    write("events-in", count(grown("received")));
    write("messages-out", count(grown("delivered")));
    write("bytes-out", bytes(grown("bytes")));
    write("cpu", `${grown("cpu_seconds").toFixed(2)} cores`);
  }
  showLost(counters);
  showFeeds(event);
  showChart();
  connections.changed(`${counters.hub?.connections} ${counters.hub?.connected}`);
}

/** @param {Counters} counters */
function showLost(counters) {
  const rows = LOST.map(([title, stage, name]) => {
    const value = counters[stage]?.[name] ?? 0;
    const row = make("div", value ? "some" : "");
    row.append(make("dt", "", title), make("dd", "", count(value)));
    return row;
  });
  byId("lost", HTMLElement).replaceChildren(...rows);
}

/** @param {Event} event */
function showFeeds({ feeds, counters }) {
  const rows = feeds.map(({ namespace, framing, policy, readers }) => {
    const row = make("tr");
    row.append(make("td", "", namespace), make("td", "", framing), make("td", "", policy));
    row.append(make("td", "number", count(readers)));
    return row;
  });
  byId("feeds", HTMLElement).replaceChildren(...rows);
  const more = (counters.hub?.feeds ?? 0) - feeds.length;
  write("feeds-more", feeds.length === 0 ? "Nobody reads anything." : more > 0 ? `and ${count(more)} more` : "");
}

function showChart() {
  const name = /** @type {keyof Sample} */ (series.value);
  const format = name === "bytes" || name === "memory_bytes" ? bytes : name === "cpu_seconds" ? fraction : count;
  const values = name === "memory_bytes" || name === "at" ? samples.map((one) => one[name]) : rates(name);
  draw(byId("chart", HTMLCanvasElement), values);
  const last = values.at(-1) ?? 0;
  const minutes = Math.ceil(((samples.at(-1)?.at ?? 0) - (samples[0]?.at ?? 0)) / 60);
  write("chart-text", `now ${format(last)}, at most ${format(Math.max(0, ...values))} in ${minutes} min`);
}

/** @param {"received" | "delivered" | "bytes" | "cpu_seconds"} name */
function rates(name) {
  return samples.slice(1).map((to, index) => rate(/** @type {Sample} */ (samples[index]), to)(name));
}

/** @param {number} value */
function fraction(value) {
  return value.toFixed(2);
}

async function takeHistory() {
  const response = await get("/admin/history.json");
  if (response?.ok) samples = (await response.json()).samples;
}

/** A stream that is refused does not tell why; an ordinary request does. */
async function explain() {
  const response = await get("/admin/counters.json");
  if (response?.status === 401) write("state", "not authorised");
}

series.addEventListener("change", showChart);
addEventListener("resize", showChart);

new Stream("/admin/events", {
  events: { message: take },
  opened: () => void takeHistory(),
  changed(state) {
    document.documentElement.dataset.connection = state;
    write("state", state);
    if (state === "reconnecting") void explain();
  },
});
