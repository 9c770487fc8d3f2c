//! What is published, and which of it each connection is due: everything, or the symbols of its own watch-list.

use std::borrow::Cow;

use rand::{RngExt, SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The start of the channels of symbols.
pub(super) const SYMBOL_CHANNELS: &str = "quotes.";

/// The start of the paths of topics.
const PATHS: &str = "/subscribe";

/// The start of the paths of watch-lists. Symbols follow, separated by commas.
pub(super) const SYMBOL_PATHS: &str = "/subscribe/quotes/";

/// The start of the topics of symbols.
pub(super) const SYMBOL_TOPICS: &str = "/quotes/";

/// The route of tallycast that connects channels and topics.
pub(super) const SYMBOL_ROUTE: &str = "quotes.*=/quotes/*";

/// The seed of watch-lists and messages, so that all subjects and runs have the same.
const SEED: u64 = 11;

/// Messages, channels and paths of a run.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    channel: String,
    path: String,
    /// Whether each connection has a topic of its own, too.
    distinct_topics: bool,
    watch_lists: Option<WatchLists>,
}

/// A watch-list for each connection, and the symbol of each message.
#[derive(Clone, Debug)]
struct WatchLists {
    /// Symbols per list.
    length: usize,
    /// The lists one after another, each in ascending order.
    symbols: Vec<u32>,
    messages: Vec<SymbolMessage>,
    /// Readers of each symbol.
    readers: Vec<u32>,
}

/// A message of a symbol.
#[derive(Clone, Copy, Debug)]
pub(super) struct SymbolMessage {
    pub(super) symbol: u32,
    /// The number of earlier messages of the symbol.
    pub(super) ordinal: u32,
}

/// What readers have at the end, counted for each reader and each of its symbols that had messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Newest {
    /// How often the newest message was received.
    pub(super) received: u64,
    /// How often it was due.
    pub(super) due: u64,
}

/// What a connection has received.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The sequence number after the last one. `None` if the first message may have any.
    next_sequence: Option<u64>,
    /// The ordinal of the next message of each watched symbol. `None` as above.
    next_ordinals: Box<[Option<u32>]>,
}

/// How a message relates to those before it on the same connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A message that is due, after `missing` others that should have come first.
    Due { missing: u64 },
    /// A message that is due, after one that was published later.
    OutOfOrder,
    /// A message that was received before.
    Duplicate,
    /// A message that this connection did not subscribe to.
    NotSubscribed,
}

impl Workload {
    /// One channel, all messages of which every connection reads at `path`.
    pub(super) fn one_channel(channel: String, path: String) -> Self {
        Self { channel, path, distinct_topics: false, watch_lists: None }
    }

    /// The same, where each connection also subscribes to a topic of its own, on which nothing is published.
    pub(super) fn with_distinct_topics(self) -> Self {
        Self { distinct_topics: true, ..self }
    }

    /// `messages` messages of random symbols of `symbols`, and lists of `length` random symbols for `connections`. The first
    /// `readers` of these are counted by [`due`](Self::due).
    pub(super) fn watch_lists(
        length: usize,
        symbols: usize,
        connections: usize,
        readers: usize,
        messages: u64,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mut lists = Vec::with_capacity(connections * length);
        let mut symbol_readers = vec![0; symbols];
        for connection in 0..connections {
            let start = lists.len();
            lists.extend(index::sample(&mut rng, symbols, length).into_iter().map(|symbol| symbol as u32));
            lists[start..].sort_unstable();
            if connection < readers {
                lists[start..].iter().for_each(|symbol| symbol_readers[*symbol as usize] += 1);
            }
        }
        let mut counts = vec![0; symbols];
        let messages = (0..messages).map(|_| {
            let symbol = rng.random_range(0..symbols);
            counts[symbol] += 1;
            SymbolMessage { symbol: symbol as u32, ordinal: counts[symbol] - 1 }
        });
        let messages = messages.collect();
        Self {
            channel: format!("{SYMBOL_CHANNELS}*"),
            path: format!("{SYMBOL_PATHS}..."),
            distinct_topics: false,
            watch_lists: Some(WatchLists { length, symbols: lists, messages, readers: symbol_readers }),
        }
    }

    /// The channel or pattern that contains all messages.
    pub(super) fn subscription(&self) -> &str {
        &self.channel
    }

    /// Whether connections read watch-lists.
    pub(super) fn has_watch_lists(&self) -> bool {
        self.watch_lists.is_some()
    }

    /// The channel of message `sequence`.
    pub(super) fn channel(&self, sequence: u64) -> Cow<'_, str> {
        match self.watch_lists.as_ref().and_then(|lists| lists.message(sequence)) {
            Some(message) => Cow::Owned(format!("{SYMBOL_CHANNELS}{}", symbol_name(message.symbol))),
            None => Cow::Borrowed(&self.channel),
        }
    }

    /// The path that connection `index` requests.
    pub(super) fn path(&self, index: usize) -> Cow<'_, str> {
        match &self.watch_lists {
            Some(lists) => {
                let names: Vec<String> = lists.list(index).iter().map(|symbol| symbol_name(*symbol)).collect();
                Cow::Owned(format!("{SYMBOL_PATHS}{}", names.join(",")))
            }
            None if self.distinct_topics && self.path.contains('?') => {
                Cow::Owned(format!("{}&topic=/own{index}", self.path))
            }
            None if self.distinct_topics => Cow::Owned(format!("{},own{index}", self.path)),
            None => Cow::Borrowed(&self.path),
        }
    }

    /// The topics that connection `index` requests, as those of its [`path`](Self::path): `/subscribe/a/b,c` is `/a/b` and `/a/c`.
    pub(super) fn topics(&self, index: usize) -> Vec<String> {
        let path = self.path(index);
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let in_query = query.split('&').filter_map(|parameter| parameter.strip_prefix("topic="));
        let mut topics: Vec<String> = in_query.map(str::to_owned).collect();
        if let Some((parent, names)) = path.strip_prefix(PATHS).and_then(|path| path.rsplit_once('/')) {
            topics.extend(names.split(',').map(|name| format!("{parent}/{name}")));
        }
        topics
    }

    /// Topics that contain those of connection `index`, as a token would have them.
    pub(super) fn readable(&self, index: usize) -> Vec<String> {
        if self.has_watch_lists() { vec![format!("{SYMBOL_TOPICS}**")] } else { self.topics(index) }
    }

    /// The symbols that connection `index` watches at first; none without watch-lists.
    pub(super) fn list(&self, index: usize) -> &[u32] {
        self.watch_lists.as_ref().map_or(&[], |lists| lists.list(index))
    }

    /// The number of symbols; 0 without watch-lists.
    pub(super) fn symbols(&self) -> usize {
        self.watch_lists.as_ref().map_or(0, |lists| lists.readers.len())
    }

    /// The symbol of message `sequence`, and the number of its earlier messages.
    pub(super) fn symbol_message(&self, sequence: u64) -> Option<SymbolMessage> {
        self.watch_lists.as_ref()?.message(sequence)
    }

    /// The numbers of messages of each symbol among the first `messages`. Without watch-lists, only their number.
    pub(super) fn counts(&self, messages: u64) -> Vec<u32> {
        match &self.watch_lists {
            Some(lists) => {
                let mut counts = vec![0; lists.readers.len()];
                let messages = lists.messages.iter().take(usize::try_from(messages).unwrap_or(usize::MAX));
                messages.for_each(|message| counts[message.symbol as usize] += 1);
                counts
            }
            None => vec![u32::try_from(messages).unwrap_or(u32::MAX)],
        }
    }

    /// How many symbols of connection `index` had messages, of which it has the newest, and how many had messages. `counts`
    /// are those of all published messages. Without watch-lists the channel is the only symbol.
    pub(super) fn newest(&self, index: usize, progress: &Progress, counts: &[u32]) -> Newest {
        let Some(lists) = &self.watch_lists else {
            let published = counts.first().copied().unwrap_or_default();
            let is_newest = progress.next_sequence == Some(u64::from(published));
            return Newest { received: u64::from(published > 0 && is_newest), due: u64::from(published > 0) };
        };
        let mut newest = Newest::default();
        for (symbol, next) in lists.list(index).iter().zip(&progress.next_ordinals) {
            let count = counts[*symbol as usize];
            if count > 0 {
                newest.due += 1;
                newest.received += u64::from(*next == Some(count));
            }
        }
        newest
    }

    /// The deliveries that are due when the first `messages` messages were published to `readers`.
    pub(super) fn due(&self, messages: u64, readers: usize) -> u64 {
        match &self.watch_lists {
            Some(lists) => {
                let messages = lists.messages.iter().take(usize::try_from(messages).unwrap_or(usize::MAX));
                messages.map(|message| u64::from(lists.readers[message.symbol as usize])).sum()
            }
            None => messages * readers as u64,
        }
    }

    /// The state of a connection that has received nothing. With `late`, it may miss the first messages of the run.
    pub(super) fn start(&self, late: bool) -> Progress {
        let watched = self.watch_lists.as_ref().map_or(0, |lists| lists.length);
        Progress {
            next_sequence: (!late).then_some(0),
            next_ordinals: vec![(!late).then_some(0); watched].into_boxed_slice(),
        }
    }

    /// Records that connection `index` received message `sequence`.
    pub(super) fn receive(&self, index: usize, progress: &mut Progress, sequence: u64) -> Arrival {
        let Some(lists) = &self.watch_lists else {
            let Some(missing) = sequence.checked_sub(progress.next_sequence.unwrap_or(sequence)) else {
                return Arrival::Duplicate;
            };
            progress.next_sequence = Some(sequence + 1);
            return Arrival::Due { missing };
        };
        let Some(SymbolMessage { symbol, ordinal }) = lists.message(sequence) else {
            return Arrival::NotSubscribed;
        };
        let Ok(place) = lists.list(index).binary_search(&symbol) else {
            return Arrival::NotSubscribed;
        };
        let next = &mut progress.next_ordinals[place];
        let Some(missing) = ordinal.checked_sub(next.unwrap_or(ordinal)) else {
            return Arrival::Duplicate;
        };
        *next = Some(ordinal + 1);
        if progress.next_sequence.is_some_and(|next| sequence < next) {
            return Arrival::OutOfOrder;
        }
        progress.next_sequence = Some(sequence + 1);
        Arrival::Due { missing: missing.into() }
    }
}

impl std::ops::AddAssign for Newest {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.due += other.due;
    }
}

impl WatchLists {
    fn list(&self, index: usize) -> &[u32] {
        &self.symbols[index * self.length..][..self.length]
    }

    fn message(&self, sequence: u64) -> Option<SymbolMessage> {
        self.messages.get(usize::try_from(sequence).ok()?).copied()
    }
}

/// The last segment of the channel and of the topic of `symbol`.
pub(super) fn symbol_name(symbol: u32) -> String {
    format!("S{symbol:04}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gaps_and_duplicates_on_one_channel_are_found() {
        let workload = Workload::one_channel("c".to_owned(), "/p".to_owned());
        let receive = |late, sequences: &[u64]| -> Vec<Arrival> {
            let mut progress = workload.start(late);
            sequences.iter().map(|sequence| workload.receive(0, &mut progress, *sequence)).collect()
        };
        let due = |missing| Arrival::Due { missing };
        assert_eq!(receive(false, &[1, 2, 2, 5, 3]), [due(1), due(0), Arrival::Duplicate, due(2), Arrival::Duplicate]);
        assert_eq!(receive(true, &[7, 9]), [due(0), due(1)]);
        assert_eq!((workload.channel(3), workload.path(3), workload.due(5, 3)), ("c".into(), "/p".into(), 15));
    }

    /// The messages that connection `index` is due, found by the names in its path and in the channels.
    fn due_by_name(workload: &Workload, index: usize, messages: u64) -> Vec<u64> {
        let path = workload.path(index);
        let names: Vec<&str> = path.strip_prefix(SYMBOL_PATHS).unwrap_or_default().split(',').collect();
        let is_due = |sequence: &u64| {
            let channel = workload.channel(*sequence);
            names.contains(&channel.strip_prefix(SYMBOL_CHANNELS).unwrap_or_default())
        };
        (0..messages).filter(is_due).collect()
    }

    proptest! {
        #[test]
        fn every_deviation_from_a_watch_list_is_found(
            length in 1..6_usize,
            more in 0..6_usize,
            readers in 1..5_usize,
            dropped in any::<prop::sample::Index>(),
        ) {
            const MESSAGES: u64 = 60;
            let workload = Workload::watch_lists(length, length + more, readers + 1, readers, MESSAGES);
            let due: Vec<Vec<u64>> = (0..=readers).map(|index| due_by_name(&workload, index, MESSAGES)).collect();
            prop_assert_eq!(workload.due(MESSAGES, readers), due[..readers].iter().map(|due| due.len() as u64).sum::<u64>());
            for (index, due) in due.iter().enumerate() {
                prop_assert_eq!(workload.path(index).split(',').count(), length);
                let mut progress = workload.start(false);
                for sequence in 0..MESSAGES {
                    let is_due = due.contains(&sequence);
                    let expected = if is_due { Arrival::Due { missing: 0 } } else { Arrival::NotSubscribed };
                    prop_assert_eq!(workload.receive(index, &mut progress, sequence), expected);
                    if is_due {
                        prop_assert_eq!(workload.receive(index, &mut progress, sequence), Arrival::Duplicate);
                    }
                }
                prop_assert_eq!(workload.receive(index, &mut progress, MESSAGES), Arrival::NotSubscribed);

                // One message is left out.
                if due.is_empty() {
                    continue;
                }
                let dropped = due[dropped.index(due.len())];
                let mut progress = workload.start(false);
                let mut missing = 0;
                for sequence in due.iter().filter(|sequence| **sequence != dropped) {
                    match workload.receive(index, &mut progress, *sequence) {
                        Arrival::Due { missing: count } => missing += count,
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
                let comes_later = |sequence: &&u64| **sequence > dropped && workload.channel(**sequence) == workload.channel(dropped);
                prop_assert_eq!(missing, u64::from(due.iter().any(|sequence| comes_later(&sequence))));
            }
        }
    }

    #[test]
    fn newest_messages_are_found_whatever_was_skipped() {
        let workload = Workload::watch_lists(2, 3, 1, 1, 100);
        let counts = workload.counts(100);
        let mut progress = workload.start(false);
        let newest = |progress: &Progress| workload.newest(0, progress, &counts);
        assert_eq!(newest(&progress), Newest { received: 0, due: 2 });
        let last = due_by_name(&workload, 0, 100).pop().unwrap_or_default();
        workload.receive(0, &mut progress, last);
        assert_eq!(newest(&progress), Newest { received: 1, due: 2 });

        let workload = Workload::one_channel("c".to_owned(), "/p".to_owned()).with_distinct_topics();
        let mut progress = workload.start(false);
        workload.receive(0, &mut progress, 8);
        assert_eq!(workload.newest(0, &progress, &workload.counts(10)), Newest { received: 0, due: 1 });
        workload.receive(0, &mut progress, 9);
        assert_eq!(workload.newest(0, &progress, &workload.counts(10)), Newest { received: 1, due: 1 });
        assert_eq!((workload.path(0), workload.path(1)), ("/p,own0".into(), "/p,own1".into()));
        let workload = Workload::one_channel("c".to_owned(), "/p?topic=/q".to_owned()).with_distinct_topics();
        assert_eq!(workload.path(7), "/p?topic=/q&topic=/own7");
        assert_eq!(workload.topics(7), ["/q", "/own7"]);
    }

    #[test]
    fn topics_are_those_of_the_path() {
        let topics = |path: &str| Workload::one_channel("c".to_owned(), path.to_owned()).topics(0);
        assert_eq!(topics("/subscribe/raw"), ["/raw"]);
        assert_eq!(topics("/subscribe/quotes/A,B?max-rate=1/s"), ["/quotes/A", "/quotes/B"]);
        assert_eq!(topics("/subscribe?topic=/a/*&x=y&topic=/b"), ["/a/*", "/b"]);
        let own = Workload::one_channel("c".to_owned(), "/subscribe/raw".to_owned()).with_distinct_topics();
        assert_eq!((own.topics(3), own.readable(3)), (own.topics(3), vec!["/raw".to_owned(), "/own3".to_owned()]));
        let lists = Workload::watch_lists(2, 2, 1, 1, 1);
        assert_eq!(lists.topics(0), ["/quotes/S0000", "/quotes/S0001"]);
        assert_eq!(lists.readable(0), ["/quotes/**"]);
    }

    #[test]
    fn messages_out_of_order_are_found() {
        let workload = Workload::watch_lists(2, 2, 1, 1, 100);
        let other = (1..100).find(|sequence| workload.channel(*sequence) != workload.channel(0)).unwrap_or_default();
        let mut progress = workload.start(false);
        assert_eq!(workload.receive(0, &mut progress, other), Arrival::Due { missing: 0 });
        assert_eq!(workload.receive(0, &mut progress, 0), Arrival::OutOfOrder);
    }
}
