//! Announces this node every few seconds and when its status changes, and keeps the view of all nodes.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{ClusterStats, ClusterView, LOOK_PERIOD, NodeReport, PERIOD, REMOVAL_LIMIT, records};
use crate::nodes::{NodeId, NodesError};
use crate::redis_client::RedisClient;

/// Announces one life of a node.
pub(super) struct Task<R> {
    id: NodeId,
    report: R,
    redis: Option<RedisClient>,
    view: watch::Sender<Arc<ClusterView>>,
    stats: Arc<ClusterStats>,
    /// The last announcement; nothing after a failure.
    announced: Option<(Instant, NodeReport)>,
    /// Whether the last attempt failed, which is logged once for each outage.
    is_failing: bool,
}

impl<R: Fn() -> NodeReport> Task<R> {
    pub(super) fn new(
        id: NodeId,
        report: R,
        redis: Option<RedisClient>,
        view: watch::Sender<Arc<ClusterView>>,
        stats: Arc<ClusterStats>,
    ) -> Self {
        Self { id, report, redis, view, stats, announced: None, is_failing: false }
    }

    /// Announces the node until `shutdown` is cancelled, and then removes its record.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = interval(LOOK_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let turns = async {
            loop {
                ticks.tick().await;
                self.turn().await;
            }
        };
        // An announcement that is under way at shutdown is not worth a wait.
        tokio::select! {
            () = turns => {}
            () = shutdown.cancelled() => {}
        }
        let Some(redis) = &self.redis else { return };
        if !matches!(timeout(REMOVAL_LIMIT, records::remove(redis, &self.id)).await, Ok(Ok(()))) {
            tracing::debug!("the record of this node could not be removed from Redis; it expires");
        }
    }

    /// Announces the node if that is due.
    async fn turn(&mut self) {
        let (began, report) = (Instant::now(), (self.report)());
        let is_known = |(at, announced): &(Instant, NodeReport)| {
            at.elapsed() < PERIOD && (&announced.status, announced.draining) == (&report.status, report.draining)
        };
        if self.announced.as_ref().is_some_and(is_known) {
            return;
        }
        match self.announce(&report).await {
            Ok(view) => {
                self.announced = Some((began, report));
                self.is_failing = false;
                self.stats.nodes.set(view.nodes_total as u64);
                self.view.send_replace(Arc::new(view));
            }
            Err(error) => {
                self.announced = None;
                self.stats.failures.add(1);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, "cannot announce this node to the others through Redis; retrying");
                }
                self.view.send_modify(|view| Arc::make_mut(view).error = Some(reason(&error)));
            }
        }
    }

    async fn announce(&self, report: &NodeReport) -> Result<ClusterView, NodesError> {
        let Some(redis) = &self.redis else { return Ok(ClusterView::alone(&self.id, report.clone())) };
        let reading = records::announce(redis, &self.id, report).await?;
        self.stats.skipped.add(reading.skipped as u64);
        Ok(ClusterView::read(&self.id, reading))
    }
}

/// The category of an error, never an address; the log has the rest.
fn reason(error: &NodesError) -> String {
    match error {
        NodesError::Redis(error) => error.category().to_owned(),
        other => other.to_string(),
    }
}
