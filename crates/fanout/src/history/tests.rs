//! The history beside a list of all messages.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::interest::Interest;
use crate::{EntryId, Grant, Kept, Message, Namespace, ResetReason, Topic, Update};

fn retention(name: &str, max_messages: Option<usize>, last_values: bool) -> Arc<Retention> {
    Arc::new(Retention {
        name: name.into(),
        namespace: format!("/{name}").parse().unwrap(),
        except: Box::default(),
        sequence: None,
        partition: None,
        max_messages,
        max_bytes: None,
        max_age: None,
        last_values,
    })
}

/// A history of `retentions`, with messages in their namespaces, and its sequences.
fn history(retentions: &[Arc<Retention>], messages: &[Arc<Message>]) -> (History, Sequences) {
    let mut sequences = Sequences::default();
    sequences.declare(retentions);
    let shared = SharedHistory::new(usize::MAX);
    let mut history = Arc::into_inner(shared).unwrap().history.into_inner().unwrap();
    history.declare(retentions, &sequences);
    for message in messages {
        push(&mut history, &mut sequences, message);
    }
    (history, sequences)
}

fn push(history: &mut History, sequences: &mut Sequences, message: &Arc<Message>) {
    let number = history.head;
    let entry = EntryId::new(number, 0);
    sequences.get_mut(0).unwrap().newest = entry;
    let slot = Slot { number, entry, at: Instant::now(), message: Arc::clone(message) };
    let retention = Arc::clone(&message.kept.as_ref().unwrap().retention);
    history.append([Pending { retention, slot }], sequences, number + 1);
}

fn message(namespace: &str, number: usize, retention: &Arc<Retention>) -> Arc<Message> {
    let mut message = Message::text(namespace.parse().unwrap(), number.to_string());
    message.kept = Some(Box::new(Kept::new(Arc::clone(retention), None)));
    Arc::new(message)
}

/// Retentions of the names, and messages of these: which retention, and the last segment of the namespace.
fn published_in<const N: usize>(
    names: [&str; N],
    bounds: [Option<usize>; N],
    last_values: [bool; N],
    published: &[(usize, usize)],
) -> (Vec<Arc<Retention>>, Vec<Arc<Message>>) {
    let retentions: Vec<_> = (0..N).map(|at| retention(names[at], bounds[at], last_values[at])).collect();
    let message = |(number, (of, leaf)): (usize, &(usize, usize))| {
        message(&format!("/{}/{leaf}", names[*of]), number, &retentions[*of])
    };
    let messages = published.iter().enumerate().map(message).collect();
    (retentions, messages)
}

fn filter(topics: &Topics) -> Filter {
    Filter::new(&Interest::new(topics, None), None)
}

const NAMES: [&str; 6] = ["/a", "/a/b", "/c", "x:1", "x:2", "x:1/b"];
const SELECTORS: [&str; 9] = ["*", "/a", "/c", "x:1", "x:{id}", "x:{id}/b", "/{+a}", "{x}", "/a{/b}"];

/// Everything that a query finds, in pieces of at most `max_bytes`.
fn all(history: &History, topics: &Topics, next: u64, last_values: bool, max_bytes: usize) -> Vec<String> {
    all_of(history, &filter(topics), next, last_values, max_bytes)
}

fn all_of(history: &History, filter: &Filter, next: u64, last_values: bool, max_bytes: usize) -> Vec<String> {
    let (mut found, mut next) = (Vec::new(), next);
    while next < history.head {
        let query = Query { filter, starts: &[], next, end: history.head, last_values };
        let selected = history.select(&query, max_bytes);
        assert!(selected.next > next, "a piece makes progress");
        next = selected.next;
        found.extend(selected.messages.iter().map(|message| message.payload().into_owned()));
    }
    found
}

fn topics(texts: &BTreeSet<&'static str>) -> Topics {
    Topics::new(texts.iter().map(|text| text.parse::<Topic>().unwrap()).collect()).unwrap()
}

fn some_topics() -> impl Strategy<Value = Topics> {
    const ALL: [&str; 9] = ["/", "/a", "/a/1", "/a/*", "/b", "/b/2", "/*/1", "/a/1/**", "/c"];
    proptest::collection::btree_set(proptest::sample::select(&ALL[..]), 1..4).prop_map(|texts| topics(&texts))
}

proptest! {
    #[test]
    fn queries_find_what_a_list_has(
        published in proptest::collection::vec((0..2_usize, 0..4_usize), 0..120),
        bounds in proptest::array::uniform2(proptest::option::of(0..40_usize)),
        last_values: [bool; 2],
        topics in some_topics(),
        from in 0..130_u64,
        newest in 1..20_usize,
        piece in prop_oneof![Just(1), Just(2000), Just(usize::MAX)],
    ) {
        let (retentions, messages) = published_in(["a", "b"], bounds, last_values, &published);
        let (history, _) = history(&retentions, &messages);
        // The list: the newest of each retention, and the newest of each namespace.
        let is_kept = |number: usize| {
            let (of, leaf) = published[number];
            let newer = published[number + 1..].iter().filter(|(other, _)| *other == of).count();
            let is_last = !published[number + 1..].contains(&(of, leaf));
            let bound = bounds[of].or(last_values[of].then_some(0)).unwrap_or(usize::MAX);
            (newer < bound, last_values[of] && is_last)
        };
        let contains = |number: usize| topics.iter().any(|topic| topic.contains(&messages[number].namespace));
        let expected = |last_only: bool, from: u64| -> Vec<String> {
            (0..messages.len())
                .filter(|number| *number as u64 + FIRST >= from && contains(*number))
                .filter(|number| {
                    let (in_bounds, is_last) = is_kept(*number);
                    if last_only { is_last } else { in_bounds || is_last }
                })
                .map(|number| number.to_string())
                .collect()
        };
        for last_only in [false, true] {
            prop_assert_eq!(all(&history, &topics, from, last_only, piece), expected(last_only, from));
        }
        let from_newest = all(&history, &topics, history.newest(&filter(&topics), newest), false, piece);
        let kept = expected(false, 0);
        prop_assert_eq!(from_newest, &kept[kept.len().saturating_sub(newest)..]);
        let in_all = (0..messages.len()).filter(|number| { let (a, b) = is_kept(*number); a || b }).count();
        prop_assert_eq!(history.size().0, in_all);
        prop_assert_eq!(history.size().1 == 0, in_all == 0);
    }

    /// Messages with several topics, of one retention that contains them all.
    #[test]
    fn queries_find_messages_by_each_of_their_topics(
        published in proptest::collection::vec((proptest::collection::vec(0..6_usize, 1..4), any::<bool>(), 0..40_u8), 0..80),
        bound in proptest::option::of(0..30_usize),
        last_values: bool,
        last_only: bool,
        wanted in proptest::collection::btree_set(proptest::sample::select(&SELECTORS[..]), 1..4),
        granted in proptest::collection::btree_set(proptest::sample::select(&SELECTORS[..]), 0..3),
        read in proptest::option::of((
            proptest::collection::btree_set(proptest::sample::select(&SELECTORS[..]), 1..3),
            proptest::collection::btree_set(proptest::sample::select(&SELECTORS[..]), 0..3),
        )),
        from in 0..90_u64,
        newest in 1..20_usize,
        piece in prop_oneof![Just(1), Just(2000), Just(usize::MAX)],
    ) {
        let mut all_topics = Retention::clone(&retention("all", bound, last_values));
        all_topics.namespace = Namespace::root();
        let retention = Arc::new(all_topics);
        let messages: Vec<_> = published
            .iter()
            .enumerate()
            .map(|(number, (topics, is_private, id))| {
                let mut topics = topics.iter().map(|topic| Namespace::from_topic(NAMES[*topic]).unwrap());
                let mut message = Message::clone(&message("/", number, &retention));
                message.namespace = topics.next().unwrap();
                let id = Some(id.to_string().into());
                let update = Update { alternates: topics.collect(), is_private: *is_private, id, retry: None };
                message.update = Some(Box::new(update));
                Arc::new(message)
            })
            .collect();
        let (history, _) = history(&[Arc::clone(&retention)], &messages);

        let is_newest = |number: usize| {
            !messages[number + 1..].iter().any(|newer| newer.namespace == messages[number].namespace)
        };
        let bound = bound.or(last_values.then_some(0)).unwrap_or(usize::MAX);
        let is_kept = |number: usize| messages.len() - number <= bound || (last_values && is_newest(number));
        let interest = |topics: &BTreeSet<&str>, private: &BTreeSet<&str>| {
            let selectors = |texts: &BTreeSet<&str>| {
                Topics::new(texts.iter().map(|text| Topic::selector(text).unwrap()).collect()).unwrap_or_default()
            };
            Interest::new(&selectors(topics), Some(&Grant::default().with_private(selectors(private))))
        };
        let gets = |interest: &Interest, number: usize| {
            let is_in = |set: &Topics| set.iter().any(|topic| messages[number].topics().any(|of| topic.contains(of)));
            is_in(&interest.topics) && (!messages[number].is_private() || is_in(&interest.rights().private))
        };
        let read = read.map(|(topics, private)| interest(&topics, &private));
        // Topics that were read before are not new.
        let mut only_new = interest(&wanted, &granted);
        let known: Vec<Topic> = read.iter().flat_map(|read| read.topics.iter()).collect();
        let new = only_new.topics.iter().filter(|topic| !known.contains(topic)).collect();
        let filter = Filter::new(&only_new, read.as_ref());
        only_new.topics = Topics::new(new).unwrap_or_default();
        let expected = |from: u64, last_only: bool| -> Vec<String> {
            (0..messages.len())
                .filter(|number| *number as u64 + FIRST >= from && is_kept(*number))
                .filter(|number| !last_only || last_values && is_newest(*number))
                .filter(|number| gets(&only_new, *number) && !read.as_ref().is_some_and(|read| gets(read, *number)))
                .map(|number| number.to_string())
                .collect()
        };
        prop_assert_eq!(all_of(&history, &filter, from, last_only, piece), expected(from, last_only));
        let kept = expected(0, false);
        let from_newest = all_of(&history, &filter, history.newest(&filter, newest), false, piece);
        prop_assert_eq!(from_newest, &kept[kept.len().saturating_sub(newest)..]);

        // Nothing of what is gone stays behind.
        let kept = || (0..messages.len()).filter(|number| is_kept(*number)).map(|number| &messages[number]);
        let names: BTreeSet<&Namespace> = kept().flat_map(|message| message.topics()).collect();
        let (known_names, known_ids) = history.stores[0].index_sizes();
        prop_assert_eq!(known_names, names.len());
        prop_assert!(known_ids <= kept().count() && (known_ids > 0 || kept().count() == 0 || last_values));
        prop_assert_eq!(history.size().1 == 0, kept().count() == 0);
        for id in 0..40_u8 {
            let newest = (0..messages.len()).rev().find(|number| messages[*number].update_id() == Some(&*id.to_string()));
            let expected = newest.filter(|number| is_kept(*number)).map(|number| number as u64 + FIRST);
            prop_assert_eq!(history.stores[0].number_of_update(&id.to_string()), expected);
        }
    }

    /// What a reader gets from the earliest message on, by the spans that readers really have.
    #[test]
    fn earliest_is_everything_that_is_kept(
        published in proptest::collection::vec((0..2_usize, 0..4_usize), 0..60),
        bounds in proptest::array::uniform2(proptest::option::of(0..20_usize)),
        last_values: [bool; 2],
        is_last_values: bool,
    ) {
        let (retentions, messages) = published_in(["a", "b"], bounds, last_values, &published);
        let (history, _) = history(&retentions, &messages);
        let topics: Topics = Namespace::root().into();
        let filter = filter(&topics);
        let start = if is_last_values { Start::LastValues } else { Start::After("earliest".into()) };
        let resume = history.resume(&filter, &start, Instant::now()).unwrap().unwrap();
        let beginning = history.begin(&topics, Some(resume));
        let mut found = Vec::new();
        if let Some(Span { starts, mut next, end, last_values }) = beginning.replay {
            while next < end {
                let query = Query { filter: &filter, starts: &starts, next, end, last_values };
                prop_assert!(!history.has_lost(&query));
                let selected = history.select(&query, 1);
                found.extend(selected.messages.iter().map(|message| message.payload().into_owned()));
                next = selected.next;
            }
        }
        prop_assert_eq!(found, all(&history, &topics, FIRST, is_last_values, usize::MAX));
    }

    #[test]
    fn position_is_resumable_as_long_as_nothing_after_it_was_dropped(
        published in proptest::collection::vec(0..4_usize, 1..60),
        bound in 0..40_usize,
        at in 0..60_usize,
    ) {
        let retentions = [retention("a", Some(bound), false)];
        let messages: Vec<_> =
            published.iter().enumerate().map(|(n, leaf)| message(&format!("/a/{leaf}"), n, &retentions[0])).collect();
        let (history, sequences) = history(&retentions, &messages);
        let at = at.min(messages.len());
        let mut then = sequences.clone();
        // After the first `at` messages.
        then.get_mut(0).unwrap().newest = EntryId::new(at as u64, 0);
        let start = Start::After(then.id().into());
        let topics: Topics = "/a".parse::<Namespace>().unwrap().into();
        let resume = history.resume(&filter(&topics), &start, Instant::now()).unwrap().unwrap();
        let dropped = messages.len().saturating_sub(bound);
        prop_assert_eq!(resume.reset, (at < dropped).then_some(ResetReason::Trimmed));
        if resume.reset.is_none() {
            prop_assert_eq!(resume.next, (at + 1) as u64);
            prop_assert_eq!(resume.position(), then.id());
            prop_assert!(history.begin(&topics, Some(resume)).reset.is_none());
        }
    }
}

#[test]
fn topics_with_many_namespaces_are_looked_through_in_bounded_pieces() {
    let retentions = [retention("a", None, false), retention("b", None, false)];
    let messages: Vec<_> = (0..10_000)
        .map(|number| {
            let of = &retentions[number % 2];
            message(&format!("/{}/{}", of.name, number % 1000), number, of)
        })
        .collect();
    let (history, _) = history(&retentions, &messages);
    for (topic, count) in [("/", 10_000), ("/a", 5000), ("/*/7", 10), ("/b/8", 0), ("/b/9", 10)] {
        let topics: Topics = Topics::new(vec![topic.parse().unwrap()]).unwrap();
        let found = all(&history, &topics, FIRST, false, 10_000);
        assert_eq!(found.len(), count, "{topic}");
        assert!(found.is_sorted_by_key(|number| number.parse::<u32>().unwrap()), "{topic}");
    }
    let filter = filter(&Topics::from(Namespace::root()));
    assert_eq!(history.newest(&filter, 20), history.head - 20);
}

#[test]
fn old_messages_and_those_beyond_the_bytes_are_dropped() {
    let mut aged = Retention::clone(&retention("a", None, false));
    aged.max_age = Some(Duration::from_secs(10));
    let mut large = Retention::clone(&retention("b", None, false));
    large.max_bytes = Some(10_000);
    let retentions = [Arc::new(aged), Arc::new(large)];
    let (mut history, mut sequences) = history(&retentions, &[]);
    let number = history.head;
    let slot = Slot {
        number,
        entry: EntryId::new(number, 0),
        at: Instant::now(),
        message: message("/a/1", 0, &retentions[0]),
    };
    history.append([Pending { retention: Arc::clone(&retentions[0]), slot }], &sequences, number + 1);
    for number in 0..1000 {
        push(&mut history, &mut sequences, &message("/b/1", number, &retentions[1]));
    }
    let (messages, bytes) = history.size();
    assert!((10..100).contains(&messages) && bytes < 11_000, "{messages} messages, {bytes} bytes");
    history.trim(Instant::now() + Duration::from_secs(9));
    assert_eq!(history.size().0, messages);
    history.trim(Instant::now() + Duration::from_secs(11));
    assert_eq!(history.size().0, messages - 1);
    history.max_bytes = 1000;
    history.trim(Instant::now());
    assert!(history.size().1 <= 1000);
}

#[test]
fn new_bounds_apply_to_what_is_kept() {
    let before = retention("a", None, false);
    let messages: Vec<_> = (0..10).map(|number| message("/a/1", number, &before)).collect();
    let (mut history, sequences) = history(&[before], &messages);
    history.declare(&[retention("a", Some(3), false)], &sequences);
    assert_eq!(history.size().0, 3);
    history.declare(&[retention("b", None, false)], &sequences);
    assert_eq!(history.size(), (0, 0));
    assert!(history.has(&"/b".parse::<Namespace>().unwrap().into()));
    assert!(!history.has(&"/a".parse::<Namespace>().unwrap().into()));
}
