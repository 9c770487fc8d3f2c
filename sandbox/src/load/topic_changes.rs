//! Readers that change their topics over WebSocket: what they send, and which messages they are due.
//!
//! Each change replaces one symbol by another. A connection sends the next change after the answer to the last. Messages that
//! are published after the answer to a subscription has arrived are due, until the change that ends it is sent.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    delivery::{latencies, record},
    workload::{Arrival, Newest, SYMBOL_TOPICS, SymbolMessage, Workload, symbol_name},
};
use crate::streams::Answer;

/// The seed of the chosen symbols, so that all runs have the same.
const SEED: u64 = 12;

/// The changes of all connections.
#[derive(Debug)]
pub(super) struct TopicChanges {
    /// Changes per second and connection.
    rate: u32,
    readers: Vec<Reader>,
    rng: ChaCha8Rng,
    started: Option<Instant>,
    /// Changes that were due so far. Each is of the connection after that of the one before.
    due: u64,
    next_id: u64,
    changed: Changed,
}

/// What came of the changes.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    /// Changes that were answered.
    pub(super) answered: u64,
    /// Changes that were refused.
    pub(super) refused: u64,
    /// Changes that were not sent, because the one before was not answered yet.
    pub(super) postponed: u64,
    /// Messages that were due after a subscription began or before the end of the run, and never came.
    pub(super) lost: u64,
    /// From sending a change until the return of the `read(2)` with its answer, in microseconds.
    pub(super) latency: Histogram<u64>,
    /// From the first change until the last answer.
    pub(super) period: Duration,
    /// CPU time of the server for each change: what the run took more than the same without changes.
    pub(super) cpu: Option<Duration>,
}

/// The topics of one connection.
#[derive(Debug)]
struct Reader {
    subscriptions: Vec<Subscription>,
    /// The place that changes next.
    place: usize,
    pending: Option<Pending>,
}

/// A change that was sent.
#[derive(Debug)]
struct Pending {
    id: u64,
    sent_at: Duration,
    place: usize,
    /// The subscription that it ends.
    ended: Subscription,
}

/// A symbol that a connection subscribes to.
#[derive(Clone, Copy, Debug)]
struct Subscription {
    symbol: u32,
    /// Since when messages are due: the arrival of the answer. `None` before.
    since: Option<Duration>,
    /// The ordinals of the first message that was received, and after the last one.
    received: Option<(u32, u32)>,
}

impl Subscription {
    fn new(symbol: u32, since: Option<Duration>) -> Self {
        Self { symbol, since, received: None }
    }

    fn receive(&mut self, ordinal: u32) -> Arrival {
        let (first, next) = self.received.unwrap_or((ordinal, ordinal));
        let Some(missing) = ordinal.checked_sub(next) else {
            return Arrival::Duplicate;
        };
        self.received = Some((first, ordinal + 1));
        Arrival::Due { missing: missing.into() }
    }
}

impl TopicChanges {
    /// Changes of `readers` connections of `workload`, each of which changes its topics `rate` times per second.
    ///
    /// # Errors
    /// If there are no symbols to change to.
    pub(super) fn new(rate: u32, readers: usize, workload: &Workload) -> Result<Self> {
        let readers: Vec<Reader> = (0..readers)
            .map(|index| {
                let subscription = |symbol: &u32| Subscription::new(*symbol, Some(Duration::ZERO));
                let subscriptions = workload.list(index).iter().map(subscription).collect();
                Reader { subscriptions, place: 0, pending: None }
            })
            .collect();
        let watched = readers.iter().map(|reader| reader.subscriptions.len()).max().unwrap_or_default();
        ensure!((1..workload.symbols()).contains(&watched), "topic changes need symbols that are not watched");
        Ok(Self {
            rate,
            readers,
            rng: ChaCha8Rng::seed_from_u64(SEED),
            started: None,
            due: 0,
            next_id: 0,
            changed: Changed {
                answered: 0,
                refused: 0,
                postponed: 0,
                lost: 0,
                latency: latencies()?,
                period: Duration::ZERO,
                cpu: None,
            },
        })
    }

    /// The connection whose change is due next and its command, if one is due. Changes are due from the first call on.
    pub(super) fn next(&mut self, workload: &Workload, now: Duration) -> Option<(usize, String)> {
        let elapsed = self.started.get_or_insert_with(Instant::now).elapsed();
        let due = (elapsed.as_secs_f64() * f64::from(self.rate) * self.readers.len() as f64) as u64;
        while self.due < due {
            let index = (self.due % self.readers.len() as u64) as usize;
            self.due += 1;
            let reader = &mut self.readers[index];
            if reader.pending.is_some() {
                self.changed.postponed += 1;
                continue;
            }
            let symbol = loop {
                let symbol = self.rng.random_range(0..workload.symbols()) as u32;
                if !reader.subscriptions.iter().any(|subscription| subscription.symbol == symbol) {
                    break symbol;
                }
            };
            let id = self.next_id;
            self.next_id += 1;
            let place = reader.place;
            reader.place = (place + 1) % reader.subscriptions.len();
            let ended = std::mem::replace(&mut reader.subscriptions[place], Subscription::new(symbol, None));
            let command = format!(
                r#"{{"id":{id},"subscribe":["{SYMBOL_TOPICS}{}"],"unsubscribe":["{SYMBOL_TOPICS}{}"]}}"#,
                symbol_name(symbol),
                symbol_name(ended.symbol)
            );
            reader.pending = Some(Pending { id, sent_at: now, place, ended });
            return Some((index, command));
        }
        None
    }

    /// Records an answer that connection `index` read at `now`.
    ///
    /// # Errors
    /// If it answers nothing that was sent.
    pub(super) fn answer(&mut self, index: usize, answer: Answer, now: Duration) -> Result<()> {
        let reader = &mut self.readers[index];
        let pending = reader.pending.take_if(|pending| pending.id == answer.id);
        let Some(Pending { sent_at, place, ended, .. }) = pending else {
            anyhow::bail!("unexpected answer to command {}", answer.id);
        };
        if answer.is_refused {
            self.changed.refused += 1;
            reader.subscriptions[place] = ended;
        } else {
            self.changed.answered += 1;
            reader.subscriptions[place].since = Some(now);
        }
        record(&mut self.changed.latency, now.saturating_sub(sent_at));
        self.changed.period = self.started.map_or(Duration::ZERO, |started| started.elapsed());
        Ok(())
    }

    /// Records that connection `index` received message `sequence` of `workload`.
    pub(super) fn receive(&mut self, index: usize, sequence: u64, workload: &Workload) -> Arrival {
        let Some(SymbolMessage { symbol, ordinal }) = workload.symbol_message(sequence) else {
            return Arrival::NotSubscribed;
        };
        let Reader { subscriptions, pending, .. } = &mut self.readers[index];
        let ended = pending.as_mut().map(|pending| &mut pending.ended);
        match subscriptions.iter_mut().chain(ended).find(|subscription| subscription.symbol == symbol) {
            Some(subscription) => subscription.receive(ordinal),
            None => Arrival::NotSubscribed,
        }
    }

    /// How many subscriptions are due messages, and how many of these have the newest and no change to be answered.
    /// `published_at` are the times of all messages.
    pub(super) fn newest(&self, workload: &Workload, published_at: &[Duration]) -> Newest {
        let times = times_by_symbol(workload, published_at);
        let mut newest = Newest::default();
        for reader in &self.readers {
            for subscription in &reader.subscriptions {
                let times = &times[subscription.symbol as usize];
                let is_answered = subscription.since.is_some();
                let is_due = subscription.since.is_none_or(|since| times.last().is_some_and(|last| *last > since));
                let has_newest = subscription.received.is_some_and(|(_, next)| next as usize == times.len());
                newest.due += u64::from(is_due);
                newest.received += u64::from(is_due && is_answered && has_newest);
            }
        }
        newest
    }

    /// The result at the end of the run, in which messages were published at `published_at`.
    pub(super) fn finish(&mut self, workload: &Workload, published_at: &[Duration]) -> Changed {
        let times = times_by_symbol(workload, published_at);
        let lost = self.readers.iter().flat_map(|reader| &reader.subscriptions).map(|subscription| {
            let times = &times[subscription.symbol as usize];
            // Until the answer, it is unknown from when on messages are due.
            subscription.since.map_or(0, |since| {
                let due = times.partition_point(|time| *time <= since);
                let (first, next) = subscription
                    .received
                    .map_or((times.len(), times.len()), |(first, next)| (first as usize, next as usize));
                (first.saturating_sub(due) + times.len() - next) as u64
            })
        });
        let lost: u64 = lost.sum();
        Changed { lost, ..self.changed.clone() }
    }
}

/// The times at which the messages of each symbol were published.
fn times_by_symbol(workload: &Workload, published_at: &[Duration]) -> Vec<Vec<Duration>> {
    let mut times = vec![Vec::new(); workload.symbols()];
    for (sequence, time) in (0..).zip(published_at) {
        if let Some(message) = workload.symbol_message(sequence) {
            times[message.symbol as usize].push(*time);
        }
    }
    times
}

impl Changed {
    /// Answers per second.
    pub(super) fn answers_per_second(&self) -> f64 {
        self.answered as f64 / self.period.as_secs_f64()
    }

    /// Sets the CPU time of each change: what `total` is above `without`, the same run without changes.
    pub(super) fn set_cpu(&mut self, total: Duration, without: Duration) {
        let answered = u32::try_from(self.answered).unwrap_or(u32::MAX);
        self.cpu = total.saturating_sub(without).checked_div(answered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: u64 = 200;

    /// One connection that watches two of four symbols and changes as often as it is asked.
    fn changes() -> Result<(Workload, TopicChanges, Vec<Duration>)> {
        let workload = Workload::watch_lists(2, 4, 1, 1, MESSAGES);
        let changes = TopicChanges::new(1_000_000, 1, &workload)?;
        Ok((workload, changes, (0..MESSAGES).map(Duration::from_secs).collect()))
    }

    fn send(changes: &mut TopicChanges, workload: &Workload, now: u64) -> String {
        loop {
            if let Some((0, command)) = changes.next(workload, Duration::from_secs(now)) {
                return command;
            }
        }
    }

    /// Receives all messages of `sequences` that a subscription of the connection is for.
    fn receive(changes: &mut TopicChanges, workload: &Workload, sequences: std::ops::Range<u64>) -> u64 {
        let mut missing = 0;
        for sequence in sequences {
            if let Arrival::Due { missing: count } = changes.receive(0, sequence, workload) {
                missing += count;
            }
        }
        missing
    }

    #[test]
    fn complete_subscriptions_lose_nothing() -> Result<()> {
        let (workload, mut changes, times) = changes()?;
        assert_eq!(receive(&mut changes, &workload, 0..50), 0);
        let before = changes.readers[0].subscriptions[0].symbol;
        let command = send(&mut changes, &workload, 50);
        assert!(command.contains(&format!(r#""unsubscribe":["/quotes/{}"]"#, symbol_name(before))), "{command}");
        assert!(command.starts_with(r#"{"id":0,"subscribe":["/quotes/S"#), "{command}");
        // Messages of both topics may arrive before the answer.
        assert_eq!(receive(&mut changes, &workload, 50..60), 0);
        changes.answer(0, Answer { id: 0, is_refused: false }, Duration::from_secs(60))?;
        assert_eq!(receive(&mut changes, &workload, 60..MESSAGES), 0);
        let newest = changes.newest(&workload, &times);
        assert_eq!((newest.received, newest.due), (2, 2));
        let changed = changes.finish(&workload, &times);
        assert_eq!((changed.answered, changed.refused, changed.lost), (1, 0, 0));
        assert_eq!(changed.latency.min(), Histogram::<u64>::lowest_equivalent(&changed.latency, 10_000_000));
        Ok(())
    }

    #[test]
    fn messages_lost_after_an_answer_and_at_the_end_are_found() -> Result<()> {
        let (workload, mut changes, times) = changes()?;
        receive(&mut changes, &workload, 0..50);
        send(&mut changes, &workload, 50);
        changes.answer(0, Answer { id: 0, is_refused: false }, Duration::from_secs(50))?;
        // Nothing arrives for a while, and at the end.
        let missing = receive(&mut changes, &workload, 70..150);
        let newest = changes.newest(&workload, &times);
        assert_eq!((newest.received, newest.due), (0, 2));
        let symbols: Vec<u32> =
            changes.readers[0].subscriptions.iter().map(|subscription| subscription.symbol).collect();
        let of = |places: &[u32], from: u64, to: u64| -> u64 {
            let is_of = |sequence: &u64| workload.symbol_message(*sequence).is_some_and(|m| places.contains(&m.symbol));
            (from..to).filter(is_of).count() as u64
        };
        // A gap within a subscription is counted when it is seen. A message at the very time of the answer is not due.
        assert_eq!(missing, of(&symbols[1..], 50, 70));
        let lost = of(&symbols[..1], 51, 70) + of(&symbols, 150, MESSAGES);
        assert!(lost > 10);
        assert_eq!(changes.finish(&workload, &times).lost, lost);
        Ok(())
    }

    #[test]
    fn messages_after_the_end_of_a_subscription_are_unexpected() -> Result<()> {
        let (workload, mut changes, _) = changes()?;
        let before = changes.readers[0].subscriptions[0].symbol;
        send(&mut changes, &workload, 0);
        let is_before = |sequence: &u64| workload.symbol_message(*sequence).is_some_and(|m| m.symbol == before);
        let mut sequences = (0..MESSAGES).filter(is_before);
        let (first, second) = (sequences.next().unwrap_or(0), sequences.next().unwrap_or(0));
        assert_eq!(changes.receive(0, first, &workload), Arrival::Due { missing: 0 });
        assert!(changes.answer(0, Answer { id: 7, is_refused: false }, Duration::ZERO).is_err());
        changes.answer(0, Answer { id: 0, is_refused: false }, Duration::ZERO)?;
        assert_eq!(changes.receive(0, second, &workload), Arrival::NotSubscribed);
        Ok(())
    }

    #[test]
    fn refused_changes_leave_the_topics_as_they_are() -> Result<()> {
        let (workload, mut changes, _) = changes()?;
        let before = changes.readers[0].subscriptions[0].symbol;
        send(&mut changes, &workload, 0);
        changes.answer(0, Answer { id: 0, is_refused: true }, Duration::ZERO)?;
        assert_eq!((changes.readers[0].subscriptions[0].symbol, changes.changed.refused), (before, 1));
        Ok(())
    }

    #[test]
    fn cpu_of_a_change_is_what_the_run_took_more() -> Result<()> {
        let mut changed = changes()?.1.changed;
        changed.set_cpu(Duration::from_secs(3), Duration::from_secs(1));
        assert_eq!(changed.cpu, None);
        changed.answered = 1_000;
        changed.set_cpu(Duration::from_secs(3), Duration::from_secs(1));
        assert_eq!(changed.cpu, Some(Duration::from_millis(2)));
        Ok(())
    }
}
