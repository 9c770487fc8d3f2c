// The table of all nodes that share the broker.

import { byId, make } from "./dom.js";
import { count, duration } from "./units.js";

/**
 * @typedef {object} Node
 * @property {string} id
 * @property {string} node
 * @property {string} version
 * @property {string} status
 * @property {boolean} draining
 * @property {number} startup_time
 * @property {number} connections
 * @property {number} msgs_broadcast
 * @property {number} reported_at
 */

/**
 * The answer of `/admin/cluster.json`.
 * @typedef {object} Cluster
 * @property {string} id
 * @property {number | null} as_of
 * @property {number | null} age_seconds
 * @property {boolean} stale
 * @property {string | null} error
 * @property {number} nodes_total
 * @property {Node[]} nodes
 */

/** Shows all nodes, or nothing if nodes do not announce themselves. @param {Cluster | null} cluster */
export function renderCluster(cluster) {
  const section = byId("cluster", HTMLElement);
  section.hidden = cluster === null;
  if (cluster === null) return;
  section.dataset.stale = String(cluster.stale);
  // Its reader is interrupted by each change, so it has no time that passes.
  const state = byId("cluster-state", HTMLElement);
  const text = stateText(cluster);
  if (state.textContent !== text) state.textContent = text;
  const age = cluster.stale && cluster.age_seconds !== null ? `last read ${duration(cluster.age_seconds)} ago` : "";
  byId("cluster-age", HTMLElement).textContent = age;
  const now = (cluster.as_of ?? 0) + (cluster.age_seconds ?? 0);
  byId("nodes", HTMLElement).replaceChildren(...cluster.nodes.map((node) => row(node, node.id === cluster.id, now)));
  const more = cluster.nodes_total - cluster.nodes.length;
  byId("nodes-more", HTMLElement).textContent = more > 0 ? `and ${count(more)} more` : "";
}

/** @param {Cluster} cluster */
function stateText({ as_of, stale, error, nodes_total }) {
  if (!stale) return nodes_total === 1 ? "1 node" : `${count(nodes_total)} nodes`;
  const reason = error === null ? "" : ` (${error})`;
  return as_of === null ? `The broker has not answered yet${reason}` : `Stale: the broker does not answer${reason}`;
}

/** @param {Node} node @param {boolean} own @param {number} now */
function row(node, own, now) {
  const row = make("tr");
  row.dataset.node = node.node;
  const name = make("th", "", node.node);
  name.scope = "row";
  if (own) {
    row.setAttribute("aria-current", "true");
    name.append(" ", make("span", "tag", "this node"));
  }
  const status = make("td", node.status === "OK" ? "" : "warn", node.status);
  if (node.draining) status.append(" ", make("span", "tag", "draining"));
  const started = new Date(node.startup_time * 1000);
  const since = make("time", "", started.toLocaleString());
  since.dateTime = started.toISOString();
  const up = make("td");
  up.append(since);
  row.append(name, make("td", "", node.version), status);
  row.append(make("td", "number", count(node.connections)), make("td", "number", count(node.msgs_broadcast)));
  row.append(up, make("td", "number", `${duration(now - node.reported_at)} ago`));
  return row;
}
