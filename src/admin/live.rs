//! The live view: once a second what the process does, sent over an engine of its own, so that no reader of the public
//! streams is shown it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::process;
use super::status::{StatusSource, unix_seconds};
use tallycast_fanout::{Fanout, FeedReport, Handle, Message, Namespace, Publisher};

/// The time between two events.
const PERIOD: Duration = Duration::from_secs(1);
/// Samples kept for who opens the page: ten minutes.
const MAX_SAMPLES: usize = 600;
/// Feeds that are named, those with the most readers.
const MAX_FEEDS: usize = 50;
/// Events that may wait for the engine.
const INBOX: usize = 4;

/// One point of the charts. Counts are since the start.
#[derive(Debug, Clone, Copy, Serialize)]
struct Sample {
    /// Seconds since the Unix epoch.
    at: f64,
    received: u64,
    broadcast: u64,
    delivered: u64,
    bytes: u64,
    memory_bytes: Option<u64>,
    cpu_seconds: Option<f64>,
}

/// Where live events and past samples are had. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Live {
    handle: Handle,
    samples: Arc<Mutex<VecDeque<Sample>>>,
}

impl Live {
    /// Starts the engine for live events, and the task that sends them until `shutdown` is cancelled. What is returned
    /// with it ends when the last stream has.
    pub fn start(
        status: StatusSource,
        close_limit: Duration,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let fanout = Fanout::builder().inbox(INBOX).shards(1).close_timeout(close_limit).build();
        let live = Self { handle: fanout.handle(), samples: Arc::default() };
        let sampler = tokio::spawn(live.clone().run(status, fanout.publisher(), shutdown));
        (live, async {
            if let Err(error) = sampler.await {
                tracing::error!(%error, "the live view failed");
            }
            fanout.join().await;
        })
    }

    /// Where the events come from.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The answer of `GET /admin/history.json`.
    pub(super) fn history(&self) -> Value {
        json!({ "samples": *self.samples.lock().unwrap_or_else(PoisonError::into_inner) })
    }

    async fn run(self, status: StatusSource, messages: Publisher, shutdown: CancellationToken) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let usage = process::usage();
            self.keep(&status, usage);
            if self.handle.stats().connections.get() == 0 {
                continue;
            }
            // An engine that is too busy to tell of its feeds still has all the rest to tell.
            let feeds = status.handle.feeds().await.unwrap_or_default();
            let event = event(&status, usage, feeds).to_string();
            // With no room, nobody reads fast enough, and the next event tells the same and more.
            let _ = messages.try_send(Message::text(Namespace::root(), event));
        }
    }

    fn keep(&self, status: &StatusSource, usage: process::Usage) {
        let hub = status.handle.stats();
        let sample = Sample {
            at: now(),
            received: status.source.received.get(),
            broadcast: hub.broadcast.get(),
            delivered: hub.delivered.get(),
            bytes: hub.bytes.get(),
            memory_bytes: usage.memory_bytes,
            cpu_seconds: usage.cpu_seconds,
        };
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == MAX_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }
}

fn event(status: &StatusSource, usage: process::Usage, feeds: Vec<FeedReport>) -> Value {
    let feeds: Vec<Value> = feeds
        .into_iter()
        .take(MAX_FEEDS)
        .map(|FeedReport { topics, framing, policy, readers }| {
            json!({"namespace": topics.to_string(), "framing": framing, "policy": policy.to_string(), "readers": readers})
        })
        .collect();
    json!({
        "at": now(),
        "node": &*status.node,
        "version": env!("CARGO_PKG_VERSION"),
        "status": status.word(),
        "started_at": unix_seconds(status.started_at),
        "broker": {
            "state": status.broker_word(),
            "subscriptions": status.source.subscriptions.get(),
            "gaps": status.source.gaps.get(),
            "gap_seconds": status.source.gap_milliseconds.get() as f64 / 1000.0,
        },
        "counters": status.counters(),
        "process": usage,
        "inboxes": status.inboxes.depths(&status.handle),
        "feeds": feeds,
    })
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
