use std::collections::VecDeque;
use std::sync::Arc;

use tallycast_fanout::{
    Data, EntryId, Message, Namespace, RelayStart, RelayedRetention, ResetReason, Retention, SequenceEvent,
    SequenceEventKind, SequenceName, TotalsState, numbered_sequence,
};
use tallycast_server::relay::{RelayEvent, RelayedMessage};

use super::claims::Claims;
use super::link::{Link, LinkError, Step};
use crate::source::{RelayedEvent, SourceEvent};

const EPOCH: &str = "9c1f03d2a7b4e865";

/// An origin with a stream `orders`, and messages that it numbers itself. Both are kept.
fn start(epoch: &str, [numbered, orders]: [u64; 2], trimmed: u64) -> RelayEvent {
    let retention = |name: &str, sequence: Arc<str>| Retention {
        name: name.into(),
        namespace: format!("/{name}").parse().unwrap(),
        except: Box::default(),
        sequence: Some(sequence),
        partition: None,
        max_messages: Some(100),
        max_bytes: None,
        max_age: None,
        last_values: false,
    };
    let relayed = |retention, sequence, trimmed| RelayedRetention {
        retention: Arc::new(retention),
        sequence,
        trimmed: EntryId::new(trimmed, 0),
    };
    RelayEvent::Start(RelayStart {
        path: vec!["origin".into()],
        sequences: vec![
            (SequenceName::Numbered(epoch.into()), EntryId::new(numbered, 0)),
            (SequenceName::Named("orders".into()), EntryId::new(orders, 0)),
        ],
        retentions: vec![
            relayed(retention("news", numbered_sequence(epoch)), 0, 0),
            relayed(retention("orders", "orders".into()), 1, trimmed),
        ],
        totals: Vec::new(),
    })
}

fn id(epoch: &str, [numbered, orders]: [u64; 2]) -> String {
    format!("{epoch}-{numbered},orders:{orders}-0")
}

fn message(retention: &str, id: String) -> RelayEvent {
    let message = Message::text(format!("/{retention}").parse().unwrap(), "x");
    RelayEvent::Message(RelayedMessage { message, kept: Some((retention.to_owned(), id)) })
}

fn link() -> Link {
    Link::new("origin".into(), "edge".into(), Claims::default())
}

/// What the pipeline is told, each as a few words.
fn told(link: &mut Link, event: RelayEvent) -> (Result<Step, LinkError>, Vec<String>) {
    let mut out = Vec::new();
    let step = link.take(event, &mut out);
    (step, words(out))
}

fn words(out: Vec<SourceEvent>) -> Vec<String> {
    let sequence = |name: &str| if name == "orders" { "orders" } else { "numbered" }.to_owned();
    let word = |event| match event {
        SourceEvent::Sequence(SequenceEvent { sequence: name, kind }) => {
            let name = sequence(&name);
            match kind {
                SequenceEventKind::Start { after } => format!("start {name} {after}"),
                SequenceEventKind::Current => format!("current {name}"),
                SequenceEventKind::Interrupted => format!("interrupted {name}"),
                SequenceEventKind::Gap { after, reason } => format!("gap {name} {after} {}", reason.as_str()),
                SequenceEventKind::Reached { entry, is_confirmed: true } => format!("confirmed {name} {entry}"),
                SequenceEventKind::Reached { entry, is_confirmed: false } => format!("reached {name} {entry}"),
                SequenceEventKind::Reset { reason } => format!("reset {name} {}", reason.as_str()),
            }
        }
        SourceEvent::Relayed(RelayedEvent::Declared { retentions, path, .. }) => {
            let names: Vec<&str> = retentions.iter().map(|retention| &*retention.name).collect();
            format!("declared {} by {}", names.join(","), path.join(","))
        }
        SourceEvent::Relayed(RelayedEvent::Forget { retention, trimmed }) => format!("forget {retention} {trimmed}"),
        SourceEvent::Relayed(RelayedEvent::Message(message)) => {
            let Message { namespace, data, kept, .. } = message;
            match (data, kept) {
                (Data::TotalsState(TotalsState::Unavailable(_)), _) => format!("unavailable {namespace}"),
                (Data::Totals(_), _) => format!("totals {namespace}"),
                (_, None) => format!("message {namespace}"),
                (_, Some(kept)) => {
                    let entry = kept.position.unwrap().entry;
                    format!("{} {namespace} {entry}", if kept.is_backlog { "backlog" } else { "message" })
                }
            }
        }
        other => panic!("{other:?}"),
    };
    out.into_iter().map(word).collect()
}

/// A link that has come to 2 and 7, where its origin was when it started.
fn current() -> Link {
    let mut link = link();
    assert_eq!(link.begin().as_deref(), Some("earliest"));
    let (step, mut told_first) = told(&mut link, start(EPOCH, [2, 7], 3));
    assert_eq!(step, Ok(Step::Continue));
    // A map has no order.
    told_first[3..].sort();
    let expected = [
        "declared origin/news,origin/orders by origin",
        "start numbered 0-0",
        "start orders 0-0",
        "forget origin/news 0-0",
        "forget origin/orders 3-0",
    ];
    assert_eq!(told_first, expected);
    assert_eq!(told(&mut link, message("orders", id(EPOCH, [1, 6]))).1, ["backlog /orders 6-0"]);
    assert_eq!(told(&mut link, message("news", id(EPOCH, [2, 6]))).1, ["backlog /news 2-0"]);
    // Newer than the start, but not all that was there then.
    assert_eq!(told(&mut link, message("news", id(EPOCH, [3, 6]))).1, ["message /news 3-0"]);
    assert!(!link.is_current());
    let last = told(&mut link, message("orders", id(EPOCH, [3, 7]))).1;
    let expected =
        ["backlog /orders 7-0", "confirmed numbered 3-0", "confirmed orders 7-0", "current numbered", "current orders"];
    assert_eq!(last, expected);
    assert!(link.is_current());
    link
}

/// Ends the session and begins another; returns the id after which it starts.
fn reconnect(link: &mut Link) -> Option<String> {
    let mut out = Vec::new();
    link.end(&mut out);
    assert_eq!(words(out)[..2], ["interrupted numbered", "interrupted orders"]);
    link.begin()
}

#[test]
fn history_is_filled_first_and_what_follows_is_live() {
    let mut link = current();
    assert_eq!(told(&mut link, message("orders", id(EPOCH, [3, 8]))).1, ["message /orders 8-0"]);
    // Again, as after a resume.
    assert_eq!(told(&mut link, message("orders", id(EPOCH, [3, 8]))), (Ok(Step::Continue), vec![]));
    let position = RelayEvent::Position(Some(id(EPOCH, [5, 8])));
    assert_eq!(told(&mut link, position).1, ["confirmed numbered 5-0", "confirmed orders 8-0"]);
    assert_eq!(reconnect(&mut link), Some(id(EPOCH, [5, 8])));
}

#[test]
fn ids_from_before_a_sequence_began_again_leave_nothing_out() {
    let mut link = link();
    link.begin();
    told(&mut link, start(EPOCH, [9, 7], 3)).0.unwrap();
    // Of the sequence as it was, beyond where it is now, and within.
    for (number, orders) in [(1, 100), (2, 5)] {
        let told = told(&mut link, message("news", id(EPOCH, [number, orders]))).1;
        assert_eq!(told.last().unwrap(), &format!("backlog /news {number}-0"));
    }
    assert_eq!(told(&mut link, message("orders", id(EPOCH, [2, 4]))).1, ["backlog /orders 4-0"]);
    let position = RelayEvent::Position(Some(id(EPOCH, [9, 7])));
    assert_eq!(told(&mut link, position).1[..2], ["confirmed numbered 9-0", "confirmed orders 7-0"]);
}

#[test]
fn session_that_goes_on_where_it_was_needs_nothing_else() {
    let mut link = current();
    assert_eq!(reconnect(&mut link), Some(id(EPOCH, [3, 7])));
    let (step, told_first) = told(&mut link, start(EPOCH, [3, 8], 7));
    assert_eq!((step, told_first.len(), link.is_current()), (Ok(Step::Continue), 1, false));
    let told_next = told(&mut link, message("orders", id(EPOCH, [3, 8]))).1;
    assert_eq!(told_next[0], "message /orders 8-0");
    assert!(link.is_current());
}

#[test]
fn only_readers_of_what_is_lost_are_reset() {
    let mut link = current();
    reconnect(&mut link);
    // What the origin numbers itself is not what it was.
    assert_eq!(told(&mut link, start("0123456789abcdef", [1, 9], 3)), (Ok(Step::Refill), vec![]));
    assert_eq!(reconnect(&mut link).as_deref(), Some("earliest"));
    let other = |entries| id("0123456789abcdef", entries);
    assert_eq!(told(&mut link, start("0123456789abcdef", [1, 9], 3)).0, Ok(Step::Continue));
    assert_eq!(told(&mut link, message("orders", other([0, 7]))).1, ["backlog /orders 7-0"]);
    assert_eq!(told(&mut link, message("news", other([1, 7]))).1, ["backlog /news 1-0"]);
    let last = told(&mut link, message("orders", other([1, 9]))).1;
    assert_eq!(
        (&*last[0], &last[3..]),
        (
            "message /orders 9-0",
            &["current numbered", "current orders", "reset numbered unknown"].map(str::to_owned)[..]
        )
    );
}

#[test]
fn trimmed_and_lost_entries_are_reset() {
    for (newest, trimmed, reason) in [(12, 9, "trimmed"), (6, 3, "unknown")] {
        let mut link = current();
        reconnect(&mut link);
        assert_eq!(told(&mut link, start(EPOCH, [3, newest], trimmed)).0, Ok(Step::Refill));
        reconnect(&mut link);
        told(&mut link, start(EPOCH, [3, newest], trimmed)).0.unwrap();
        let told_last = told(&mut link, RelayEvent::Position(Some(id(EPOCH, [3, newest])))).1;
        assert_eq!(told_last.last().unwrap(), &format!("reset orders {reason}"));
    }
    // The reason is that of the origin.
    let mut link = current();
    let lagged = || RelayEvent::Reset { reason: ResetReason::Lagged, id: id(EPOCH, [3, 20]), retention: None };
    assert_eq!(told(&mut link, lagged()).0, Ok(Step::Refill));
    reconnect(&mut link);
    told(&mut link, start(EPOCH, [3, 20], 15)).0.unwrap();
    assert_eq!(told(&mut link, lagged()).0, Ok(Step::Refill), "it was too slow once more");
    reconnect(&mut link);
    told(&mut link, start(EPOCH, [3, 20], 18)).0.unwrap();
    assert_eq!(told(&mut link, message("orders", id(EPOCH, [3, 20]))).1, ["backlog /orders 20-0"]);
    let told_last = told(&mut link, RelayEvent::Position(Some(id(EPOCH, [3, 20])))).1;
    assert_eq!(told_last.last().unwrap(), "reset orders lagged");
}

#[test]
fn resets_at_the_origin_are_passed_on_with_all_that_it_keeps() {
    let mut link = current();
    let gap = |retention: &str, reason| RelayEvent::Reset {
        reason,
        id: id(EPOCH, [3, 9]),
        retention: Some(retention.to_owned()),
    };
    let position = || RelayEvent::Position(Some(id(EPOCH, [3, 9])));
    // The origin has read everything again, and what is lost is before what it keeps.
    assert_eq!(told(&mut link, gap("orders", ResetReason::Lagged)), (Ok(Step::Continue), vec![]));
    assert_eq!(told(&mut link, gap("news", ResetReason::Trimmed)), (Ok(Step::Continue), vec![]));
    assert_eq!(told(&mut link, position()), (Ok(Step::Refill), vec![]));
    assert_eq!(reconnect(&mut link).as_deref(), Some("earliest"));
    assert_eq!(told(&mut link, start(EPOCH, [3, 9], 8)).0, Ok(Step::Continue));
    assert_eq!(told(&mut link, message("orders", id(EPOCH, [3, 9]))).1[..1], ["backlog /orders 9-0"]);
    let last = told(&mut link, position()).1;
    assert!(last.ends_with(&["reset numbered trimmed", "reset orders lagged"].map(str::to_owned)), "{last:?}");
    assert!(link.is_current());
    assert_eq!(told(&mut link, message("orders", id(EPOCH, [3, 10]))).1, ["message /orders 10-0"]);
}

#[test]
fn origin_that_waits_for_its_own_interrupts_its_readers() {
    let mut link = current();
    assert_eq!(told(&mut link, RelayEvent::Position(None)).1, ["interrupted numbered", "interrupted orders"]);
    assert_eq!(told(&mut link, RelayEvent::Position(None)).1, [""; 0]);
    // It may send what it gets before it is current.
    assert_eq!(told(&mut link, message("orders", id(EPOCH, [3, 8]))).1, ["message /orders 8-0"]);
    let now = told(&mut link, RelayEvent::Position(Some(id(EPOCH, [3, 8])))).1;
    assert_eq!(now[now.len() - 2..], ["current numbered", "current orders"]);
}

#[test]
fn totals_are_unavailable_without_a_session() {
    let mut link = link();
    link.begin();
    let none = RelayStart { path: vec![], sequences: vec![], retentions: vec![], totals: vec![] };
    told(&mut link, RelayEvent::Start(none)).0.unwrap();
    assert!(link.is_current(), "nothing is kept");
    let eps: Namespace = "/eps".parse().unwrap();
    let mut totals = Message::totals(eps, Default::default());
    totals.event = Some("snapshot".into());
    let event = RelayEvent::Message(RelayedMessage { message: totals, kept: None });
    let mut out = Vec::new();
    link.take(event, &mut out).unwrap();
    assert!(matches!(&out[0], SourceEvent::Relayed(RelayedEvent::Message(message)) if message.event.is_none()));
    let mut out = Vec::new();
    link.end(&mut out);
    assert_eq!((words(out), link.begin()), (vec!["unavailable /eps".to_owned()], None));
}

#[test]
fn events_that_cannot_be_end_the_session() {
    let error = |events: Vec<RelayEvent>| {
        let mut link = link();
        link.begin();
        let mut events = VecDeque::from(events);
        let last = events.pop_back().unwrap();
        for event in events {
            link.take(event, &mut Vec::new()).unwrap();
        }
        link.take(last, &mut Vec::new()).unwrap_err()
    };
    let start = || start(EPOCH, [0, 0], 0);
    assert_eq!(error(vec![RelayEvent::Position(None)]), LinkError::NoStart);
    assert_eq!(error(vec![start(), message("orders", "1-0".to_owned())]), LinkError::Changed);
    assert_eq!(error(vec![start(), message("other", id(EPOCH, [1, 1]))]), LinkError::Changed);
    assert_eq!(error(vec![start(), RelayEvent::Position(Some("x".to_owned()))]), LinkError::Changed);
    assert_eq!(error(vec![start(), RelayEvent::Skipped]), LinkError::Skipped);
    let of_path = |path: Vec<Arc<str>>| {
        RelayEvent::Start(RelayStart { path, sequences: vec![], retentions: vec![], totals: vec![] })
    };
    assert_eq!(error(vec![of_path(vec!["a".into(), "edge".into()])]), LinkError::Loop);
    assert_eq!(error(vec![of_path(vec!["a".into(); 17])]), LinkError::Path(17));
    // Another relay of the same origin.
    let claims = Claims::default();
    let relay = |name: &str| Link::new(name.into(), "edge".into(), claims.clone());
    relay("one").take(start(), &mut Vec::new()).unwrap();
    let mut link = relay("two");
    assert_eq!(link.take(start(), &mut Vec::new()), Err(LinkError::Sequence("orders".to_owned())));
}
