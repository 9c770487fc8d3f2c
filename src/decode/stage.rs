//! The decode stage: takes events from the source, and passes messages to the hub and keys to the tally stage.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tallycast_fanout::{Counter, Publisher, inbox};
use tokio::sync::watch;

use super::relayed::Relayed;
use super::{DecodeError, Decoded, Routes};
use crate::rate_limited_log::RateLimitedLog;
use crate::source::SourceEvent;
use crate::tally::TallyInput;
use crate::trace::EventTrace;

/// Events taken from the inbox at once.
const BATCH: usize = 1024;
/// The characters of a channel that a log line shows.
const LOGGED_CHANNEL: usize = 64;

/// What the stage counts. Counters only grow.
#[derive(Debug, Default)]
pub struct Stats {
    /// Events that became messages.
    pub decoded: Counter,
    /// Events that did not.
    pub rejected: Counter,
    /// Events that became messages, by the pattern of their route. Patterns of removed routes stay.
    by_route: Mutex<Vec<(String, Arc<Counter>)>>,
}

impl Stats {
    /// Events that became messages, by the pattern of their route.
    pub fn by_route(&self) -> Vec<(String, u64)> {
        let by_route = self.by_route.lock().unwrap_or_else(PoisonError::into_inner);
        by_route.iter().map(|(pattern, count)| (pattern.clone(), count.get())).collect()
    }

    /// The counters of `routes`, in their order.
    fn counters(&self, routes: &Routes) -> Vec<Arc<Counter>> {
        let mut by_route = self.by_route.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = |pattern: String| match by_route.iter().find(|(known, _)| *known == pattern) {
            Some((_, count)) => Arc::clone(count),
            None => {
                let count = Arc::<Counter>::default();
                by_route.push((pattern, Arc::clone(&count)));
                count
            }
        };
        routes.patterns().map(counter).collect()
    }
}

/// Decodes the events of `inbox` until it closes, with the current `routes`. Waits while a later stage has no room. An
/// invalid event is counted, logged at a bounded rate, and dropped.
///
/// An event is acknowledged when the hub has taken its message, or when it was dropped as invalid.
pub async fn run(
    mut routes: watch::Receiver<Routes>,
    mut inbox: inbox::Receiver<SourceEvent>,
    hub: Publisher,
    tally: inbox::Sender<TallyInput>,
    stats: Arc<Stats>,
) {
    let mut events = Vec::with_capacity(BATCH);
    let mut log = RateLimitedLog::new();
    let mut table = routes.borrow_and_update().clone();
    let mut counters = stats.counters(&table);
    // As sources have said, whatever routes there are.
    let mut partitions: HashMap<Arc<str>, u32> = HashMap::new();
    let mut relayed = Relayed::default();
    loop {
        let received = tokio::select! {
            // Fails when the sender is gone, which disables this branch: the routes stay as they are.
            Ok(()) = routes.changed() => None,
            count = inbox.recv_many(&mut events, BATCH) => Some(count),
        };
        if received == Some(0) {
            return;
        }
        if received.is_none() || routes.has_changed().unwrap_or(false) {
            table = routes.borrow_and_update().clone();
            counters = stats.counters(&table);
            partitions.iter().for_each(|(sequence, count)| table.set_partitions(sequence, *count));
            // Before the first message that is decoded by the new routes.
            if hub.set_retentions(relayed.retentions(&table)).await.is_err() {
                return;
            }
        }
        for event in events.drain(..) {
            let report = match event {
                SourceEvent::Published(event) => Err(event),
                SourceEvent::Relayed(event) => {
                    if relayed.pass_on(event, &table, &hub, &stats.decoded).await.is_err() {
                        return;
                    }
                    continue;
                }
                SourceEvent::Totals(snapshot) => Ok(TallyInput::Totals(snapshot)),
                SourceEvent::TotalsState { namespace, state } => Ok(TallyInput::TotalsState { namespace, state }),
                SourceEvent::Sequence(event) => {
                    if hub.send_sequence_event(event).await.is_err() {
                        return;
                    }
                    continue;
                }
                SourceEvent::Partitions { sequence, count } => {
                    table.set_partitions(&sequence, count);
                    partitions.insert(sequence, count);
                    // Before the first entry of a partition that was added.
                    if hub.set_retentions(relayed.retentions(&table)).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let mut event = match report {
                Err(event) => event,
                Ok(report) => {
                    // After the keys that it includes, and before those that it does not.
                    if tally.send(report).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let acknowledgement = event.acknowledgement.take();
            let trace = event.trace.take().and_then(|trace| match *trace {
                EventTrace::Sampled(trace) => Some(trace),
                EventTrace::Continues(_) => None,
            });
            if let Some(trace) = &trace {
                trace.decode_began();
            }
            // For the log, because decoding consumes the event.
            let channel: String = event.channel.chars().take(LOGGED_CHANNEL).collect();
            let Decoded { mut message, key, route } = match table.decode(event) {
                Ok(decoded) => decoded,
                Err(error) => {
                    // What is for other programs is not lost.
                    if error != DecodeError::Reserved {
                        stats.rejected.add(1);
                        if let Some(trace) = trace {
                            trace.decoded(Err(error.to_string()));
                        }
                        log.log(|suppressed| tracing::warn!(%error, channel, suppressed, "dropped an invalid event"));
                    }
                    if let Some(acknowledgement) = acknowledgement {
                        acknowledgement.acknowledge();
                    }
                    continue;
                }
            };
            stats.decoded.add(1);
            // There is one for each route.
            counters[route].add(1);
            if let Some(trace) = &trace {
                trace.decoded(Ok(&message.namespace));
                message.probe = Some(trace.follow(&message.namespace));
            }
            if let Some(key) = key {
                let input = match trace {
                    Some(trace) => TallyInput::Traced(key, trace),
                    None => TallyInput::Key(key),
                };
                if tally.send(input).await.is_err() {
                    return;
                }
            }
            let sent = match acknowledgement {
                Some(acknowledgement) => hub.send_acknowledged(message, acknowledgement).await,
                None => hub.send(message).await,
            };
            if sent.is_err() {
                return;
            }
        }
    }
}
