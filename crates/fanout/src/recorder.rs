//! The hub's side of the history: gives messages their ids and numbers, and writes down a turn at once.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::history::{Beginning, Pending, Sequences, SharedHistory, Slot};
use crate::{EntryId, Message, Resume, Retention, SequenceEvent, SequenceEventKind, Stats, Topics};

/// Numbers below are no times in milliseconds since 1970: they would be in the year 2001 or before.
const FIRST_TIME: u64 = 1_000_000_000_000;

/// Writes the history.
#[derive(Debug)]
pub(crate) struct Recorder {
    history: Arc<SharedHistory>,
    retentions: Vec<Arc<Retention>>,
    sequences: Sequences,
    /// The number of the next message that is kept.
    next: u64,
    pending: Vec<Pending>,
    /// Whether something has changed since the last turn.
    is_changed: bool,
}

impl Recorder {
    pub(crate) fn new(history: Arc<SharedHistory>, retentions: &[Arc<Retention>]) -> Self {
        let sequences = history.read().sequences.clone();
        let next = history.read().head;
        let mut recorder =
            Self { history, retentions: Vec::new(), sequences, next, pending: Vec::new(), is_changed: false };
        recorder.declare(retentions.to_vec());
        recorder
    }

    /// Keeps messages by `retentions` from now on. Everything before must have been committed.
    pub(crate) fn declare(&mut self, retentions: Vec<Arc<Retention>>) {
        self.sequences.declare(&retentions);
        self.retentions = retentions;
        self.history.write(|history| history.declare(&self.retentions, &self.sequences));
        self.is_changed = !self.sequences.is_empty();
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
            SequenceEventKind::Start { after } => (after, None),
            SequenceEventKind::Gap { after, reason } => (after, Some(reason)),
        };
        sequence.newest = after;
        let position: Box<str> = self.sequences.id().into();
        let retentions = self.history.write(|history| {
            history.sequences.clone_from(&self.sequences);
            history.forget(place, after);
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
