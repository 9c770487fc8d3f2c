//! The sequences of an engine, and the ids of messages on the wire: how far each sequence has been sent.
//!
//! With one sequence an id is that of the entry: `1732-0`. With several it names them all, so that it is a position in each:
//! `orders:1732-0,trades:1733-4`. The engine's own numbers have no name, and an epoch that no other process has:
//! `9c1f03d2a7b4e865-42`.

use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::{EntryId, Retention};

/// The longest id that is read, in bytes.
pub(crate) const MAX_ID_BYTES: usize = 4096;

/// How far each sequence has been sent.
#[derive(Debug, Clone)]
pub(crate) struct Sequences {
    /// Sorted by name; the engine's own first.
    all: Vec<Sequence>,
    epoch: Arc<str>,
}

/// How far one sequence has been sent.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    /// `None` for the engine's own numbers.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) newest: EntryId,
    /// Whether everything has been sent that there was when the source started.
    pub(crate) is_current: bool,
}

impl Sequences {
    /// The sequences of `retentions`, with what is known of those that there were before. A sequence that disappears is
    /// forgotten, because ids must name the same sequences on all nodes.
    pub(crate) fn declare(&mut self, retentions: &[Arc<Retention>]) {
        let mut names: Vec<Option<Arc<str>>> = retentions.iter().map(|retention| retention.sequence.clone()).collect();
        names.sort_unstable();
        names.dedup();
        let known = |name: &Option<Arc<str>>| self.all.iter().find(|sequence| sequence.name == *name).cloned();
        self.all = names.into_iter().map(|name| known(&name).unwrap_or_else(|| Sequence::new(name))).collect();
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
        for (Sequence { name, .. }, newest) in self.all.iter().zip(entries) {
            if !id.is_empty() {
                id.push(',');
            }
            // Writing to a string cannot fail.
            let _ = match name {
                None => write!(id, "{}-{}", self.epoch, newest.major),
                Some(_) if is_alone => write!(id, "{newest}"),
                Some(name) => write!(id, "{}:{newest}", escaped(name)),
            };
        }
        id
    }

    /// The entry of each sequence, in their order, that an id names; `None` for a sequence that it does not name, or not in a way
    /// that this engine understands.
    pub(crate) fn parse(&self, id: &str) -> Vec<Option<EntryId>> {
        let parts: Vec<&str> = if id.len() > MAX_ID_BYTES { Vec::new() } else { id.split(',').collect() };
        let is_alone = self.all.len() == 1;
        let entry = |sequence: &Sequence| match &sequence.name {
            None => parts.iter().find_map(|part| {
                let (epoch, number) = part.rsplit_once('-')?;
                let number = EntryId::new(format!("{number}-0").parse::<EntryId>().ok()?.major, 0);
                (*epoch == *self.epoch).then_some(number)
            }),
            Some(_) if is_alone && parts.len() == 1 && !id.contains(':') => id.parse().ok(),
            Some(name) => {
                let name = escaped(name);
                let found = parts.iter().find_map(|part| part.strip_prefix(&*name)?.strip_prefix(':'));
                found.and_then(|entry| entry.parse().ok())
            }
        };
        self.all.iter().map(entry).collect()
    }
}

impl Default for Sequences {
    /// None yet, with a random epoch.
    fn default() -> Self {
        // The keys of a hasher are random for each instance.
        let epoch = format!("{:016x}", RandomState::new().hash_one(0));
        Self { all: Vec::new(), epoch: epoch.into() }
    }
}

impl Sequence {
    fn new(name: Option<Arc<str>>) -> Self {
        // What the engine numbers itself has no past.
        let is_current = name.is_none();
        Self { name, newest: EntryId::ZERO, is_current }
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
            entries in proptest::collection::btree_map(proptest::option::of(".{0,6}"), (any::<u64>(), any::<u64>()), 1..5),
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
