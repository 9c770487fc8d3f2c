//! Announces clients again that the application may have missed: while no listener was there, or while this node could not hear the
//! answer.
//!
//! Who receives an announcement need not be a listener: monitors and routes subscribe to all channels. Only groups prove that a client was
//! noticed, so one without groups is announced again whoever has received it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{SESSION_PREFIX, WsHub};
use crate::redis_client::RedisClient;

/// The shortest time between two rounds, and the time between them while no one receives them.
const PERIOD: Duration = Duration::from_secs(1);
/// Time between two announcements of a client, in which it may be answered.
const REPEAT: Duration = Duration::from_secs(3);
/// Clients that are announced in a round, at most.
const MAX_ANNOUNCED: usize = 8192;
/// Clients that are announced together.
const BATCH: usize = 256;

/// Announces whenever the hub has clients for it.
pub(super) async fn run(client: RedisClient, hub: Arc<WsHub>) {
    let mut told = Told::default();
    let mut next = None;
    loop {
        let repeat = async {
            match next {
                Some(pause) => sleep(pause).await,
                None => hub.waiting.notified().await,
            }
        };
        let is_missed = tokio::select! {
            () = hub.unannounced.notified() => true,
            () = repeat => false,
        };
        told.update(hub.sessions().local_without_topics(SESSION_PREFIX), is_missed);
        let is_done = announce(&client, &hub, &mut told).await;
        sleep(PERIOD).await;
        let pause = if is_done { REPEAT.saturating_sub(PERIOD) } else { Duration::ZERO };
        next = (!told.0.is_empty()).then_some(pause);
    }
}

/// The clients of this node that belong to no group, and when each was announced; `None` if no one may have noticed.
#[derive(Debug, Default)]
struct Told(HashMap<Arc<str>, Option<Instant>>);

impl Told {
    /// Takes over who waits now. Without `is_missed`, those that are new have just been announced by their connections.
    fn update(&mut self, waiting: Vec<Arc<str>>, is_missed: bool) {
        let now = Instant::now();
        let at = |name: &Arc<str>| if is_missed { None } else { *self.0.get(name).unwrap_or(&Some(now)) };
        let updated = waiting.into_iter().map(|name| (Arc::clone(&name), at(&name))).collect();
        self.0 = updated;
    }

    /// Those that are to be announced, the one that has waited longest first.
    fn due(&self) -> Vec<Arc<str>> {
        let is_due = |at: &Option<Instant>| at.is_none_or(|at| at.elapsed() >= REPEAT);
        let mut due: Vec<_> = self.0.iter().filter(|(_, at)| is_due(at)).collect();
        due.sort_unstable_by_key(|(_, at)| **at);
        due.into_iter().map(|(name, _)| Arc::clone(name)).collect()
    }

    fn announced(&mut self, names: &[Arc<str>]) {
        let now = Instant::now();
        for name in names {
            self.0.insert(Arc::clone(name), Some(now));
        }
    }
}

/// Announces clients that are due. Returns whether all of them were announced, and someone has received it.
async fn announce(client: &RedisClient, hub: &WsHub, told: &mut Told) -> bool {
    let due = told.due();
    let now = &due[..due.len().min(MAX_ANNOUNCED)];
    let channel = hub.config.channel("client-new");
    // One alone first: as long as no one listens, the others have time.
    let (first, others) = now.split_at(now.len().min(1));
    for names in first.chunks(BATCH).chain(others.chunks(BATCH)) {
        let mut pipeline = redis::pipe();
        for name in names {
            pipeline.cmd("PUBLISH").arg(&channel).arg(WsHub::key(name));
        }
        match client.send_once::<Vec<u64>>(&pipeline).await {
            Ok(receivers) if receivers.iter().all(|receivers| *receivers > 0) => told.announced(names),
            Ok(_) => return false,
            Err(error) => {
                tracing::debug!(%error, "cannot announce ws-hub clients");
                return false;
            }
        }
    }
    now.len() == due.len()
}
