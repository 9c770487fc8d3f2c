//! What follows from the answers of a cluster, without one.

use std::collections::BTreeMap;

use tallycast_fanout::{EntryId, SequenceEvent, SequenceEventKind};
use tokio::time::Instant;

use super::client::Answer;
use super::progress::Bounds;
use super::topics::{MISSING_LIMIT, TooMany, Topics, Wanted};
use crate::decode::{Route, Routes};
use crate::source::{SourceEvent, SourceId};

/// What routes want.
fn wanted(routes: &[&str]) -> Wanted {
    let routes: Vec<Route> = routes.iter().map(|route| route.parse().unwrap()).collect();
    let routes = Routes::new(routes).unwrap();
    Wanted::new(&routes.selectors(SourceId::DEFAULT), &routes.streams(SourceId::DEFAULT))
}

fn reading(routes: &[&str]) -> Topics {
    let mut topics = Topics::default();
    topics.want(wanted(routes));
    topics
}

/// The answer to a look at topics with these bounds of their partitions.
fn answer(wanted: Option<Wanted>, topics: &[(&str, &[(u64, u64)])]) -> Answer {
    let bounds: BTreeMap<String, Vec<Bounds>> = topics
        .iter()
        .map(|(name, bounds)| {
            (name.to_string(), bounds.iter().map(|(low, high)| Bounds { low: *low, high: *high }).collect())
        })
        .collect();
    let counts = bounds.iter().map(|(name, bounds)| (name.clone(), bounds.len())).collect();
    Answer { topics: wanted.map(|wanted| (wanted, counts)), bounds, ..Answer::default() }
}

/// Follows a look that asked for names, too.
fn look(topics: &mut Topics, found: &[(&str, &[(u64, u64)])]) -> Vec<String> {
    look_at(topics, Instant::now(), found)
}

/// The same, at a time of its own.
fn look_at(topics: &mut Topics, now: Instant, found: &[(&str, &[(u64, u64)])]) -> Vec<String> {
    let question = topics.ask(true);
    let followed = topics.follow(answer(question.wanted, found), now);
    assert_eq!(followed.too_many, None);
    followed.events.iter().map(shown).collect()
}

fn lags(topics: &Topics) -> Vec<(String, u64)> {
    topics.lags().map(|(label, lag)| (label.to_string(), lag)).collect()
}

fn shown(event: &SourceEvent) -> String {
    match event {
        SourceEvent::Partitions { sequence, count } => format!("{sequence} has {count}"),
        SourceEvent::Sequence(SequenceEvent { sequence, kind }) => match kind {
            SequenceEventKind::Start { after } => format!("{sequence} starts after {after}"),
            SequenceEventKind::Current => format!("{sequence} is current"),
            SequenceEventKind::Interrupted => format!("{sequence} is interrupted"),
            SequenceEventKind::Gap { after, reason } => format!("{sequence} {} after {after}", reason.as_str()),
            other => panic!("only relays have {other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// What a record becomes: the entry, with `backlog` if it is for the history alone, and `event`.
fn take(topics: &mut Topics, topic: &str, partition: i32, offset: i64) -> String {
    let Some(placed) = topics.take(topic, partition, offset) else { return "nothing".to_owned() };
    let entry = placed
        .entry
        .map(|(_, sequence, id, is_backlog)| format!("{sequence} {id}{}", if is_backlog { " backlog" } else { "" }));
    let event = placed.is_event.then(|| "event".to_owned());
    [entry, event].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn assignment(topics: &mut Topics) -> Option<Vec<(String, Vec<Option<u64>>)>> {
    topics.take_assignment().map(|assignment| assignment.into_iter().collect())
}

#[test]
fn stream_begins_where_its_history_does_and_is_current_when_everything_was_read() {
    let mut topics = reading(&["stream:a=/a,history=3"]);
    let events = look(&mut topics, &[("a", &[(0, 10), (4, 6), (0, 0)])]);
    assert_eq!(
        events,
        ["a has 3", "a#0 starts after 7-0", "a#1 starts after 4-0", "a#2 starts after 0-0", "a#2 is current"]
    );
    assert_eq!(assignment(&mut topics), Some(vec![("a".to_owned(), vec![Some(7), Some(4), Some(0)])]));
    assert_eq!(assignment(&mut topics), None);
    assert!(!topics.is_current());
    assert_eq!(lags(&topics), [("a".to_owned(), 5)]);
    assert_eq!(take(&mut topics, "a", 0, 7), "a#0 8-0 backlog");
    assert_eq!(take(&mut topics, "a", 0, 7), "nothing");
    assert_eq!(take(&mut topics, "a", 0, 9), "a#0 10-0 backlog");
    let current = |of: (bool, Option<SourceEvent>)| (of.0, of.1.as_ref().map(shown));
    assert_eq!(current(topics.settle("a", 0)), (true, Some("a#0 is current".to_owned())));
    assert_eq!(take(&mut topics, "a", 0, 10), "a#0 11-0");
    assert_eq!(current(topics.settle("a", 0)), (false, None));
    // The rest of it is the end of a transaction.
    assert_eq!(take(&mut topics, "a", 1, 4), "a#1 5-0 backlog");
    assert_eq!(topics.pass("a", 1, 6).as_ref().map(shown), Some("a#1 is current".to_owned()));
    assert!(topics.is_current());
    let ended: Vec<String> = topics.interrupt().iter().map(shown).collect();
    assert_eq!(ended, ["a#0 is interrupted", "a#1 is interrupted", "a#2 is interrupted"]);
    assert!(!topics.is_current());
    assert_eq!(look(&mut topics, &[("a", &[(0, 12), (4, 6), (0, 0)])]), ["a#1 is current", "a#2 is current"]);
    assert_eq!(assignment(&mut topics), Some(vec![("a".to_owned(), vec![Some(11), Some(6), Some(0)])]));
}

#[test]
fn partition_that_is_added_is_new_from_its_beginning() {
    let mut topics = reading(&["stream:a=/a,history=3"]);
    look(&mut topics, &[("a", &[(0, 10)])]);
    let events = look(&mut topics, &[("a", &[(0, 10), (0, 2)])]);
    assert_eq!(events, ["a has 2", "a#1 starts after 0-0"]);
    assert_eq!(take(&mut topics, "a", 1, 0), "a#1 1-0");
}

#[test]
fn channels_begin_at_their_end_and_new_topics_at_their_beginning() {
    let mut topics = reading(&["prices.*=/prices/*", "stream:both=/s", "both=/c"]);
    assert_eq!(
        look(&mut topics, &[("prices.a", &[(0, 5)]), ("both", &[(0, 7)])]),
        ["both has 1", "both#0 starts after 7-0", "both#0 is current"]
    );
    assert!(topics.is_current());
    assert_eq!(take(&mut topics, "prices.a", 0, 5), "event");
    assert_eq!(take(&mut topics, "both", 0, 7), "both#0 8-0 event");
    assert_eq!(take(&mut topics, "prices.b", 0, 0), "nothing");
    let found: &[(&str, &[(u64, u64)])] = &[("prices.a", &[(0, 6)]), ("prices.b", &[(0, 1)]), ("both", &[(0, 8)])];
    assert!(look(&mut topics, found).is_empty());
    assert_eq!(take(&mut topics, "prices.b", 0, 0), "event");
    // A route that is added finds topics that were there before.
    topics.want(wanted(&["prices.*=/prices/*", "other.*=/other"]));
    let found: &[(&str, &[(u64, u64)])] = &[("prices.a", &[(0, 6)]), ("prices.b", &[(0, 1)]), ("other.x", &[(0, 9)])];
    look(&mut topics, found);
    let next = assignment(&mut topics).unwrap();
    assert_eq!(next.last(), Some(&("prices.b".to_owned(), vec![Some(1)])));
    assert_eq!(next.first(), Some(&("other.x".to_owned(), vec![Some(9)])));
    assert_eq!(take(&mut topics, "both", 0, 8), "nothing");
}

#[test]
fn wider_prefixes_bring_no_internal_topics() {
    let all = wanted(&["*=/all/**"]);
    assert!(all.is_wanted("prices") && !all.is_wanted("__consumer_offsets") && !all.is_wanted("tallycast.cluster"));
    assert!(wanted(&["tallycast.*=/own"]).is_wanted("tallycast.cluster"));
}

#[test]
fn history_that_a_reload_adds_is_read() {
    let mut topics = reading(&["stream:a=/a"]);
    look(&mut topics, &[("a", &[(0, 10)])]);
    assert_eq!(take(&mut topics, "a", 0, 10), "a#0 11-0");
    drop(assignment(&mut topics));
    topics.want(wanted(&["stream:a=/a,history=4"]));
    assert_eq!(look(&mut topics, &[("a", &[(0, 12)])]), ["a#0 starts after 7-0"]);
    assert_eq!(assignment(&mut topics), Some(vec![("a".to_owned(), vec![Some(7)])]));
    // Readers have had what was read before.
    let taken = [10, 11].map(|offset| take(&mut topics, "a", 0, offset));
    assert_eq!(taken, ["a#0 11-0 backlog", "a#0 12-0"]);
}

#[test]
fn losses_and_replaced_topics_are_gaps() {
    let mut topics = reading(&["stream:a=/a,history=1h"]);
    look(&mut topics, &[("a", &[(0, 10)])]);
    let gap = |topics: &mut Topics, bounds: (u64, u64)| look(topics, &[("a", &[bounds])]);
    assert_eq!(gap(&mut topics, (20, 22)), ["a#0 trimmed after 20-0"]);
    assert_eq!(take(&mut topics, "a", 0, 20), "a#0 21-0");
    assert_eq!(gap(&mut topics, (0, 3)), [] as [&str; 0]);
    assert_eq!(gap(&mut topics, (0, 3)), ["a#0 unknown after 0-0"]);
    assert_eq!(take(&mut topics, "a", 0, 0), "a#0 1-0");
    // Deleted, and created again with fewer partitions.
    assert_eq!(look(&mut topics, &[("a", &[(0, 3), (0, 0)])]), ["a has 2", "a#1 starts after 0-0", "a#1 is current"]);
    let missing = Instant::now();
    let after = missing + MISSING_LIMIT;
    assert_eq!(look_at(&mut topics, missing, &[]), [] as [&str; 0]);
    assert_eq!(look_at(&mut topics, after, &[]), ["a#0 unknown after 0-0", "a#1 unknown after 0-0"]);
    assert_eq!(look_at(&mut topics, after, &[]), [] as [&str; 0]);
    assert!(topics.is_current());
    assert_eq!(look(&mut topics, &[("a", &[(0, 1)])]), ["a#0 starts after 0-0"]);
    assert!(!topics.is_current());
    assert_eq!((take(&mut topics, "a", 0, 0), topics.settle("a", 0).0), ("a#0 1-0".to_owned(), true));
    assert!(topics.is_current());
    assert_eq!(Topics::default().follow(Answer::default(), after).gaps, 0);
    let gaps = {
        topics.ask(true);
        topics.follow(answer(None, &[("a", &[(5, 6)])]), after).gaps
    };
    assert_eq!(gaps, 1);
}

#[test]
fn topic_that_is_missing_for_a_moment_is_the_same_afterwards() {
    let mut topics = reading(&["stream:a=/a,history=1h", "p.*=/p/*"]);
    let found: &[(&str, &[(u64, u64)])] = &[("a", &[(0, 3)]), ("p.x", &[(0, 4)])];
    look(&mut topics, found);
    drop(assignment(&mut topics));
    let missing = Instant::now();
    let almost = missing + MISSING_LIMIT / 2;
    for now in [missing, almost, almost] {
        assert_eq!(look_at(&mut topics, now, &[]), [] as [&str; 0]);
    }
    // Nothing is asked of it, and nothing is known.
    assert!(topics.ask(false).partitions.is_empty() && lags(&topics).is_empty());
    let found: &[(&str, &[(u64, u64)])] = &[("a", &[(0, 4)]), ("p.x", &[(0, 4)])];
    assert_eq!(look_at(&mut topics, almost, found), [] as [&str; 0]);
    assert_eq!((assignment(&mut topics), lags(&topics).len()), (None, 2));
    // The time counts from the next absence on.
    let missing = missing + MISSING_LIMIT;
    assert_eq!(look_at(&mut topics, missing, &[]), [] as [&str; 0]);
    assert_eq!(look_at(&mut topics, missing + MISSING_LIMIT, &[]), ["a#0 unknown after 0-0"]);
    // One that a prefix has brought is forgotten, and is new when there is one again.
    assert_eq!(take(&mut topics, "p.x", 0, 4), "nothing");
    look(&mut topics, &[("p.x", &[(0, 1)])]);
    assert_eq!(take(&mut topics, "p.x", 0, 0), "event");
}

#[test]
fn topic_without_an_answer_is_read_later_and_keeps_the_source_from_being_ready() {
    let mut topics = reading(&["a=/a", "b=/b"]);
    let question = topics.ask(true);
    let mut found = answer(question.wanted, &[("a", &[(0, 3)]), ("b", &[(0, 4), (0, 5)])]);
    found.bounds.remove("b");
    assert_eq!(topics.follow(found, Instant::now()).too_many, None);
    let expected = [("a".to_owned(), vec![Some(3)]), ("b".to_owned(), vec![None, None])];
    assert_eq!(assignment(&mut topics), Some(expected.to_vec()));
    assert!(!topics.is_current());
    look(&mut topics, &[("a", &[(0, 3)]), ("b", &[(0, 4), (0, 5)])]);
    assert!(topics.is_current());
}

#[test]
fn topic_that_does_not_exist_is_awaited() {
    let mut topics = reading(&["stream:a=/a,history=5"]);
    assert_eq!(look(&mut topics, &[]), ["a has 0"]);
    assert!(topics.is_current());
    assert_eq!(look(&mut topics, &[("a", &[(0, 2)])]), ["a has 1", "a#0 starts after 0-0"]);
    assert_eq!(take(&mut topics, "a", 0, 0), "a#0 1-0");
}

#[test]
fn too_many_partitions_are_refused() {
    let bounds = vec![(0, 0); 257];
    let look = |routes: &[&str]| {
        let mut topics = reading(routes);
        let question = topics.ask(true);
        let followed = topics.follow(answer(question.wanted, &[("a", &bounds)]), Instant::now());
        // What was found is said nevertheless: no later look would say it.
        assert_eq!(followed.events.first().map(shown).as_deref(), Some("a has 257"));
        followed.too_many
    };
    assert_eq!(look(&["stream:a=/a"]), None);
    assert_eq!(look(&["stream:a=/a,history=1"]), Some(TooMany::Kept(257)));
    assert!(
        TooMany::Kept(257)
            .to_string()
            .starts_with("the topics of routes with history have 257 partitions; expected at most")
    );
}

#[test]
fn routes_keep_each_partition_by_itself() {
    let mut routes = Routes::new(vec!["stream:a=/a/*,history=2".parse().unwrap()]).unwrap();
    let names =
        |routes: &Routes| routes.retentions().iter().map(|retention| retention.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&routes), ["stream:a"]);
    routes.set_partitions("b", 7);
    routes.set_partitions("a", 2);
    assert_eq!(names(&routes), ["stream:a#0", "stream:a#1"]);
    let position = tallycast_fanout::Position { sequence: "a#1".into(), entry: EntryId::new(3, 0) };
    let entry = crate::source::Entry { topics: vec![b"x".to_vec()], ..crate::source::Entry::new(position.clone()) };
    let decoded = routes.decode(crate::source::RawEvent::from_partition("a", "1", entry)).unwrap().message;
    let kept = decoded.kept.unwrap();
    assert_eq!((&*kept.retention.name, kept.position), ("stream:a#1", Some(position)));
    routes.set_partitions("a", 0);
    assert!(routes.retentions().is_empty());
}
