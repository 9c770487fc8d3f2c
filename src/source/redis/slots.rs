//! What belongs to slots of a Redis Cluster: exact channels, by sharded pub/sub, and streams. Each slot has sources of its own, with
//! connections to its owner, so that the loss of a node affects only what that node had.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::Config;
use super::sharded::ShardedSource;
use super::streams::StreamsSource;
use crate::redis_client::slot::slot;
use crate::source::{SourceError, SourceId, StateBoard, StreamKey, Supervisor};

/// What the sources of slots run under.
#[derive(Debug)]
pub struct Supervisors {
    /// A supervisor like those of all.
    pub like: Supervisor,
    /// The source that they are together, and its name unless it is the default one.
    pub of: (SourceId, Option<Arc<str>>),
    /// Where each reports its state.
    pub states: StateBoard,
}

impl Supervisors {
    fn next(&self) -> Supervisor {
        let (source, name) = self.of.clone();
        self.like.clone().source(source, name, &self.states)
    }
}

/// The sources of a slot.
#[derive(Default)]
struct Slot {
    channels: Option<watch::Sender<Vec<String>>>,
    streams: Option<watch::Sender<Vec<StreamKey>>>,
}

/// Why the loop woke.
enum LoopEvent {
    Changed,
    SourceEnded(Result<Result<(), SourceError>, JoinError>),
    Shutdown,
}

/// Receives from `channels` and `streams`, which may change, by a source for each slot, until the shutdown.
///
/// # Errors
/// As for [`Supervisor::run`].
pub async fn run(
    supervisors: Supervisors,
    config: Config,
    mut channels: watch::Receiver<Vec<String>>,
    mut streams: watch::Receiver<Vec<StreamKey>>,
) -> Result<(), SourceError> {
    let shutdown = supervisors.like.shutdown_token();
    let mut running = JoinSet::new();
    let mut slots: BTreeMap<u16, Slot> = BTreeMap::new();
    let mut is_changed = true;
    loop {
        if std::mem::take(&mut is_changed) {
            let by_slot = grouped(channels.borrow_and_update().iter().cloned(), |channel| slot(channel.as_bytes()));
            for (number, channels) in complete(by_slot, &slots, |slot| slot.channels.is_some()) {
                let sender = &mut slots.entry(number).or_default().channels;
                update(sender, channels, |channels| {
                    running.spawn(supervisors.next().run(ShardedSource::new(config.clone(), number, channels)));
                });
            }
            let by_slot = grouped(streams.borrow_and_update().iter().cloned(), |stream| slot(stream.key.as_bytes()));
            for (number, streams) in complete(by_slot, &slots, |slot| slot.streams.is_some()) {
                let sender = &mut slots.entry(number).or_default().streams;
                update(sender, streams, |streams| {
                    running.spawn(supervisors.next().run(StreamsSource::of_slot(config.clone(), number, streams)));
                });
            }
        }
        let event = tokio::select! {
            Ok(()) = channels.changed() => LoopEvent::Changed,
            Ok(()) = streams.changed() => LoopEvent::Changed,
            Some(ended) = running.join_next() => LoopEvent::SourceEnded(ended),
            () = shutdown.cancelled() => LoopEvent::Shutdown,
        };
        match event {
            LoopEvent::Changed => is_changed = true,
            LoopEvent::SourceEnded(ended) => {
                result(ended)?;
                // Without a shutdown, the pipeline has ended.
                break;
            }
            LoopEvent::Shutdown => break,
        }
    }
    // The inbox closes when nothing can emit any more.
    drop(supervisors);
    while let Some(ended) = running.join_next().await {
        result(ended)?;
    }
    Ok(())
}

/// How a source ended. A panic is one of this task, too.
fn result(ended: Result<Result<(), SourceError>, JoinError>) -> Result<(), SourceError> {
    match ended {
        Ok(ended) => ended,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Ok(()),
    }
}

/// What belongs to each slot.
fn grouped<T>(all: impl Iterator<Item = T>, slot: impl Fn(&T) -> u16) -> BTreeMap<u16, Vec<T>> {
    let mut by_slot: BTreeMap<u16, Vec<T>> = BTreeMap::new();
    for one in all {
        by_slot.entry(slot(&one)).or_default().push(one);
    }
    by_slot
}

/// The same with nothing for slots that have a source and need none any more.
fn complete<T>(
    mut by_slot: BTreeMap<u16, Vec<T>>,
    slots: &BTreeMap<u16, Slot>,
    has_source: impl Fn(&Slot) -> bool,
) -> BTreeMap<u16, Vec<T>> {
    for (number, _) in slots.iter().filter(|(_, slot)| has_source(slot)) {
        by_slot.entry(*number).or_default();
    }
    by_slot
}

/// Passes on what a source receives, or starts the source.
fn update<T: PartialEq>(
    sender: &mut Option<watch::Sender<Vec<T>>>,
    values: Vec<T>,
    start: impl FnOnce(watch::Receiver<Vec<T>>),
) {
    match sender {
        Some(sender) => {
            sender.send_if_modified(|current| {
                let is_modified = *current != values;
                *current = values;
                is_modified
            });
        }
        None => {
            let (new, receiver) = watch::channel(values);
            *sender = Some(new);
            start(receiver);
        }
    }
}
