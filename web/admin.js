// The admin page: live metrics and nodes from /admin/events, and a paginated table of open streams.

import { renderCluster } from "./admin-cluster.js";
import { ConnectionTable } from "./admin-connections.js";
import { draw } from "./chart.js";
import { byId, get, make } from "./dom.js";
import { Stream } from "./stream.js";
import { bytes, count, duration } from "./units.js";

/**
 * The counters of every stage since the start.
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
 * @property {{title: string, count: number}[]} errors
 * @property {{memory_bytes?: number, cpu_seconds?: number, open_files?: number, max_files?: number}} process
 * @property {{decode: number, tally: number, hub: number, capacity: number}} inboxes
 * @property {{namespace: string, framing: string, policy: string, readers: number}[]} feeds
 * @property {import("./admin-cluster.js").Cluster | null} cluster
 */

/**
 * A point of the charts. All values except the memory count from the start.
 * @typedef {Record<"at" | "received" | "delivered" | "bytes" | "memory_bytes" | "cpu_seconds", number>} Sample
 */

const MAX_SAMPLES = 600;

/** @type {Sample[]} */
let samples = [];
const series = byId("series", HTMLSelectElement);
const connectionTable = new ConnectionTable();

/** @param {string} id @param {string} text */
function setText(id, text) {
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

/** The growth per second of each count between two samples. @param {Sample} from @param {Sample} to */
function rate(from, to) {
  const seconds = to.at - from.at || 1;
  return (/** @type {"received" | "delivered" | "bytes" | "cpu_seconds"} */ name) =>
    Math.max(0, (to[name] - from[name]) / seconds);
}

/** @param {string} data */
function handleEvent(data) {
  /** @type {Event} */
  const event = JSON.parse(data);
  samples.push(sample(event));
  if (samples.length > MAX_SAMPLES) samples.shift();
  const { broker, counters, process } = event;
  setText("node", event.node);
  setText("version", event.version);
  setText("uptime", duration(event.at - event.started_at));
  const gaps = broker.gaps ? `, ${broker.gaps} gaps (${duration(broker.gap_seconds)})` : "";
  setText("broker", broker.state + gaps);
  setText("connections", count(counters.hub?.connections ?? 0));
  setText("memory", process.memory_bytes === undefined ? "unknown" : bytes(process.memory_bytes));
  setText("files", process.open_files === undefined ? "unknown" : `${count(process.open_files)} of ${count(process.max_files ?? 0)}`);
  const [before, now] = samples.slice(-2);
  if (before && now) {
    const perSecond = rate(before, now);
    setText("events-in", count(perSecond("received")));
    setText("messages-out", count(perSecond("delivered")));
    setText("bytes-out", bytes(perSecond("bytes")));
    setText("cpu", `${perSecond("cpu_seconds").toFixed(2)} cores`);
  }
  renderErrors(event);
  renderFeeds(event);
  renderCluster(event.cluster);
  renderChart();
  connectionTable.refreshIfChanged(`${counters.hub?.connections} ${counters.hub?.connected}`);
}

/** @param {Event} event */
function renderErrors({ errors }) {
  const rows = errors.map((error) => {
    const row = make("div", error.count ? "nonzero" : "");
    row.append(make("dt", "", error.title), make("dd", "", count(error.count)));
    return row;
  });
  byId("errors", HTMLElement).replaceChildren(...rows);
}

/** @param {Event} event */
function renderFeeds({ feeds, counters }) {
  const rows = feeds.map(({ namespace, framing, policy, readers }) => {
    const row = make("tr");
    row.append(make("td", "", namespace), make("td", "", framing), make("td", "", policy));
    row.append(make("td", "number", count(readers)));
    return row;
  });
  byId("feeds", HTMLElement).replaceChildren(...rows);
  const more = (counters.hub?.feeds ?? 0) - feeds.length;
  setText("feeds-more", feeds.length === 0 ? "No open streams." : more > 0 ? `and ${count(more)} more` : "");
}

function renderChart() {
  const name = /** @type {keyof Sample} */ (series.value);
  const format = name === "bytes" || name === "memory_bytes" ? bytes : name === "cpu_seconds" ? fraction : count;
  const values = name === "memory_bytes" || name === "at" ? samples.map((one) => one[name]) : rates(name);
  draw(byId("chart", HTMLCanvasElement), values);
  const last = values.at(-1) ?? 0;
  const minutes = Math.ceil(((samples.at(-1)?.at ?? 0) - (samples[0]?.at ?? 0)) / 60);
  setText("chart-text", `current ${format(last)}, maximum ${format(Math.max(0, ...values))} over ${minutes} min`);
}

/** @param {"received" | "delivered" | "bytes" | "cpu_seconds"} name */
function rates(name) {
  return samples.slice(1).map((to, index) => rate(/** @type {Sample} */ (samples[index]), to)(name));
}

/** @param {number} value */
function fraction(value) {
  return value.toFixed(2);
}

async function loadHistory() {
  const response = await get("/admin/history.json");
  if (response?.ok) samples = (await response.json()).samples;
}

series.addEventListener("change", renderChart);
addEventListener("resize", renderChart);

new Stream("/admin/events", {
  events: { message: handleEvent },
  onOpen: () => void loadHistory(),
  onStateChange(state) {
    document.documentElement.dataset.connection = state;
    setText("state", state);
  },
  onRefused(status) {
    if (status === 401) setText("state", "unauthorized");
  },
});
