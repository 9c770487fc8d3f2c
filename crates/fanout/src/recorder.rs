//! The hub's side of the history: gives messages their ids and numbers, and writes down a turn at once.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::history::{Beginning, NUMBERED, Pending, Sequence, Sequences, SharedHistory, Slot};
use crate::{
    EntryId, Message, Namespace, RelayStart, RelayedRetention, Resume, Retention, SequenceEvent, SequenceEventKind,
    SequenceName, Stats, Topics,
};

/// Numbers below are no times in milliseconds since 1970: they would be in the year 2001 or before.
const FIRST_TIME: u64 = 1_000_000_000_000;

/// The age from which on a confirmed place says nothing of where an engine is that messages come from: it confirms one each second.
const CONFIRMED_FOR: Duration = Duration::from_millis(2500);

/// Writes the history.
#[derive(Debug)]
pub(crate) struct Recorder {
    history: Arc<SharedHistory>,
    retentions: Vec<Arc<Retention>>,
    sequences: Sequences,
    /// The number of the next message that is kept.
    next: u64,
    pending: Vec<Pending>,
    /// The engines that messages pass before this one.
    path: Vec<Arc<str>>,
    /// How many engines have not said yet what they keep.
    undeclared: usize,
    /// Whether something has changed since the last turn.
    is_changed: bool,
}

impl Recorder {
    pub(crate) fn new(history: Arc<SharedHistory>, retentions: &[Arc<Retention>]) -> Self {
        let sequences = history.read().sequences.clone();
        let next = history.read().head;
        let mut recorder = Self {
            history,
            retentions: Vec::new(),
            sequences,
            next,
            pending: Vec::new(),
            path: Vec::new(),
            undeclared: 0,
            is_changed: false,
        };
        recorder.declare(retentions.to_vec());
        recorder
    }

    /// Keeps messages by `retentions` from now on. Everything before must have been committed. Returns whether they are others.
    pub(crate) fn declare(&mut self, retentions: Vec<Arc<Retention>>) -> bool {
        if retentions == self.retentions {
            return false;
        }
        self.sequences.declare(&retentions);
        self.retentions = retentions;
        self.history.write(|history| history.declare(&self.retentions, &self.sequences));
        self.is_changed = !self.sequences.is_empty();
        true
    }

    /// Sets the engines that messages pass before this one. Returns whether they are others.
    pub(crate) fn set_path(&mut self, path: Vec<Arc<str>>) -> bool {
        let is_changed = path != self.path;
        self.path = path;
        is_changed
    }

    /// Sets how many engines have not said yet what they keep.
    pub(crate) fn set_undeclared(&mut self, undeclared: usize) {
        self.history.write(|history| history.undeclared = undeclared);
        self.undeclared = undeclared;
    }

    /// Forgets what a retention keeps. Everything before must have been committed.
    pub(crate) fn forget(&self, retention: &str, trimmed: EntryId) {
        self.history.write(|history| history.forget_retention(retention, trimmed));
    }

    /// Whether the sources have reported everything that there is, those that confirm it not long ago.
    pub(crate) fn is_current(&self) -> bool {
        let is_confirmed =
            |of: &Sequence| of.confirmed_at.is_none_or(|confirmed_at| confirmed_at.elapsed() < CONFIRMED_FOR);
        self.undeclared == 0 && self.sequences.iter().all(|of| of.is_current && is_confirmed(of))
    }

    /// What an engine needs that relays `topics` from here on. Everything before must have been committed.
    pub(crate) fn relay_start(&self, topics: &Topics, totals: Vec<Namespace>) -> RelayStart {
        let own = self.sequences.epoch();
        let name = |sequence: &Sequence| match &sequence.name {
            _ if let Some(partition) = &sequence.partition => SequenceName::Partition(partition.clone()),
            None => SequenceName::Numbered(Arc::clone(own)),
            Some(name) => match name.strip_prefix(NUMBERED) {
                Some(epoch) => SequenceName::Numbered(epoch.into()),
                None => SequenceName::Named(Arc::clone(name)),
            },
        };
        let sequences = self.sequences.iter();
        let sequences = sequences.map(|sequence| (name(sequence), sequence.newest)).collect();
        let retentions = self.history.read().retentions_about(topics);
        let relayed = |(retention, trimmed): (Arc<Retention>, EntryId)| {
            let sequence = self.sequences.place(retention.sequence.as_deref())?;
            Some(RelayedRetention { retention, sequence, trimmed })
        };
        let retentions = retentions.into_iter().filter_map(relayed).collect();
        let path = self.path.iter().chain([own]).cloned().collect();
        RelayStart { path, sequences, retentions, totals }
    }

    /// Whether there is anything that may become too old.
    pub(crate) fn keeps_messages(&self) -> bool {
        !self.retentions.is_empty()
    }

    /// Drops what has become too old.
    pub(crate) fn trim(&self, stats: &Stats) {
        let size = self.history.write(|history| {
            history.trim(Instant::now());
            history.size()
        });
        set_size(stats, size);
    }

    /// Gives a message that is kept its id. Returns `false` if the same entry has been sent before.
    pub(crate) fn assign_id(&mut self, message: &mut Message) -> bool {
        let Some(kept) = &mut message.kept else { return true };
        let declared = self.retentions.iter().find(|retention| retention.name == kept.retention.name);
        let Some(retention) = declared else {
            // The route was removed while the message was on its way.
            message.kept = None;
            return true;
        };
        let place = self.sequences.place(retention.sequence.as_deref());
        let Some(sequence) = place.and_then(|place| self.sequences.get_mut(place)) else { return true };
        let entry = match &kept.position {
            Some(position) if retention.sequence.as_ref() == Some(&position.sequence) => position.entry,
            _ => EntryId::new(sequence.newest.major + 1, 0),
        };
        if entry <= sequence.newest {
            return false;
        }
        sequence.newest = entry;
        kept.id = self.sequences.id().into();
        self.is_changed = true;
        true
    }

    /// Notes a message that is kept, after it got its id; returns its number.
    pub(crate) fn record(&mut self, message: &Arc<Message>) -> Option<u64> {
        let kept = message.kept.as_ref()?;
        let retention = Arc::clone(&kept.retention);
        let sequence = self.sequences.get(self.sequences.place(retention.sequence.as_deref())?)?;
        let number = self.next;
        self.next += 1;
        let at = published_at(sequence.name.is_some().then_some(sequence.newest), message.received_at);
        self.pending.push(Pending {
            retention,
            slot: Slot { number, entry: sequence.newest, at, message: Arc::clone(message) },
        });
        Some(number)
    }

    /// Writes down everything since the last time. Returns the number after the last message, and the id that readers have
    /// reached who have got everything so far, if there is a new one.
    pub(crate) fn commit(&mut self, stats: &Stats) -> (u64, Option<Arc<str>>) {
        if !std::mem::take(&mut self.is_changed) {
            return (self.next, None);
        }
        let Self { history, sequences, next, pending, .. } = self;
        let size = history.write(|history| {
            history.append(pending.drain(..), sequences, *next);
            history.size()
        });
        set_size(stats, size);
        (self.next, self.sequences.position().map(Into::into))
    }

    /// What a reader of `topics` gets first, if some of its messages are kept.
    pub(crate) fn begin(&self, topics: &Topics, resume: Option<Resume>, stats: &Stats) -> Option<Beginning> {
        if self.retentions.is_empty() {
            return None;
        }
        let history = self.history.read();
        let is_resumed = resume.is_some();
        let beginning = history.has(topics).then(|| history.begin(topics, resume))?;
        if is_resumed {
            beginning.count(stats);
        }
        Some(beginning)
    }

    /// Follows what a source knows of a sequence; returns the resets that its readers get. Everything before must have been
    /// committed.
    pub(crate) fn sequence_event(&mut self, SequenceEvent { sequence: name, kind }: SequenceEvent) -> Vec<Message> {
        let Some(place) = self.sequences.place(Some(&name)) else { return Vec::new() };
        let Some(sequence) = self.sequences.get_mut(place) else { return Vec::new() };
        self.is_changed = true;
        let (after, reason) = match kind {
            SequenceEventKind::Current | SequenceEventKind::Interrupted => {
                sequence.is_current = kind == SequenceEventKind::Current;
                return Vec::new();
            }
            SequenceEventKind::Reached { entry, is_confirmed } => {
                sequence.newest = sequence.newest.max(entry);
                if is_confirmed {
                    sequence.confirmed_at = Some(Instant::now());
                }
                return Vec::new();
            }
            SequenceEventKind::Start { after } => (Some(after), None),
            SequenceEventKind::Gap { after, reason } => (Some(after), Some(reason)),
            SequenceEventKind::Reset { reason } => (None, Some(reason)),
        };
        sequence.newest = after.unwrap_or(sequence.newest);
        let position: Box<str> = self.sequences.id().into();
        let retentions = self.history.write(|history| {
            history.sequences.clone_from(&self.sequences);
            if let Some(after) = after {
                history.forget(place, after);
            }
            history.retentions_of(place)
        });
        let reset = |reason| crate::Reset { reason, earliest: position.clone(), position: position.clone() };
        let resets = reason
            .map(|reason| retentions.into_iter().map(move |retention| Message::reset_of(retention, reset(reason))));
        resets.into_iter().flatten().collect()
    }
}

fn set_size(stats: &Stats, (messages, bytes): (usize, usize)) {
    stats.history_messages.set(messages as u64);
    stats.history_bytes.set(bytes as u64);
}

/// When a message was published: the time in its entry, if it is one, or when it came in.
fn published_at(entry: Option<EntryId>, received_at: Instant) -> Instant {
    let age = || {
        let at = entry?.major.checked_sub(FIRST_TIME)? + FIRST_TIME;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        now.checked_sub(Duration::from_millis(at))
    };
    age().and_then(|age| Instant::now().checked_sub(age)).unwrap_or(received_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::ns;

    #[test]
    fn place_that_was_confirmed_long_ago_is_not_current() {
        let retention = Retention {
            name: "kept".into(),
            namespace: ns("/kept"),
            except: Box::default(),
            sequence: Some("orders".into()),
            partition: None,
            max_messages: None,
            max_bytes: None,
            max_age: None,
            last_values: false,
        };
        let mut recorder = Recorder::new(SharedHistory::new(1024), &[Arc::new(retention)]);
        let mut event = |kind| {
            recorder.sequence_event(SequenceEvent { sequence: "orders".into(), kind });
            recorder.is_current()
        };
        assert!(!event(SequenceEventKind::Start { after: EntryId::ZERO }));
        assert!(event(SequenceEventKind::Current), "its source confirms nothing");
        let reached = SequenceEventKind::Reached { entry: EntryId::ZERO, is_confirmed: true };
        assert!(event(reached));
        recorder.sequences.get_mut(0).unwrap().confirmed_at = Instant::now().checked_sub(CONFIRMED_FOR);
        assert!(!recorder.is_current());
        recorder.sequence_event(SequenceEvent { sequence: "orders".into(), kind: reached });
        assert!(recorder.is_current());
    }
}
