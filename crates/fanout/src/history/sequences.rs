//! The sequences of an engine, and the ids of messages on the wire: how far each sequence has been sent.
//!
//! With one sequence an id is that of the entry: `1732-0`. With several it names them all, so that it is a position in each:
//! `orders:1732-0,trades:1733-4`. The engine's own numbers have no name, and an epoch that no other process has:
//! `9c1f03d2a7b4e865-42`. The partitions of a topic are one vector, with the place in partition 0 first: `trades@17.4.33`.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use crate::{EntryId, Partition, Retention};

/// The longest id that is read, in bytes.
pub(crate) const MAX_ID_BYTES: usize = 4096;

/// The first character of the name of a sequence that another engine numbers: its epoch follows. No other name has it.
pub(crate) const NUMBERED: char = '\u{0}';

/// The epochs that are remembered.
const MAX_PAST: usize = 16;

/// How far each sequence has been sent.
#[derive(Debug, Clone)]
pub(crate) struct Sequences {
    /// Sorted by name; the engine's own first.
    all: Vec<Sequence>,
    epoch: Arc<str>,
    /// The newest epochs of other engines that are over: those engines have started again.
    past: VecDeque<Arc<str>>,
}

/// How far one sequence has been sent.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    /// `None` for the engine's own numbers.
    pub(crate) name: Option<Arc<str>>,
    /// What it is a partition of, if it is one.
    pub(crate) partition: Option<Partition>,
    pub(crate) newest: EntryId,
    /// Whether everything has been sent that there was when the source started.
    pub(crate) is_current: bool,
    /// When its source last confirmed how far it has come, if it does that.
    pub(crate) confirmed_at: Option<Instant>,
}

/// The form of the ids of an engine, to read them elsewhere.
#[derive(Debug, Clone)]
pub struct IdFormat(Sequences);

impl IdFormat {
    /// Of an engine with these sequences, in any order; each with what it is a partition of, if it is one.
    pub fn new(sequences: impl IntoIterator<Item = (Arc<str>, Option<Partition>)>) -> Self {
        let sequence = |(name, partition)| Sequence {
            name: Some(name),
            partition,
            newest: EntryId::ZERO,
            is_current: false,
            confirmed_at: None,
        };
        let mut all: Vec<Sequence> = sequences.into_iter().map(sequence).collect();
        all.sort_unstable_by(Sequence::order);
        all.dedup_by(|one, other| one.order(other).is_eq());
        Self(Sequences { all, ..Sequences::default() })
    }

    /// The sequences, in the order of [`parse`](Self::parse).
    pub fn sequences(&self) -> impl Iterator<Item = (&Arc<str>, Option<&Partition>)> {
        self.0.all.iter().filter_map(|sequence| Some((sequence.name.as_ref()?, sequence.partition.as_ref())))
    }

    /// The entry of each sequence that `id` names; `None` if it does not name exactly these sequences. Their order in the id does not
    /// matter: an engine puts its own numbers before those of others, and here both are those of others.
    pub fn parse(&self, id: &str) -> Option<Vec<EntryId>> {
        let parts = |id: &str| {
            let mut parts: Vec<Box<str>> = id.split(',').map(Box::from).collect();
            parts.sort_unstable();
            parts
        };
        let entries: Option<Vec<EntryId>> = self.0.parse(id).into_iter().collect();
        entries.filter(|entries| {
            let same = self.id(entries);
            same == id || parts(&same) == parts(id)
        })
    }

    /// The id that names these entries.
    pub fn id(&self, entries: &[EntryId]) -> String {
        self.0.id_of(entries.iter().copied())
    }
}

impl Sequences {
    /// The sequences of `retentions`, with what is known of those that there were before. A sequence that disappears is
    /// forgotten, because ids must name the same sequences on all nodes.
    pub(crate) fn declare(&mut self, retentions: &[Arc<Retention>]) {
        let mut all: Vec<Sequence> = retentions.iter().map(|retention| Sequence::new(retention)).collect();
        all.sort_unstable_by(Sequence::order);
        all.dedup_by(|a, b| a.order(b).is_eq());
        for sequence in &mut all {
            if let Some(known) = self.all.iter().find(|known| known.order(sequence).is_eq()) {
                sequence.clone_from(known);
            }
        }
        let is_over = |known: &&Sequence| !all.iter().any(|sequence| known.order(sequence).is_eq());
        let over = self.all.iter().filter(is_over);
        let epochs = over.filter_map(|sequence| sequence.name.as_ref()?.strip_prefix(NUMBERED));
        self.past.extend(epochs.map(Arc::from));
        self.past.drain(..self.past.len().saturating_sub(MAX_PAST));
        self.all = all;
    }

    /// The place of a sequence.
    pub(crate) fn place(&self, name: Option<&str>) -> Option<usize> {
        self.all.iter().position(|sequence| sequence.name.as_deref() == name)
    }

    pub(crate) fn get(&self, place: usize) -> Option<&Sequence> {
        self.all.get(place)
    }

    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut Sequence> {
        self.all.get_mut(place)
    }

    /// Whether other nodes send the messages of the sequence at this place, too.
    pub(crate) fn is_shared(&self, place: usize) -> bool {
        self.get(place).is_some_and(|sequence| sequence.name.is_some())
    }

    /// Whether an id is of an engine that has started again since.
    pub(crate) fn is_past(&self, id: &str) -> bool {
        let is_over = |epoch: &str| self.past.iter().any(|past| **past == *epoch);
        id.split(',').any(|part| part.rsplit_once('-').is_some_and(|(epoch, _)| is_over(epoch)))
    }

    /// The name that this engine's own numbers have in others; no other engine has the same.
    pub(crate) fn epoch(&self) -> &Arc<str> {
        &self.epoch
    }

    /// All of them, in the order of their places.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.all.iter()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The id of a message that is sent now.
    pub(crate) fn id(&self) -> String {
        self.id_of(self.all.iter().map(|sequence| sequence.newest))
    }

    /// The id of a message that is sent now, or of the last one; `None` before everything has been sent that there was at the start:
    /// a reader that came back with it would get what was there before it came.
    pub(crate) fn position(&self) -> Option<Box<str>> {
        self.all.iter().all(|sequence| sequence.is_current).then(|| self.id().into())
    }

    /// The id that names the `entries` of all sequences, in their order; for those that are absent, the newest ones.
    pub(crate) fn id_at(&self, entries: &[Option<EntryId>]) -> String {
        let of = |(sequence, entry): (&Sequence, &Option<EntryId>)| entry.unwrap_or(sequence.newest);
        self.id_of(self.all.iter().zip(entries).map(of))
    }

    fn id_of(&self, entries: impl Iterator<Item = EntryId>) -> String {
        let mut id = String::new();
        let is_alone = self.all.len() == 1;
        let mut topic: Option<&str> = None;
        for (Sequence { name, partition, .. }, newest) in self.all.iter().zip(entries) {
            let of = partition.as_ref().map(|partition| &*partition.topic);
            let continues = of.is_some() && of == topic;
            topic = of;
            if !id.is_empty() && !continues {
                id.push(',');
            }
            // Writing to a string cannot fail.
            let _ = match (name, of) {
                (_, Some(_)) if continues => write!(id, ".{}", Element(newest)),
                (_, Some(of)) => write!(id, "{}@{}", escaped(of), Element(newest)),
                (None, _) => write!(id, "{}-{}", self.epoch, newest.major),
                (Some(name), _) if name.starts_with(NUMBERED) => {
                    write!(id, "{}-{}", name.trim_start_matches(NUMBERED), newest.major)
                }
                (Some(_), _) if is_alone => write!(id, "{newest}"),
                (Some(name), _) => write!(id, "{}:{newest}", escaped(name)),
            };
        }
        id
    }

    /// The entry of each sequence, in their order, that an id names; `None` for a sequence that it does not name, or not in a way
    /// that this engine understands.
    pub(crate) fn parse(&self, id: &str) -> Vec<Option<EntryId>> {
        let parts: Vec<&str> = if id.len() > MAX_ID_BYTES { Vec::new() } else { id.split(',').collect() };
        let is_alone = self.all.len() == 1;
        let numbered = |wanted: &str| {
            parts.iter().find_map(|part| {
                let (epoch, number) = part.rsplit_once('-')?;
                let number = EntryId::new(format!("{number}-0").parse::<EntryId>().ok()?.major, 0);
                (*epoch == *wanted).then_some(number)
            })
        };
        let named = |name: &str| {
            let name = escaped(name);
            let found = parts.iter().find_map(|part| part.strip_prefix(&*name)?.strip_prefix(':'));
            found.and_then(|entry| entry.parse().ok())
        };
        // That of the topic whose partitions, which are beside each other, are looked for now.
        let mut last: Option<(Arc<str>, Option<Vector>)> = None;
        let mut vector = |Partition { topic, number }: &Partition| {
            if last.as_ref().is_none_or(|(of, _)| of != topic) {
                let name = escaped(topic);
                let found = parts.iter().find_map(|part| part.strip_prefix(&*name)?.strip_prefix('@'));
                last = Some((Arc::clone(topic), found.map(|text| self.vector(text, topic))));
            }
            Some(last.as_ref()?.1.as_ref()?.entry(*number))
        };
        let entry = |sequence: &Sequence| match &sequence.name {
            None => numbered(&self.epoch),
            Some(name) if name.starts_with(NUMBERED) => numbered(name.trim_start_matches(NUMBERED)),
            Some(name) if let Some(partition) = &sequence.partition => vector(partition).unwrap_or_else(|| named(name)),
            Some(_) if is_alone && parts.len() == 1 && !id.contains(':') => id.parse().ok(),
            Some(name) => named(name),
        };
        self.all.iter().map(entry).collect()
    }

    /// Reads the vector of `topic`.
    fn vector(&self, text: &str, topic: &Arc<str>) -> Vector {
        let known = self.all.iter().filter(|sequence| sequence.partition.as_ref().is_some_and(|of| of.topic == *topic));
        let entries: Vec<Option<EntryId>> = text.split('.').map(element).collect();
        let is_ahead = entries.iter().skip(known.count()).any(|entry| *entry != Some(EntryId::ZERO));
        Vector { entries, is_ahead }
    }
}

/// The places in the partitions of a topic that an id names.
struct Vector {
    entries: Vec<Option<EntryId>>,
    /// Whether it names one in a partition that is not known here yet, which makes the position one ahead of every message.
    is_ahead: bool,
}

impl Vector {
    /// The place in a partition; `None` if it cannot be read. A partition that was added later has been read up to nothing.
    fn entry(&self, number: u32) -> Option<EntryId> {
        if self.is_ahead {
            return Some(AHEAD);
        }
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        self.entries.get(number).copied().unwrap_or(Some(EntryId::ZERO))
    }
}

/// Later than every entry.
const AHEAD: EntryId = EntryId::new(u64::MAX, u64::MAX);

/// A place in a vector: the second number is left out where it is zero, as it is where a broker numbers entries by one.
struct Element(EntryId);

impl fmt::Display for Element {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            EntryId { major, minor: 0 } => write!(formatter, "{major}"),
            entry => write!(formatter, "{entry}"),
        }
    }
}

fn element(text: &str) -> Option<EntryId> {
    if text.contains('-') { text.parse().ok() } else { format!("{text}-0").parse().ok() }
}

impl Default for Sequences {
    /// None yet, with a random epoch.
    fn default() -> Self {
        // The keys of a hasher are random for each instance.
        let epoch = format!("{:016x}", RandomState::new().hash_one(0));
        Self { all: Vec::new(), epoch: epoch.into(), past: VecDeque::new() }
    }
}

impl Sequence {
    fn new(retention: &Retention) -> Self {
        let Retention { sequence, partition, .. } = retention;
        // What the engine numbers itself has no past.
        let is_current = sequence.is_none();
        Self {
            name: sequence.clone(),
            partition: partition.clone(),
            newest: EntryId::ZERO,
            is_current,
            confirmed_at: None,
        }
    }

    /// By name; partitions by their topic and number, beside each other.
    fn order(&self, other: &Self) -> Ordering {
        let key = |of: &Self| {
            let topic = of.partition.as_ref().map(|partition| Arc::clone(&partition.topic));
            (
                topic.or_else(|| of.name.clone()),
                of.partition.as_ref().map(|partition| partition.number),
                of.name.clone(),
            )
        };
        key(self).cmp(&key(other))
    }
}

/// A name without the characters that separate the parts of an id, or that a header or an event stream could not carry.
pub(crate) fn escaped(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'-' | b'/') {
            escaped.push(char::from(byte));
        } else {
            // As above.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn retentions(names: &[Option<&str>]) -> Vec<Arc<Retention>> {
        let retention = |name: &Option<&str>| {
            Arc::new(Retention {
                name: format!("{name:?}").into(),
                namespace: crate::Namespace::root(),
                except: Box::default(),
                sequence: name.map(Into::into),
                partition: None,
                max_messages: None,
                max_bytes: None,
                max_age: None,
                last_values: false,
            })
        };
        names.iter().map(retention).collect()
    }

    fn sequences(names: &[Option<&str>]) -> Sequences {
        let mut sequences = Sequences::default();
        sequences.declare(&retentions(names));
        sequences
    }

    fn set(sequences: &mut Sequences, name: Option<&str>, entry: EntryId) {
        let place = sequences.place(name).unwrap();
        sequences.get_mut(place).unwrap().newest = entry;
    }

    #[test]
    fn id_of_one_sequence_is_that_of_the_entry() {
        let mut one = sequences(&[Some("orders")]);
        set(&mut one, Some("orders"), EntryId::new(1732, 5));
        assert_eq!(one.id(), "1732-5");
        assert_eq!(one.parse("1732-5"), [Some(EntryId::new(1732, 5))]);
        for other in ["", "1732", "a-b", "1732-5,1732-5", "trades:1-1", "earliest"] {
            assert_eq!(one.parse(other), [None], "{other}");
        }
        // Written when there were more.
        assert_eq!(one.parse("orders:1-2,trades:3-4"), [Some(EntryId::new(1, 2))]);
    }

    #[test]
    fn engine_that_relays_another_one_has_the_same_ids() {
        let mut origin = sequences(&[None, Some("orders")]);
        set(&mut origin, None, EntryId::new(42, 0));
        set(&mut origin, Some("orders"), EntryId::new(7, 1));
        let names = [crate::numbered_sequence(&origin.epoch), "orders".into()];
        let format = IdFormat::new(names.clone().map(|name| (name, None)));
        let entries = vec![EntryId::new(42, 0), EntryId::new(7, 1)];
        assert_eq!(format.parse(&origin.id()), Some(entries.clone()));
        assert_eq!(format.id(&entries), origin.id());
        for other in ["", "orders:7-1", "0123456789abcdef-42,orders:7-1", &format!("{},trades:1-1", origin.id())] {
            assert_eq!(format.parse(other), None, "{other}");
        }
        // Alone, its numbers have no name either.
        let mut origin = sequences(&[None]);
        set(&mut origin, None, EntryId::new(3, 0));
        let format = IdFormat::new([(crate::numbered_sequence(&origin.epoch), None)]);
        assert_eq!(format.parse(&origin.id()), Some(vec![EntryId::new(3, 0)]));
        assert_eq!((IdFormat::new([]).parse(""), IdFormat::new([]).parse("1-0")), (Some(vec![]), None));
    }

    #[test]
    fn order_of_epochs_in_an_id_does_not_matter() {
        // An engine that numbers messages itself, between these others, in front of one whose numbers it passes on.
        for of_origin in ["0000000000000000", "ffffffffffffffff"] {
            let name = crate::numbered_sequence(of_origin);
            let mut edge = sequences(&[None, Some(&*name)]);
            set(&mut edge, None, EntryId::new(1, 0));
            set(&mut edge, Some(&*name), EntryId::new(2, 0));
            let format = IdFormat::new([crate::numbered_sequence(&edge.epoch), name.clone()].map(|name| (name, None)));
            let entries = format.parse(&edge.id()).unwrap();
            let named: Vec<_> = format.sequences().map(|(name, _)| name).zip(entries).collect();
            assert!(named.contains(&(&name, EntryId::new(2, 0))), "{named:?}");
            assert_eq!(format.parse(&format!("{0},{0}", edge.id())), None);
        }
    }

    #[test]
    fn id_of_several_sequences_names_them() {
        let mut several = sequences(&[Some("trades"), None, Some("a:b,c")]);
        set(&mut several, Some("trades"), EntryId::new(7, 1));
        set(&mut several, None, EntryId::new(42, 0));
        let id = several.id();
        assert_eq!(id, format!("{}-42,a%3Ab%2Cc:0-0,trades:7-1", several.epoch));
        assert_eq!(several.parse(&id), [Some(EntryId::new(42, 0)), Some(EntryId::ZERO), Some(EntryId::new(7, 1))]);
        assert_eq!(several.parse("trades:7-1"), [None, None, Some(EntryId::new(7, 1))]);
        assert_eq!(several.parse("7-1"), [None, None, None]);
        // Of another process.
        assert_eq!(sequences(&[None]).parse("0123456789abcdef-42"), [None]);
        assert_eq!(several.parse(&"trades:7-1,".repeat(MAX_ID_BYTES)), [None, None, None]);
    }

    /// The sequences of a topic with partitions, and of one without.
    fn partitioned(count: u32) -> Sequences {
        let of = retentions(&[Some("a:b"), Some("z")]);
        let mut all = vec![Arc::clone(&of[1])];
        all.extend((0..count).rev().map(|number| Arc::new(of[0].of_partition(number))));
        let mut sequences = Sequences::default();
        sequences.declare(&all);
        sequences
    }

    #[test]
    fn id_of_partitions_is_a_vector() {
        let mut several = partitioned(12);
        for number in [0, 2, 11] {
            set(&mut several, Some(&format!("a:b#{number}")), EntryId::new(40 + number, number % 2));
        }
        set(&mut several, Some("z"), EntryId::new(7, 1));
        let id = several.id();
        assert_eq!(id, "a%3Ab@40.0.42.0.0.0.0.0.0.0.0.51-1,z:7-1");
        let newest: Vec<_> = several.all.iter().map(|sequence| Some(sequence.newest)).collect();
        assert_eq!(several.parse(&id), newest);
        // As one entry is named.
        assert_eq!(several.parse("a%3Ab%232:5-0")[1..4], [None, Some(EntryId::new(5, 0)), None]);
        assert_eq!(several.parse("a%3Ab@x.+1.-..3")[..5], [None, None, None, None, Some(EntryId::new(3, 0))]);
        let alone = |id: &str| {
            let mut one = Sequences::default();
            one.declare(&[Arc::new(retentions(&[Some("a")])[0].of_partition(0))]);
            one.parse(id)
        };
        assert_eq!(alone("a@4"), [Some(EntryId::new(4, 0))]);
        assert_eq!(alone("4-0"), [None]);
    }

    #[test]
    fn partitions_that_were_added_are_read_from_their_beginning() {
        let entry = |major| Some(EntryId::new(major, 0));
        assert_eq!(partitioned(3).parse("a%3Ab@4.5"), [entry(4), entry(5), entry(0), None]);
        assert_eq!(partitioned(2).parse("a%3Ab@4.5.0"), [entry(4), entry(5), None]);
        // Another node has sent entries of a partition that this one does not know.
        assert_eq!(partitioned(2).parse("a%3Ab@4.5.1"), [Some(AHEAD), Some(AHEAD), None]);
        let mut grown = partitioned(2);
        set(&mut grown, Some("a:b#1"), EntryId::new(9, 0));
        let retentions: Vec<_> =
            (0..3).map(|number| Arc::new(retentions(&[Some("a:b")])[0].of_partition(number))).collect();
        grown.declare(&retentions);
        assert_eq!(grown.id(), "a%3Ab@0.9.0");
    }

    #[test]
    fn new_declaration_keeps_what_is_known() {
        let mut all = sequences(&[Some("a"), Some("b")]);
        set(&mut all, Some("b"), EntryId::new(1, 1));
        let epoch = Arc::clone(&all.epoch);
        all.declare(&retentions(&[Some("b"), Some("c")]));
        assert_eq!((all.id().as_str(), &all.epoch), ("b:1-1,c:0-0", &epoch));
        all.declare(&[]);
        assert!(all.is_empty() && all.id().is_empty());
    }

    proptest! {
        #[test]
        fn ids_are_read_as_they_are_written(
            entries in proptest::collection::btree_map(proptest::option::of("([^\\x00].{0,5})?"), (any::<u64>(), any::<u64>()), 1..5),
        ) {
            let names: Vec<_> = entries.keys().map(Option::as_deref).collect();
            let mut all = sequences(&names);
            let mut expected = Vec::new();
            for (name, (major, minor)) in &entries {
                let entry = EntryId::new(*major, if name.is_some() { *minor } else { 0 });
                set(&mut all, name.as_deref(), entry);
                expected.push(Some(entry));
            }
            let id = all.id();
            prop_assert_eq!(all.parse(&id), expected);
            prop_assert!(id.bytes().all(|byte| byte.is_ascii_graphic()));
        }

        #[test]
        fn any_text_is_read_without_panic(id in ".{0,40}") {
            sequences(&[None, Some("a")]).parse(&id);
        }
    }
}
