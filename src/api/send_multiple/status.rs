//! The status: the connections of all nodes as JSON, and the number of each as events.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::SendMultiple;
use crate::admin::StatusSource;
use crate::cluster::{ClusterNode, NodeReport};
use crate::decode::Target;
use crate::publishing::{Publication, Publisher, UpdateFields};
use crate::responses;
use crate::source::SourceId;

/// The channel of the numbers of connections.
pub(super) const CHANNEL: &str = "streaming:status";
/// How often each node publishes its own.
const INTERVAL: Duration = Duration::from_secs(20);

/// The route that is not a stream.
pub(crate) fn router(send_multiple: Arc<SendMultiple>) -> Router {
    Router::new().route(&send_multiple.config.paths.status(), get(status)).with_state(send_multiple)
}

async fn status(
    State(send_multiple): State<Arc<SendMultiple>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    match send_multiple.rights(&headers, query.as_deref().unwrap_or_default()).await {
        Ok(_) => responses::json(&status_json(&send_multiple)),
        Err(refusal) => refusal.into_response(),
    }
}

/// All nodes with their connections, as far as clients may know.
fn status_json(SendMultiple { status, cluster, .. }: &SendMultiple) -> Value {
    let mut nodes = vec![json!({"node": &*status.node, "connections": connections(status)})];
    let mut is_stale = false;
    if let Some(cluster) = cluster {
        let view = cluster.nodes();
        let node = |node: &ClusterNode| {
            let NodeReport { node: name, status, connections, .. } = &node.report;
            json!({"node": name, "status": status, "connections": connections, "reported_at": node.reported_at})
        };
        nodes = view.nodes.iter().map(node).collect();
        is_stale = view.is_stale();
    }
    let total = nodes.iter().filter_map(|node| node["connections"].as_u64()).sum::<u64>();
    json!({"node": &*status.node, "connections": total, "stale": is_stale, "nodes": nodes})
}

fn connections(status: &StatusSource) -> u64 {
    status.handle.stats().connections.get()
}

/// Publishes the number of connections now, and every 20 seconds until `shutdown` is cancelled. A failure is logged once for each
/// outage.
pub async fn publish_count(send_multiple: Arc<SendMultiple>, publisher: Publisher, shutdown: CancellationToken) {
    let channel = format!("{}{CHANNEL}", send_multiple.config.channel_prefix);
    let mut failing = false;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let published = async {
            ticks.tick().await;
            publisher.publish(&[count(&channel, &send_multiple.status)]).await
        };
        // What is under way at shutdown is not worth a wait.
        let published = tokio::select! {
            published = published => published,
            () = shutdown.cancelled() => return,
        };
        match published {
            Ok(_) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, channel, "cannot publish the number of connections");
            }
            Err(_) => {}
        }
    }
}

fn count(channel: &str, status: &StatusSource) -> Publication {
    Publication {
        source: SourceId::DEFAULT,
        target: Target::Channel(channel.to_owned()),
        event: None,
        data: connections(status).to_string(),
        update: UpdateFields::default(),
        sender: None,
        idempotency_key: None,
    }
}
