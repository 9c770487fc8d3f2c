//! Announces this node to all others through a broker that keeps nothing, and keeps the view of all nodes.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::gossip::{Gossip, Reaction};
use super::medium::{Link, Medium};
use super::{ClusterStats, ClusterView, LOOK_PERIOD, NodeReport, PERIOD, REMOVAL_LIMIT};
use crate::nodes::NodeId;
use crate::source::BoxError;

/// Announces one life of a node.
pub(super) struct Announcer<R> {
    id: NodeId,
    report: R,
    medium: Medium,
    view: watch::Sender<Arc<ClusterView>>,
    stats: Arc<ClusterStats>,
    gossip: Gossip,
    /// The last announcement; nothing if the next one is due at once.
    announced: Option<(Instant, NodeReport)>,
    /// When the broker has passed on an announcement of this node last.
    confirmed_at: Option<Instant>,
    /// Whether the last attempt failed, which is logged once for each outage.
    is_failing: bool,
}

/// Why the loop woke.
enum LoopEvent {
    Tick,
    Received(Result<Vec<u8>, BoxError>),
}

impl<R: Fn() -> NodeReport> Announcer<R> {
    pub(super) fn new(
        id: NodeId,
        report: R,
        medium: Medium,
        view: watch::Sender<Arc<ClusterView>>,
        stats: Arc<ClusterStats>,
    ) -> Self {
        let gossip = Gossip::new(id.clone());
        Self { id, report, medium, view, stats, gossip, announced: None, confirmed_at: None, is_failing: false }
    }

    /// Announces the node until `shutdown` is cancelled, and then takes its leave.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut link = None;
        // Work that is under way at shutdown is not worth a wait.
        tokio::select! {
            () = self.sessions(&mut link) => {}
            () = shutdown.cancelled() => {}
        }
        let Some(link) = link else { return };
        if !matches!(timeout(REMOVAL_LIMIT, link.send(self.gossip.gone())).await, Ok(Ok(()))) {
            tracing::debug!("cannot announce to the other nodes that this one stops; its lease expires");
        }
    }

    /// Runs one connection after another. `link` has the one that is open.
    async fn sessions(&mut self, link: &mut Option<Link>) {
        loop {
            let error = match self.medium.open().await {
                Ok(opened) => {
                    let link = link.insert(opened);
                    self.session(link).await
                }
                Err(error) => error,
            };
            *link = None;
            self.announced = None;
            self.stats.failures.add(1);
            let reason = error.to_string();
            if !std::mem::replace(&mut self.is_failing, true) {
                tracing::warn!(reason, "cannot announce this node to the others; retrying");
            }
            self.view.send_modify(|view| Arc::make_mut(view).error = Some(reason));
            sleep(LOOK_PERIOD).await;
        }
    }

    /// Announces the node and listens to the others until the connection fails.
    async fn session(&mut self, link: &mut Link) -> BoxError {
        self.gossip.resume(Instant::now());
        if let Err(error) = link.send(self.gossip.ask()).await {
            return error;
        }
        let mut ticks = interval(LOOK_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                _ = ticks.tick() => LoopEvent::Tick,
                message = link.receive() => LoopEvent::Received(message),
            };
            match event {
                LoopEvent::Tick => {
                    if let Err(error) = self.turn(link).await {
                        return error;
                    }
                }
                LoopEvent::Received(Ok(message)) => self.receive(&message),
                LoopEvent::Received(Err(error)) => return error,
            }
        }
    }

    /// Announces the node if that is due, and forgets those that have died.
    async fn turn(&mut self, link: &Link) -> Result<(), BoxError> {
        let report = (self.report)();
        let is_known = |(at, announced): &(Instant, NodeReport)| {
            at.elapsed() < PERIOD && (&announced.status, announced.draining) == (&report.status, report.draining)
        };
        if !self.announced.as_ref().is_some_and(is_known) {
            link.send(self.gossip.here(&report)).await?;
            self.announced = Some((Instant::now(), report));
        }
        self.gossip.expire(Instant::now());
        self.update_view();
        Ok(())
    }

    fn receive(&mut self, message: &[u8]) {
        match self.gossip.receive(message, Instant::now(), now()) {
            Reaction::None => {}
            Reaction::Changed => self.update_view(),
            // With the next tick, so that not all nodes answer at the same moment.
            Reaction::Announce => self.announced = None,
            Reaction::Own => {
                self.confirmed_at = Some(Instant::now());
                self.is_failing = false;
                self.update_view();
            }
        }
    }

    fn update_view(&mut self) {
        let skipped = self.gossip.take_skipped();
        self.stats.skipped.add(skipped as u64);
        // Before the broker has passed on an announcement, nothing is known.
        let Some(confirmed_at) = self.confirmed_at else { return };
        let reading = self.gossip.reading(&(self.report)(), now());
        self.stats.nodes.set(reading.total as u64);
        self.view.send_replace(Arc::new(ClusterView::received(&self.id, reading, confirmed_at)));
    }
}

/// The time in seconds since the Unix epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
