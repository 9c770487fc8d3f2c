//! What a relay knows of its origin, over all sessions: which ids it has come to, and what the engine is told in which order. No socket.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tallycast_fanout::{
    Data, EntryId, IdFormat, Kept, Message, Namespace, Partition, Position, RelayStart, RelayedRetention, ResetReason,
    Retention, SequenceEvent, SequenceEventKind, SequenceName, TotalsState, numbered_sequence,
};
use tallycast_server::relay::{MAX_RELAY_PATH, RelayEvent, RelayedMessage};

use super::claims::Claims;
use crate::source::{RelayedEvent, SourceEvent};

/// Where all that is kept begins.
const EARLIEST: &str = "earliest";
/// What readers with totals are told while there is no session.
const NOT_CONNECTED: &str = "the origin is not connected";
/// The retention of sequences of which this engine gets no messages. Ids name them all the same.
const NOTHING: &str = "nothing";

/// Why a session ends that could go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkError {
    #[error("it relays its own messages: expected an origin that does not read from this server")]
    Loop,
    #[error("messages pass {0} servers; the limit is {MAX_RELAY_PATH}")]
    Path(usize),
    #[error("the sequence {0:?} of the origin comes from another source, too; expected one source for it")]
    Sequence(String),
    #[error("the origin does not know relay=1; expected a tallycast of the same version")]
    NoStart,
    #[error("the origin has changed what it keeps")]
    Changed,
    #[error("the origin left messages out")]
    Skipped,
    #[error("the origin ended the stream: {0}")]
    Ended(String),
}

/// What follows an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Continue,
    /// Another session, which reads everything that the origin keeps.
    Refill,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    /// The name of the source, which the names of its retentions begin with.
    source: Arc<str>,
    /// This engine.
    instance: Arc<str>,
    /// The sequences of all sources.
    claims: Claims,
    known: Option<Known>,
    /// The newest entry of each sequence that was passed on, in the order of ids.
    reached: Vec<EntryId>,
    /// The entry of each sequence up to which readers have got everything, or were told that they have not.
    delivered: Vec<EntryId>,
    /// Set if everything that the origin keeps must be read.
    fill: Option<Fill>,
    /// Namespaces whose totals readers may have.
    totals: BTreeSet<Namespace>,
    session: Session,
}

/// Everything is read again. The readers of some sequences are then told that they cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Fill {
    resets: HashMap<Arc<str>, ResetReason>,
    /// Why the origin could not go on, if it said so.
    reason: Option<ResetReason>,
}

/// What the origin has said at the start of the last session.
#[derive(Debug)]
struct Known {
    format: IdFormat,
    /// In the order of ids.
    sequences: Vec<Arc<str>>,
    /// By their names at the origin.
    retentions: HashMap<String, KnownRetention>,
}

#[derive(Debug)]
struct KnownRetention {
    retention: Arc<Retention>,
    /// The place of its sequence.
    sequence: usize,
    trimmed: EntryId,
}

#[derive(Debug, Default)]
struct Session {
    has_started: bool,
    is_filling: bool,
    /// The origin has reset readers: with the first event that is no reset, everything is read again.
    has_gaps: bool,
    /// What there was when it started.
    target: Vec<EntryId>,
    /// The entry of each sequence up to which the ids of messages of others are believed while it is filling: those are as they were sent,
    /// and the sequence may have begun again since. Up to here, nothing is kept that could come yet.
    believed: Vec<EntryId>,
    /// The origin waits for its own sources.
    is_interrupted: bool,
    /// Whether the engine has got everything up to the target.
    is_current: bool,
}

impl Link {
    /// Before the first session of `source`. `claims` are those of all relays.
    pub(super) fn new(source: Arc<str>, instance: Arc<str>, claims: Claims) -> Self {
        Self {
            source,
            instance,
            claims,
            known: None,
            reached: Vec::new(),
            delivered: Vec::new(),
            fill: Some(Fill::default()),
            totals: BTreeSet::new(),
            session: Session::default(),
        }
    }

    /// Begins a session; returns the id that it starts after.
    pub(super) fn begin(&mut self) -> Option<String> {
        self.session = Session { is_filling: self.fill.is_some(), ..Session::default() };
        if self.fill.is_some() {
            return Some(EARLIEST.to_owned());
        }
        self.known.as_ref().map(|known| known.format.id(&self.reached)).filter(|id| !id.is_empty())
    }

    /// Ends a session: until the next one, nothing is certain.
    pub(super) fn end(&mut self, out: &mut Vec<SourceEvent>) {
        self.session = Session::default();
        self.report(SequenceEventKind::Interrupted, out);
        for namespace in &self.totals {
            let state = TotalsState::Unavailable(NOT_CONNECTED.into());
            out.push(RelayedEvent::Message(Message::totals_state(namespace.clone(), state)).into());
        }
    }

    /// Whether the origin has said where it is.
    pub(super) fn has_started(&self) -> bool {
        self.session.has_started
    }

    /// Whether the engine has everything that the origin had when the session started.
    pub(super) fn is_current(&self) -> bool {
        self.session.is_current
    }

    /// Takes an event of the origin; appends what the pipeline is told.
    ///
    /// # Errors
    /// When the session must end.
    pub(super) fn take(&mut self, event: RelayEvent, out: &mut Vec<SourceEvent>) -> Result<Step, LinkError> {
        if self.session.has_gaps && !matches!(event, RelayEvent::Reset { .. }) {
            return Ok(Step::Refill);
        }
        match event {
            RelayEvent::Start(start) => return self.start(start, out),
            RelayEvent::End(reason) => return Err(LinkError::Ended(reason)),
            _ if !self.session.has_started => return Err(LinkError::NoStart),
            RelayEvent::Message(message) => self.message(message, out)?,
            RelayEvent::Reset { reason, retention: Some(retention), .. } => {
                self.gap(reason, &retention)?;
                return Ok(Step::Continue);
            }
            RelayEvent::Reset { reason, retention: None, .. } => {
                // Which messages are lost, the next session says. That of a fill was too slow.
                if !self.session.is_filling {
                    self.fill.get_or_insert_default().reason = Some(reason);
                }
                return Ok(Step::Refill);
            }
            RelayEvent::Position(Some(id)) => {
                // Once a second: a route may have been added.
                if let Some(known) = &self.known {
                    self.claim(known)?;
                }
                let entries = self.entries(&id)?;
                for (place, entry) in entries.into_iter().enumerate() {
                    self.reach(place, entry, true, out);
                }
                self.session.is_interrupted = false;
            }
            RelayEvent::Position(None) => {
                if std::mem::take(&mut self.session.is_current) && !self.reached.is_empty() {
                    self.session.is_interrupted = true;
                    self.report(SequenceEventKind::Interrupted, out);
                }
            }
            _ => return Err(LinkError::Skipped),
        }
        self.check_current(out);
        Ok(Step::Continue)
    }

    fn start(&mut self, start: RelayStart, out: &mut Vec<SourceEvent>) -> Result<Step, LinkError> {
        if start.path.contains(&self.instance) {
            return Err(LinkError::Loop);
        }
        if start.path.len() > MAX_RELAY_PATH {
            return Err(LinkError::Path(start.path.len()));
        }
        let path = start.path.clone();
        let (known, target) = Known::of(start, &self.source);
        self.claim(&known)?;
        let before = self.known.as_ref();
        if !self.session.is_filling
            && let Some(before) = before
        {
            let resets = before.lost(&self.delivered, &known, &target);
            if !resets.is_empty() || !before.is_same(&known) {
                self.fill = Some(Fill { resets, reason: None });
                return Ok(Step::Refill);
            }
        }
        out.push(
            RelayedEvent::Declared { source: Arc::clone(&self.source), retentions: known.declared(&self.source), path }
                .into(),
        );
        if let Some(fill) = &mut self.fill {
            // It may have changed once more.
            for (sequence, reason) in before.iter().flat_map(|before| before.lost(&self.delivered, &known, &target)) {
                // The origin knows better why.
                fill.resets.entry(sequence).or_insert(reason);
            }
            let delivered = |name: &Arc<str>| {
                let place = before?.sequences.iter().position(|known| known == name)?;
                self.delivered.get(place).copied().filter(|_| !fill.resets.contains_key(name))
            };
            self.delivered =
                known.sequences.iter().zip(&target).map(|(name, target)| delivered(name).unwrap_or(*target)).collect();
            self.reached = vec![EntryId::ZERO; target.len()];
            for sequence in &known.sequences {
                let kind = SequenceEventKind::Start { after: EntryId::ZERO };
                out.push(SequenceEvent { sequence: Arc::clone(sequence), kind }.into());
            }
            for KnownRetention { retention, trimmed, .. } in known.retentions.values() {
                out.push(RelayedEvent::Forget { retention: Arc::clone(&retention.name), trimmed: *trimmed }.into());
            }
        }
        self.session.believed = known.believed(&target);
        self.known = Some(known);
        self.session.target = target;
        self.session.has_started = true;
        self.check_current(out);
        Ok(Step::Continue)
    }

    fn message(&mut self, relayed: RelayedMessage, out: &mut Vec<SourceEvent>) -> Result<(), LinkError> {
        let RelayedMessage { mut message, kept } = relayed;
        if matches!(message.data, Data::Totals(_) | Data::TotalsState(_)) {
            self.totals.insert(message.namespace.clone());
            // The engine names what it makes of them.
            message.event = None;
        }
        if let Some((retention, id)) = kept {
            let entries = self.entries(&id)?;
            let known = self.known.as_ref().and_then(|known| known.retentions.get(&retention));
            let KnownRetention { retention, sequence: own, .. } = known.ok_or(LinkError::Changed)?;
            let (retention, own) = (Arc::clone(retention), *own);
            let entry = entries[own];
            if entry <= self.reached[own] {
                return Ok(());
            }
            for (place, entry) in entries.into_iter().enumerate() {
                let believed = self.session.believed.get(place).filter(|_| self.session.is_filling);
                let entry = believed.map_or(entry, |believed| entry.min(*believed));
                // Messages of these are not for this server.
                if place != own && entry > self.reached[place] {
                    self.reach(place, entry, false, out);
                }
            }
            let sequence = retention.sequence.clone().unwrap_or_default();
            let mut kept = Kept::new(retention, Some(Position { sequence, entry }));
            kept.is_backlog = self.session.is_filling && entry <= self.delivered[own];
            self.delivered[own] = self.delivered[own].max(entry);
            self.reached[own] = entry;
            message.kept = Some(Box::new(kept));
        }
        out.push(RelayedEvent::Message(message).into());
        Ok(())
    }

    /// The readers of a retention cannot go on at the origin, which may have filled its own history again: what it keeps now is read
    /// again, too. There is a reset for each retention, one after the other, and all of them are passed on after that.
    fn gap(&mut self, reason: ResetReason, retention: &str) -> Result<(), LinkError> {
        let known = self.known.as_ref().ok_or(LinkError::Changed)?;
        let sequence = known.retentions.get(retention).ok_or(LinkError::Changed)?.sequence;
        let sequence = known.sequences.get(sequence).ok_or(LinkError::Changed)?;
        self.fill.get_or_insert_default().resets.entry(Arc::clone(sequence)).or_insert(reason);
        self.session.has_gaps = true;
        Ok(())
    }

    fn check_current(&mut self, out: &mut Vec<SourceEvent>) {
        let Session { has_started, is_interrupted, is_current, target, .. } = &self.session;
        let has_all = self.reached.iter().zip(target).all(|(reached, target)| reached >= target);
        if !has_started || *is_interrupted || *is_current || !has_all {
            return;
        }
        self.session.is_current = true;
        self.session.is_filling = false;
        for place in 0..self.reached.len() {
            self.reach(place, self.reached[place], true, out);
        }
        self.report(SequenceEventKind::Current, out);
        let fill = self.fill.take().unwrap_or_default();
        for (place, sequence) in self.known.iter().flat_map(|known| &known.sequences).enumerate() {
            if let Some(reason) = fill.resets.get(sequence) {
                let reason = fill.reason.unwrap_or(*reason);
                self.report_of(place, SequenceEventKind::Reset { reason }, out);
            }
        }
    }

    /// Makes sure that no other source has these sequences.
    fn claim(&self, known: &Known) -> Result<(), LinkError> {
        let partitions = known.format.sequences().filter_map(|(_, partition)| partition);
        let topics = partitions.map(|partition| Arc::clone(&partition.topic)).collect();
        let claimed = self.claims.claim(&self.source, known.sequences.iter().cloned().collect(), &topics);
        claimed.map_err(|name| LinkError::Sequence(name.trim_start_matches('\0').to_owned()))
    }

    /// The entries of an id. An id of another form means that the origin has other sequences than it said.
    fn entries(&self, id: &str) -> Result<Vec<EntryId>, LinkError> {
        self.known.as_ref().and_then(|known| known.format.parse(id)).ok_or(LinkError::Changed)
    }

    /// A sequence has come to an entry.
    fn reach(&mut self, place: usize, entry: EntryId, is_confirmed: bool, out: &mut Vec<SourceEvent>) {
        self.reached[place] = self.reached[place].max(entry);
        self.delivered[place] = self.delivered[place].max(entry);
        self.report_of(place, SequenceEventKind::Reached { entry, is_confirmed }, out);
    }

    fn report(&self, kind: SequenceEventKind, out: &mut Vec<SourceEvent>) {
        (0..self.reached.len()).for_each(|place| self.report_of(place, kind, out));
    }

    fn report_of(&self, place: usize, kind: SequenceEventKind, out: &mut Vec<SourceEvent>) {
        let sequence = self.known.as_ref().and_then(|known| known.sequences.get(place));
        out.extend(sequence.map(|sequence| SequenceEvent { sequence: Arc::clone(sequence), kind }.into()));
    }
}

impl Known {
    /// What an origin has said, and how far its sequences have come, in the order of ids.
    fn of(start: RelayStart, source: &str) -> (Self, Vec<EntryId>) {
        let RelayStart { sequences, retentions, .. } = start;
        let local = |(name, _): &(SequenceName, EntryId)| match name {
            SequenceName::Named(name) => (Arc::clone(name), None),
            SequenceName::Numbered(epoch) => (numbered_sequence(epoch), None),
            SequenceName::Partition(partition) => (partition.sequence().into(), Some(partition.clone())),
        };
        let of_start: Vec<(Arc<str>, Option<Partition>)> = sequences.iter().map(local).collect();
        // Without retentions there are no ids.
        let format = IdFormat::new(of_start.iter().filter(|_| !retentions.is_empty()).cloned());
        let names: Vec<Arc<str>> = format.sequences().map(|(name, _)| Arc::clone(name)).collect();
        let newest = |name: &Arc<str>| {
            let place = of_start.iter().position(|(of, _)| of == name);
            place.and_then(|place| sequences.get(place)).map_or(EntryId::ZERO, |(_, newest)| *newest)
        };
        let target = names.iter().map(newest).collect();
        let known = |RelayedRetention { retention, trimmed, .. }: RelayedRetention| {
            let sequence = names.iter().position(|name| retention.sequence.as_ref() == Some(name))?;
            let name = retention.name.to_string();
            let retention = Arc::new(Retention { name: format!("{source}/{name}").into(), ..(*retention).clone() });
            Some((name, KnownRetention { retention, sequence, trimmed }))
        };
        let retentions = retentions.into_iter().filter_map(known).collect();
        (Self { format, sequences: names, retentions }, target)
    }

    /// Whether ids and what is kept are the same, but for how long it is kept.
    fn is_same(&self, other: &Self) -> bool {
        let is_known = |(name, KnownRetention { retention, sequence, .. }): (&String, &KnownRetention)| {
            other.retentions.get(name).is_some_and(|other| {
                (&retention.namespace, &retention.except, *sequence)
                    == (&other.retention.namespace, &other.retention.except, other.sequence)
            })
        };
        self.sequences == other.sequences
            && self.retentions.len() == other.retentions.len()
            && self.retentions.iter().all(is_known)
    }

    /// The sequences of `now` whose readers cannot go on where they were, with the reason: they have come to `reached`, and `newest` is
    /// the place of the origin.
    fn lost(&self, reached: &[EntryId], now: &Self, newest: &[EntryId]) -> HashMap<Arc<str>, ResetReason> {
        let lost = |(name, is_now): (&String, &KnownRetention)| {
            let before = self.retentions.get(name)?;
            let (sequence, reached) = (now.sequences.get(is_now.sequence)?, *reached.get(before.sequence)?);
            let is_other = self.sequences.get(before.sequence) != Some(sequence);
            let reason = if is_other || newest.get(is_now.sequence).is_some_and(|newest| *newest < reached) {
                ResetReason::Unknown
            } else if is_now.trimmed > reached {
                ResetReason::Trimmed
            } else {
                return None;
            };
            Some((Arc::clone(sequence), reason))
        };
        now.retentions.iter().filter_map(lost).collect()
    }

    /// See [`Session::believed`]; `target` is how far the sequences have come.
    fn believed(&self, target: &[EntryId]) -> Vec<EntryId> {
        let mut trimmed = vec![None; target.len()];
        for retention in self.retentions.values() {
            let of = &mut trimmed[retention.sequence];
            *of = Some(of.map_or(retention.trimmed, |other: EntryId| other.min(retention.trimmed)));
        }
        trimmed.into_iter().zip(target).map(|(trimmed, target)| trimmed.unwrap_or(*target)).collect()
    }

    /// What the engine keeps.
    fn declared(&self, source: &str) -> Vec<Arc<Retention>> {
        let mut retentions: Vec<Arc<Retention>> =
            self.retentions.values().map(|known| Arc::clone(&known.retention)).collect();
        for (place, (name, partition)) in self.format.sequences().enumerate() {
            if !self.retentions.values().any(|known| known.sequence == place) {
                retentions.push(Arc::new(Retention {
                    name: format!("{source}/{NOTHING} {place}").into(),
                    namespace: Namespace::root(),
                    except: [Namespace::root()].into(),
                    sequence: Some(Arc::clone(name)),
                    partition: partition.cloned(),
                    max_messages: Some(0),
                    max_bytes: None,
                    max_age: None,
                    last_values: false,
                }));
            }
        }
        // A map has no order, and another order would look like a change.
        retentions.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        retentions
    }
}
