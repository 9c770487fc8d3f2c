// The table of all nodes that share the broker.

import { setText, showTagged, Table } from "./admin-table.js";
import { clock } from "./admin-time.js";
import { byId } from "./dom.js";
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

/** The identifier of this node, and the time of the broker. */
let [own, now] = ["", 0];

/** @type {Table<Node>} */
const nodes = new Table(
  byId("nodes", HTMLTableElement),
  [
    { title: "Node", show: showName },
    { title: "Version", text: ({ version }) => version },
    { title: "Status", show: showStatus },
    { title: "Connections", text: ({ connections }) => count(connections), className: "number" },
    { title: "Messages", text: ({ msgs_broadcast }) => count(msgs_broadcast), className: "number" },
    { title: "Up since", text: ({ startup_time }) => clock(startup_time) },
    { title: "Last report", text: ({ reported_at }) => `${duration(now - reported_at)} ago`, className: "number" },
  ],
  ({ id }) => id,
);

/** Shows all nodes, or nothing if nodes do not announce themselves. @param {Cluster | null} cluster */
export function renderCluster(cluster) {
  const section = byId("cluster", HTMLElement);
  section.hidden = cluster === null;
  if (cluster === null) return;
  section.dataset.stale = String(cluster.stale);
  // Its reader is interrupted by each change, so it has no time that passes.
  setText(byId("cluster-state", HTMLElement), stateText(cluster));
  const age = cluster.stale && cluster.age_seconds !== null ? `last read ${duration(cluster.age_seconds)} ago` : "";
  setText(byId("cluster-age", HTMLElement), age);
  [own, now] = [cluster.id, (cluster.as_of ?? 0) + (cluster.age_seconds ?? 0)];
  nodes.render(cluster.nodes).forEach((row, index) => {
    const node = cluster.nodes[index];
    row.dataset.node = node?.node ?? "";
    if (node?.id === own) row.setAttribute("aria-current", "true");
  });
  const more = cluster.nodes_total - cluster.nodes.length;
  setText(byId("nodes-more", HTMLElement), more > 0 ? `and ${count(more)} more` : "");
}

/** @param {Cluster} cluster */
function stateText({ as_of, stale, error, nodes_total }) {
  if (!stale) return nodes_total === 1 ? "1 node" : `${count(nodes_total)} nodes`;
  const reason = error === null ? "" : ` (${error})`;
  return as_of === null ? `The broker has not answered yet${reason}` : `Stale: the broker does not answer${reason}`;
}

/** @param {HTMLElement} cell @param {Node} node */
function showName(cell, { id, node }) {
  showTagged(cell, node, id === own ? "this node" : "");
}

/** @param {HTMLElement} cell @param {Node} node */
function showStatus(cell, { status, draining }) {
  showTagged(cell, status, draining ? "draining" : "", status === "OK" ? "good" : "warn");
}
