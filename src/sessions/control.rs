//! Receives commands for the sessions of this node, and the answers of other nodes, from its channel in Redis.

use std::sync::Arc;

use backon::BackoffBuilder;
use tokio::sync::watch;

use super::SessionStats;
use super::command::{Acknowledgement, Received};
use super::local::Local;
use super::pending::Pending;
use super::redis::{RedisStore, channel};
use crate::nodes::NodeId;
use crate::redis_client::RedisClient;
use crate::redis_client::subscription::{LONGEST_PAUSE, SubscriptionEnd, in_time, next_message, pauses};

/// Receives what is meant for one node.
pub(super) struct Control {
    pub(super) client: RedisClient,
    pub(super) store: RedisStore,
    pub(super) local: Arc<Local>,
    pub(super) pending: Arc<Pending>,
    pub(super) life: watch::Receiver<NodeId>,
    pub(super) stats: Arc<SessionStats>,
}

impl Control {
    /// Receives for ever. While Redis is away, it tries again with a pause in between.
    pub(super) async fn run(mut self) {
        let pauses = pauses();
        let mut next_pause = pauses.build();
        loop {
            let mut is_subscribed = false;
            let ended = self.receive(&mut is_subscribed).await;
            if is_subscribed {
                next_pause = pauses.build();
            }
            let Err(end) = ended else { continue };
            self.stats.failures.add(1);
            tracing::debug!(error = %end, "the channel of this node is not subscribed to");
            tokio::time::sleep(next_pause.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }

    /// Receives until the node has another life.
    async fn receive(&mut self, is_subscribed: &mut bool) -> Result<(), SubscriptionEnd> {
        let life = self.life.borrow_and_update().clone();
        let server = in_time(self.client.server()).await?;
        let (mut sink, mut events) = in_time(server.pubsub()).await?.split();
        in_time(sink.subscribe(channel(life.as_str()))).await?;
        *is_subscribed = true;
        self.local.was_deaf();
        loop {
            let event = tokio::select! {
                event = next_message(&server, &mut sink, &mut events) => event?,
                // Fails at the shutdown, which disables this branch.
                Ok(()) = self.life.changed() => return Ok(()),
            };
            match serde_json::from_slice(event.get_payload_bytes()) {
                Ok(Received::Acknowledgement(answer)) => self.pending.complete(answer),
                Ok(Received::Command(command)) => {
                    if let Some(reply) = self.local.deliver(command) {
                        let answer =
                            Acknowledgement { acknowledged: reply.request, life: life.to_string(), connections: 0 };
                        // Not here: nothing may keep the next event waiting.
                        let (store, pending) = (self.store.clone(), Arc::clone(&self.pending));
                        let life = life.clone();
                        tokio::spawn(
                            async move { acknowledge(&store, &pending, &life, vec![(reply.life, answer)]).await },
                        );
                    }
                }
                Err(error) => tracing::debug!(%error, "a command to this node is invalid"),
            }
        }
    }
}

/// Answers nodes that wait.
pub(super) async fn acknowledge(
    store: &RedisStore,
    pending: &Pending,
    life: &NodeId,
    answers: Vec<(String, Acknowledgement)>,
) {
    let mut pipeline = redis::pipe();
    let mut is_empty = true;
    for (to, answer) in answers {
        let answer = Acknowledgement { life: life.to_string(), ..answer };
        if to == life.as_str() {
            pending.complete(answer);
        } else if let Ok(json) = serde_json::to_string(&answer) {
            pipeline.cmd("PUBLISH").arg(channel(&to)).arg(json).ignore();
            is_empty = false;
        }
    }
    if !is_empty && let Err(error) = store.nodes.ask_all::<()>(&pipeline).await {
        // They learn that it took too long.
        tracing::debug!(%error, "cannot answer other nodes");
    }
}
