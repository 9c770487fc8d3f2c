// The admin page: the live events, their age, and the views that show them.

import { Alarms } from "./admin-alarms.js";
import { reportUnauthorized } from "./admin-api.js";
import { Charts } from "./admin-charts.js";
import { renderCluster } from "./admin-cluster.js";
import { Config } from "./admin-config.js";
import { Connections } from "./admin-connections.js";
import { Explore } from "./admin-explore.js";
import { Errors, Figures } from "./admin-figures.js";
import { Log } from "./admin-log.js";
import { Runbook } from "./admin-runbook.js";
import { Sessions } from "./admin-sessions.js";
import { renderFeeds, renderSources } from "./admin-sources.js";
import { setText } from "./admin-table.js";
import { clock, serverTime, setServerTime } from "./admin-time.js";
import { startViews } from "./admin-views.js";
import { byId, CONNECTION } from "./dom.js";
import { subscribe } from "./tallycast.js";
import { count, duration } from "./units.js";

/**
 * The counters of every stage since the start.
 * @typedef {Record<string, Record<string, number>>} Counters
 */

/**
 * An event of `/admin/events`.
 * @typedef {object} LiveEvent
 * @property {number} at
 * @property {string} node
 * @property {string} version
 * @property {number} started_at
 * @property {import("./admin-alarms.js").Alarm[]} alarms
 * @property {import("./admin-sources.js").Source[]} sources
 * @property {boolean} read_only
 * @property {import("./admin-history.js").Sample} sample
 * @property {{state: string, gaps: number, gap_seconds: number}} broker
 * @property {Counters} counters
 * @property {{title: string, count: number}[]} errors
 * @property {{memory_bytes?: number, cpu_seconds?: number, open_files?: number, max_files?: number}} process
 * @property {{decode: number, tally: number, hub: number, capacity: number}} inboxes
 * @property {import("./admin-sources.js").Feed[]} feeds Those with the most readers.
 * @property {number} feeds_total
 * @property {import("./admin-cluster.js").Cluster | null} cluster
 */

/** Events come every second. After this time without one the page is stale. */
const STALE_SECONDS = 3;

/** A connection without events is given up and opened again. */
const WATCHDOG_MS = 10_000;

const root = document.documentElement;
const alarms = new Alarms();
const charts = new Charts();
const figures = new Figures();
const errors = new Errors();
const connections = new Connections();
const explore = new Explore();
/** @type {LiveEvent | undefined} */
let last;
let wasStale = false;
let isAuthorized = true;
/** Why the server refuses the events for good, or empty. */
let refusal = "";
/** The time of the last event, or of the start of the page, by the clock of the browser. */
let lastSeen = Date.now() / 1000;

/** @param {string} data */
function handleEvent(data) {
  /** @type {LiveEvent} */
  const event = JSON.parse(data);
  setServerTime(event.at);
  if (wasStale) figures.clear();
  [last, lastSeen] = [event, Date.now() / 1000];
  setText(byId("node", HTMLElement), event.node);
  setText(byId("version", HTMLElement), event.version);
  figures.render(event);
  errors.render(event);
  charts.push(event.sample);
  renderSources(event);
  renderFeeds(event);
  renderCluster(event.cluster);
  const { hub } = event.counters;
  connections.update(`${hub?.connections} ${hub?.connected}`, event.read_only);
  explore.setReadOnly(event.read_only);
  renderAge();
  root.dataset.ready = "";
}

/** Shows alarms, and how old everything is. */
function renderAge() {
  const age = Date.now() / 1000 - lastSeen;
  const isSilent = age >= STALE_SECONDS;
  const isStale = isSilent || (last !== undefined && root.dataset.connection !== "live");
  root.dataset.stale = String(isStale);
  const connection = root.dataset.connection ?? "";
  setText(byId("state", HTMLElement), isSilent && connection === "live" ? "silent" : connection);
  setText(byId("age", HTMLElement), isStale && last ? `last update ${duration(age)} ago` : "");
  if (isStale !== wasStale || isStale) charts.setStale(isStale ? serverTime() - age : null);
  wasStale = isStale;
  const known = last?.alarms ?? [];
  if (isSilent) alarms.render(isAuthorized ? [silence(age), ...known] : known, null);
  else if (last) alarms.render(last.alarms, well(last));
}

/** The alarm that the server cannot send. @param {number} age @returns {import("./admin-alarms.js").Alarm} */
function silence(age) {
  const values = last ? `All values are those of ${clock(last.at)}.` : "No values have arrived.";
  const words =
    refusal === ""
      ? {
          title: "The server does not answer",
          detail: values,
          action:
            "Check that the process runs and that its host is reachable. It may be stopped or out of CPU. This page reconnects by itself.",
        }
      : {
          title: "The server refuses the live values",
          detail: `${refusal}. ${values}`,
          action: "Remove the reason, then reload this page: it does not reconnect by itself.",
        };
  return { id: "silence", severity: "critical", since: serverTime() - age, ...words };
}

/** @param {LiveEvent} event */
function well({ sources, counters }) {
  const up = sources.filter(({ state }) => state === "subscribed" || state === "idle").length;
  return `Sources up: ${up} of ${sources.length}. Open streams: ${count(counters.hub?.connections ?? 0)}.`;
}

startViews({
  streams: connections,
  explore,
  sessions: new Sessions(),
  config: new Config(),
  warnings: new Log(),
  runbook: new Runbook(),
});

document.addEventListener("unauthorized", () => setAuthorized(false));

/** @param {boolean} value */
function setAuthorized(value) {
  isAuthorized = value;
  byId("unauthorized", HTMLElement).hidden = value;
}

setText(byId("zone", HTMLElement), Intl.DateTimeFormat().resolvedOptions().timeZone);
setInterval(renderAge, 1000);

subscribe(
  null,
  {
    message: ({ data }) => handleEvent(data),
    state({ state }) {
      root.dataset.connection = CONNECTION[state];
      if (state === "live") {
        setAuthorized(true);
        void charts.load();
      }
      renderAge();
    },
    refused({ status, reason, permanent }) {
      if (status === 401) reportUnauthorized();
      if (permanent) refusal = reason;
    },
  },
  { url: "/admin/events", envelope: false, watchdog: WATCHDOG_MS },
);
