//! The topics of a cluster that are read, and how far. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tallycast_fanout::{EntryId, Partition as PartitionOf, ResetReason, Retention, SequenceEvent, SequenceEventKind};
use tokio::time::Instant;

use super::client::{Answer, Partitions, Question};
use super::progress::{self, Bounds, Finding, Progress, Taken};
use crate::source::{Selector, SourceEvent, StreamKey};

/// Partitions of streams with history: every id names a place in each of them, and readers send ids of at most 4,096 bytes.
const MAX_KEPT_PARTITIONS: usize = 256;
/// Partitions of all topics together.
const MAX_PARTITIONS: usize = 4096;
/// How long a topic is missing before it counts as deleted. A broker that has just started may not know of it for some
/// seconds, and after a deletion that was none everything in it would be sent again.
pub(super) const MISSING_LIMIT: Duration = Duration::from_secs(30);
/// Topics of Kafka itself, and of tallycast, which no wider prefix brings.
const RESERVED: [&str; 2] = ["__", "tallycast."];

/// There are too many partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooMany {
    #[error(
        "the topics of routes with history have {0} partitions; expected at most {MAX_KEPT_PARTITIONS}, because ids name a place in each"
    )]
    Kept(usize),
    #[error("the topics have {0} partitions; expected at most {MAX_PARTITIONS}")]
    All(usize),
}

/// Which topics are wanted.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    selectors: Vec<Selector>,
    streams: BTreeMap<String, StreamKey>,
}

impl Wanted {
    pub(super) fn new(selectors: &[Selector], streams: &[StreamKey]) -> Self {
        let streams = streams.iter().map(|stream| (stream.key.to_string(), stream.clone())).collect();
        // No topic has a `:`, which the channels with senders have that routes ask for.
        let is_possible = |selector: &&Selector| !selector.to_string().contains(':');
        Self { selectors: selectors.iter().filter(is_possible).cloned().collect(), streams }
    }

    /// Whether some names are known by their start only.
    pub(super) fn has_prefixes(&self) -> bool {
        self.selectors.iter().any(|selector| matches!(selector, Selector::Prefix(_)))
    }

    /// The names that are known, each once.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let exact = self.selectors.iter().filter_map(|selector| match selector {
            Selector::Exact(name) => Some(name.as_str()),
            Selector::Prefix(_) => None,
        });
        exact.chain(self.streams.keys().map(String::as_str)).collect::<BTreeSet<_>>().into_iter()
    }

    /// Whether the records of a topic are events of a channel.
    fn is_channel(&self, topic: &str) -> bool {
        let may_bring = |selector: &Selector| match selector {
            Selector::Exact(_) => true,
            Selector::Prefix(prefix) => {
                RESERVED.iter().all(|reserved| !topic.starts_with(reserved) || prefix.starts_with(reserved))
            }
        };
        self.selectors.iter().any(|selector| selector.matches(topic) && may_bring(selector))
    }

    pub(super) fn is_wanted(&self, topic: &str) -> bool {
        self.streams.contains_key(topic) || self.is_channel(topic)
    }
}

/// The topics that are read.
#[derive(Debug, Default)]
pub(super) struct Topics {
    wanted: Wanted,
    all: BTreeMap<String, Topic>,
    /// The topics that were wanted when the names of all were last known. One that is found later and was wanted then is new.
    seen: Wanted,
    /// Partitions must be assigned again.
    is_moved: bool,
}

/// A topic that is read, or is yet to be created.
#[derive(Debug)]
struct Topic {
    stream: Option<Stream>,
    is_channel: bool,
    /// What its lag is called.
    label: Arc<str>,
    partitions: Vec<Partition>,
    /// The partitions that were there before it was read. Others have been added since, so that everything in them is new.
    initial: usize,
    /// The partitions that were there when it was last found. There were more if another topic had its name before.
    present: usize,
    /// How often it was found missing in turn.
    absences: u8,
    /// When it was first found missing of these times.
    missing_since: Option<Instant>,
}

/// What is read as a stream.
#[derive(Debug)]
struct Stream {
    sequence: Arc<str>,
    retention: Option<Arc<Retention>>,
    /// Its history has yet to be read, because there was none before.
    history_due: bool,
}

#[derive(Debug)]
struct Partition {
    /// The sequence of its entries.
    sequence: Arc<str>,
    /// `None` before its start.
    progress: Option<Progress>,
    /// Records that were there at the last look, and had not been read.
    lag: u64,
}

/// What follows from a look.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// The events of sequences. They hold even if there are too many partitions.
    pub(super) events: Vec<SourceEvent>,
    /// The number of gaps among them.
    pub(super) gaps: u64,
    /// Why nothing is read any more, if there are too many partitions.
    pub(super) too_many: Option<TooMany>,
}

/// What a record is to be.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    /// As an entry of a stream: the stream, the sequence of its partition, its id, and whether it is for the history alone.
    pub(super) entry: Option<(&'a Arc<str>, &'a Arc<str>, EntryId, bool)>,
    /// As an event of a channel.
    pub(super) is_event: bool,
}

impl Topics {
    /// Nothing is read of topics that are not wanted any more. Others are found by the next names.
    pub(super) fn want(&mut self, wanted: Wanted) {
        let before = self.all.len();
        self.all.retain(|name, _| wanted.is_wanted(name));
        self.is_moved |= self.all.len() < before;
        for (name, topic) in &mut self.all {
            topic.is_channel = wanted.is_channel(name);
            topic.read_as(name, wanted.streams.get(name));
        }
        self.wanted = wanted;
    }

    /// What a look asks for, with the names of all topics or without.
    pub(super) fn ask(&mut self, with_names: bool) -> Question {
        let mut question = Question { wanted: with_names.then(|| self.wanted.clone()), ..Question::default() };
        for (name, topic) in &mut self.all {
            // The question about one that is missing has no answer.
            if topic.present > 0 && topic.missing_since.is_none() {
                question.partitions.insert(name.clone(), topic.present);
            }
            topic.partitions.iter_mut().filter_map(|partition| partition.progress.as_mut()).for_each(Progress::ask);
        }
        for (name, stream) in &self.wanted.streams {
            let is_due = self.all.get(name).is_none_or(Topic::is_start_due);
            let age = stream.retention.as_ref().and_then(|retention| history(retention).1);
            if let Some(age) = age.filter(|_| is_due) {
                question.ages.insert(name.clone(), age);
            }
        }
        question
    }

    /// Follows what a look has found by now.
    pub(super) fn follow(&mut self, answer: Answer, now: Instant) -> Followed {
        let Answer { topics, bounds, at_ages, .. } = answer;
        let (mut events, mut gaps) = (Vec::new(), 0);
        if let Some((wanted, found)) = topics {
            if let Err(error) = self.find(&wanted, &found, now, &mut events, &mut gaps) {
                return Followed { events, gaps, too_many: Some(error) };
            }
            self.seen = wanted;
        }
        for (name, topic) in &mut self.all {
            let Some(found) = bounds.get(name) else { continue };
            let at_ages = at_ages.get(name).map(Vec::as_slice).unwrap_or_default();
            self.is_moved |= topic.look(name, found, at_ages, &mut events, &mut gaps);
        }
        Followed { events, gaps, too_many: None }
    }

    /// Adds topics and partitions that are new, and notices those that are gone.
    fn find(
        &mut self,
        wanted: &Wanted,
        found: &BTreeMap<String, usize>,
        now: Instant,
        events: &mut Vec<SourceEvent>,
        gaps: &mut u64,
    ) -> Result<(), TooMany> {
        // Those that are read, too: one that a prefix has brought may be gone. Each once, or its absence counts twice.
        let known = found.keys().chain(self.all.keys()).map(String::as_str);
        let names = self.wanted.names().chain(known).filter(|name| wanted.is_wanted(name));
        for name in names.filter(|name| self.wanted.is_wanted(name)).map(str::to_owned).collect::<BTreeSet<_>>() {
            let count = found.get(&name).copied().unwrap_or_default();
            if !self.all.contains_key(&name) {
                let mut topic = Topic::new(&name, self.wanted.is_channel(&name));
                topic.read_as(&name, self.wanted.streams.get(&name));
                topic.initial = if self.seen.is_wanted(&name) { 0 } else { count };
                if count == 0 {
                    tracing::warn!(topic = &*name, "a topic does not exist; waiting for it");
                    // Ids do not wait for it.
                    events.extend(topic.partitions_event(0));
                }
                self.all.insert(name.clone(), topic);
            }
            let Some(topic) = self.all.get_mut(&name) else { continue };
            if count == 0 {
                self.is_moved |= topic.miss(&name, now, events, gaps);
                continue;
            }
            (topic.absences, topic.missing_since) = (0, None);
            if count < topic.present {
                self.is_moved |= topic.void(&name, "it has fewer partitions than before", events, gaps);
            }
            topic.present = count;
            if count > topic.partitions.len() {
                tracing::info!(topic = &*name, partitions = count, "reading the partitions of a topic");
                topic.grow(&name, count);
                events.extend(topic.partitions_event(count));
                self.is_moved = true;
            }
        }
        let streams = &self.wanted.streams;
        self.all.retain(|name, topic| streams.contains_key(name) || !topic.is_deleted());
        let sum = |topics: &mut dyn Iterator<Item = &Topic>| topics.map(|topic| topic.partitions.len()).sum::<usize>();
        let kept = sum(&mut self.all.values().filter(|topic| topic.retention().is_some()));
        let all = sum(&mut self.all.values());
        match () {
            () if kept > MAX_KEPT_PARTITIONS => Err(TooMany::Kept(kept)),
            () if all > MAX_PARTITIONS => Err(TooMany::All(all)),
            () => Ok(()),
        }
    }

    /// What to assign, if that has changed since the last time.
    pub(super) fn take_assignment(&mut self) -> Option<Partitions<Option<u64>>> {
        let next = |partition: &Partition| partition.progress.as_ref().map(Progress::next);
        let of = |topic: &Topic| topic.partitions.iter().map(next).collect();
        std::mem::take(&mut self.is_moved)
            .then(|| self.all.iter().map(|(name, topic)| (name.clone(), of(topic))).collect())
    }

    /// Has everything assigned again.
    pub(super) fn move_all(&mut self) {
        self.is_moved = true;
    }

    /// Takes a record; `None` if it was read before, or is of a topic that is not read any more.
    pub(super) fn take(&mut self, topic: &str, partition: i32, offset: i64) -> Option<Placed<'_>> {
        let topic = self.all.get_mut(topic)?;
        let partition = topic.partitions.get_mut(usize::try_from(partition).ok()?)?;
        let offset = u64::try_from(offset).ok()?;
        let is_backlog = match partition.progress.as_mut()?.take(offset) {
            Taken::Repeated => return None,
            Taken::Backlog => true,
            Taken::New => false,
        };
        let id = progress::entry(offset);
        // Without a history, what is only for the history is not needed.
        let stream = topic.stream.as_ref().filter(|stream| !is_backlog || stream.retention.is_some());
        let entry = stream.map(|stream| (&stream.sequence, &partition.sequence, id, is_backlog));
        Some(Placed { entry, is_event: topic.is_channel && !is_backlog })
    }

    /// Whether everything is read now that was there before in a partition, and the event that says so of its sequence.
    pub(super) fn settle(&mut self, topic: &str, partition: i32) -> (bool, Option<SourceEvent>) {
        let mut settle = || {
            let topic = self.all.get_mut(topic)?;
            let partition = topic.partitions.get_mut(usize::try_from(partition).ok()?)?;
            let event = || sequence_event(&partition.sequence, SequenceEventKind::Current);
            partition.progress.as_mut()?.becomes_current().then(|| topic.stream.as_ref().map(|_| event()))
        };
        settle().map_or((false, None), |event| (true, event))
    }

    /// Passes over what no record is in, up to where a partition was received to its end.
    pub(super) fn pass(&mut self, topic: &str, partition: i32, end: u64) -> Option<SourceEvent> {
        let of = self.all.get_mut(topic)?.partitions.get_mut(usize::try_from(partition).ok()?)?;
        let progress = of.progress.as_mut()?;
        of.lag = of.lag.saturating_sub(end.saturating_sub(progress.next()));
        progress.skip_to(end);
        self.settle(topic, partition).1
    }

    /// Whether everything was read that was there at the start or at the beginning of the session.
    pub(super) fn is_current(&self) -> bool {
        let is_current = |partition: &Partition| partition.progress.as_ref().is_some_and(Progress::is_current);
        self.all.values().all(|topic| topic.partitions.iter().take(topic.present).all(is_current))
    }

    /// The session has ended: what is to be said of the sequences that were current.
    pub(super) fn interrupt(&mut self) -> Vec<SourceEvent> {
        let mut events = Vec::new();
        for topic in self.all.values_mut() {
            for Partition { sequence, progress, .. } in &mut topic.partitions {
                if progress.as_mut().is_some_and(Progress::interrupt) && topic.stream.is_some() {
                    events.push(sequence_event(sequence, SequenceEventKind::Interrupted));
                }
            }
        }
        self.is_moved = true;
        events
    }

    /// The records of each topic that were there at the last look, and had not been read. Topics that are not there are
    /// left out.
    pub(super) fn lags(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        let there = self.all.values().filter(|topic| topic.present > 0 && topic.missing_since.is_none());
        there.map(|topic| (&topic.label, topic.partitions.iter().map(|partition| partition.lag).sum()))
    }
}

impl Topic {
    fn new(name: &str, is_channel: bool) -> Self {
        Self {
            stream: None,
            is_channel,
            label: name.into(),
            partitions: Vec::new(),
            initial: 0,
            present: 0,
            absences: 0,
            missing_since: None,
        }
    }

    /// Reads it as the stream that routes say.
    fn read_as(&mut self, name: &str, stream: Option<&StreamKey>) {
        let had_history = self.retention().is_some();
        self.stream = stream.map(|StreamKey { sequence, retention, .. }| {
            let was_due = self.stream.as_ref().is_some_and(|stream| stream.history_due);
            let is_read = self.partitions.iter().any(|partition| partition.progress.is_some());
            let history_due = was_due || is_read && retention.is_some() && !had_history;
            Stream { sequence: Arc::clone(sequence), retention: retention.clone(), history_due }
        });
        self.label = self.stream.as_ref().map_or_else(|| name.into(), |stream| Arc::clone(&stream.sequence));
        let sequences = (0..self.partitions.len()).map(|number| self.sequence(name, number)).collect::<Vec<_>>();
        for (partition, sequence) in self.partitions.iter_mut().zip(sequences) {
            partition.sequence = sequence;
        }
    }

    fn retention(&self) -> Option<&Arc<Retention>> {
        self.stream.as_ref()?.retention.as_ref()
    }

    /// The name of the sequence of a partition.
    fn sequence(&self, name: &str, number: usize) -> Arc<str> {
        let topic = self.stream.as_ref().map_or_else(|| name.into(), |stream| Arc::clone(&stream.sequence));
        PartitionOf { topic, number: u32::try_from(number).unwrap_or(u32::MAX) }.sequence().into()
    }

    fn partitions_event(&self, count: usize) -> Option<SourceEvent> {
        let sequence = Arc::clone(&self.stream.as_ref()?.sequence);
        Some(SourceEvent::Partitions { sequence, count: u32::try_from(count).unwrap_or(u32::MAX) })
    }

    /// Whether some partition is yet to be read from where its history begins.
    fn is_start_due(&self) -> bool {
        let is_new = self.partitions.is_empty() || self.partitions.iter().any(|partition| partition.progress.is_none());
        is_new || self.stream.as_ref().is_some_and(|stream| stream.history_due)
    }

    fn grow(&mut self, name: &str, count: usize) {
        for number in self.partitions.len()..count {
            self.partitions.push(Partition { sequence: self.sequence(name, number), progress: None, lag: 0 });
        }
    }

    /// The topic was not found. If it is missing more than once in turn and for long enough, it was deleted: what comes by
    /// its name later is another one.
    fn miss(&mut self, name: &str, now: Instant, events: &mut Vec<SourceEvent>, gaps: &mut u64) -> bool {
        if self.present == 0 {
            return false;
        }
        self.absences = self.absences.saturating_add(1);
        let since = *self.missing_since.get_or_insert(now);
        let is_deleted = self.absences >= 2 && now.saturating_duration_since(since) >= MISSING_LIMIT;
        is_deleted && self.void(name, "it was deleted", events, gaps)
    }

    /// Whether it was there, and is not any more.
    fn is_deleted(&self) -> bool {
        self.present == 0 && self.missing_since.is_some()
    }

    /// What was read is not what is there. Whatever comes is new.
    fn void(&mut self, name: &str, what: &str, events: &mut Vec<SourceEvent>, gaps: &mut u64) -> bool {
        tracing::warn!(topic = name, "positions in a topic are void: {what}");
        *gaps += 1;
        (self.initial, self.present) = (0, 0);
        for Partition { sequence, progress, lag } in &mut self.partitions {
            (*progress, *lag) = (None, 0);
            if self.stream.is_some() {
                events.push(gap(sequence, 0, ResetReason::Unknown));
            }
        }
        true
    }

    /// Compares every partition with what was read, and starts those that were not read yet. Returns whether some are to be read from
    /// elsewhere now.
    fn look(
        &mut self,
        name: &str,
        found: &[Bounds],
        at_ages: &[u64],
        events: &mut Vec<SourceEvent>,
        gaps: &mut u64,
    ) -> bool {
        let history_due = self.stream.as_mut().is_some_and(|stream| std::mem::take(&mut stream.history_due));
        let (max_records, age) = self.retention().map_or((Some(0), None), |retention| history(retention));
        let is_stream = self.stream.is_some();
        let mut is_moved = false;
        for (number, (partition, bounds)) in self.partitions.iter_mut().zip(found).enumerate() {
            let Partition { sequence, progress, lag } = partition;
            // No record is young enough, unless a look at the times has found one.
            let at_age = age.map(|_| at_ages.get(number).copied().unwrap_or(u64::MAX));
            let until = match &progress {
                None => bounds.high,
                Some(progress) => progress.next().min(bounds.high),
            };
            let from = progress::beginning(*bounds, until, max_records, at_age);
            let mut say = |kind| {
                if is_stream {
                    events.push(sequence_event(sequence, kind))
                }
            };
            match progress {
                Some(progress) if !history_due => match progress.look(*bounds) {
                    Finding::Continuous => {}
                    Finding::Lost { offsets } => {
                        tracing::warn!(
                            topic = name,
                            partition = number,
                            offsets,
                            "records of a topic are lost: they were deleted before they were read"
                        );
                        *gaps += 1;
                        is_moved = true;
                        let after = progress::before(progress.next());
                        say(SequenceEventKind::Gap { after, reason: ResetReason::Trimmed });
                    }
                    Finding::Replaced => {
                        tracing::warn!(
                            topic = name,
                            partition = number,
                            "positions in a topic are void: it was replaced by another one, or its newest records are gone"
                        );
                        *gaps += 1;
                        is_moved = true;
                        let after = progress::before(progress.next());
                        say(SequenceEventKind::Gap { after, reason: ResetReason::Unknown });
                    }
                },
                _ => {
                    let is_added = progress.is_none() && number >= self.initial;
                    let (start, new) = match is_added {
                        true => (bounds.low, Progress::all_new(bounds.low, bounds.high)),
                        false => (from, Progress::new(from, until)),
                    };
                    *progress = Some(new);
                    is_moved = true;
                    say(SequenceEventKind::Start { after: progress::before(start) });
                }
            }
            if let Some(progress) = progress {
                *lag = bounds.high.saturating_sub(progress.next());
                if progress.becomes_current() {
                    say(SequenceEventKind::Current);
                }
            }
        }
        is_moved
    }
}

/// The number of records that a history has at most, and how old they are at most. One that is bounded otherwise has everything.
fn history(retention: &Retention) -> (Option<usize>, Option<Duration>) {
    let Retention { max_messages, max_bytes, max_age, last_values, .. } = *retention;
    if max_bytes.is_some() || last_values { (None, None) } else { (max_messages, max_age) }
}

fn sequence_event(sequence: &Arc<str>, kind: SequenceEventKind) -> SourceEvent {
    SequenceEvent { sequence: Arc::clone(sequence), kind }.into()
}

fn gap(sequence: &Arc<str>, next: u64, reason: ResetReason) -> SourceEvent {
    sequence_event(sequence, SequenceEventKind::Gap { after: progress::before(next), reason })
}
