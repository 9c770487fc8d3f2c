//! Announces clients again that the application may have missed: while no one listened, or while this node could not hear the answer.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{SESSION_PREFIX, WsHub};
use crate::redis_client::RedisClient;

/// Time between two announcements, while no one receives them.
const PERIOD: Duration = Duration::from_secs(1);
/// Clients that are announced together.
const BATCH: usize = 256;

/// Announces whenever the hub has clients for it.
pub(super) async fn run(client: RedisClient, hub: Arc<WsHub>) {
    loop {
        hub.unannounced.notified().await;
        while !announce(&client, &hub).await {
            sleep(PERIOD).await;
        }
        sleep(PERIOD).await;
    }
}

/// Announces the clients of this node that belong to no group. Returns whether someone has received it.
async fn announce(client: &RedisClient, hub: &WsHub) -> bool {
    let waiting = hub.sessions().local_without_topics(SESSION_PREFIX);
    let Some((first, others)) = waiting.split_first() else { return true };
    let channel = hub.config.channel("client-new");
    // One alone first: as long as no one listens, the others have time.
    for names in std::iter::once(slice::from_ref(first)).chain(others.chunks(BATCH)) {
        let mut pipeline = redis::pipe();
        for name in names {
            pipeline.cmd("PUBLISH").arg(&channel).arg(WsHub::key(name));
        }
        match client.send_once::<Vec<u64>>(&pipeline).await {
            Ok(receivers) if receivers.iter().all(|receivers| *receivers > 0) => {}
            Ok(_) => return false,
            Err(error) => {
                tracing::debug!(%error, "cannot announce ws-hub clients");
                return false;
            }
        }
    }
    true
}
