//! Totals, message by message: what is sent to whom, and what a new reader starts with.

use std::sync::Arc;

use bytes::Bytes;

use super::{Audience, StateNow, Totals};
use crate::budget::Budget;
use crate::tests::{lines, ns};
use crate::{Config, Message, Tally, TotalsState};

/// The totals of `/eps`, with at most two keys of ten bytes together.
struct Fixture {
    totals: Totals,
    state: StateNow,
    budget: Arc<Budget>,
}

impl Fixture {
    fn new() -> Self {
        Self::with_corrections(true)
    }

    fn with_corrections(corrections: bool) -> Self {
        let config =
            Config { totals: vec![ns("/eps")], max_totals: 2, max_totals_bytes: 10, corrections, ..Config::default() };
        let budget = Budget::new(1000);
        let (totals, mut states) = Totals::new(&config, Arc::clone(&budget));
        Self { totals, state: states.remove(&ns("/eps")).unwrap(), budget }
    }

    /// What is sent for `message`: a line each, with `*` before those for everyone.
    fn update(&mut self, message: Message) -> Vec<String> {
        let mut sent = Vec::new();
        self.totals.update(message, |message, audience| {
            let audience = if audience == Audience::Everyone { "*" } else { "" };
            let event = message.event.as_deref().map(|event| format!(" {event}")).unwrap_or_default();
            sent.push(format!("{audience}{}{event} {}", message.namespace, message.payload()));
        });
        sent
    }

    fn snapshot(&mut self) -> Option<Bytes> {
        self.totals.snapshot(&ns("/eps"), &lines())
    }

    fn state(&self) -> Option<TotalsState> {
        self.state.borrow().clone()
    }
}

fn counts(counts: &[(&str, i64)]) -> Tally {
    counts.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect()
}

fn tally(of: &[(&str, i64)]) -> Message {
    Message::tally(ns("/eps"), counts(of))
}

fn totals(of: &[(&str, i64)]) -> Message {
    Message::totals(ns("/eps"), counts(of))
}

fn unavailable(reason: &str) -> TotalsState {
    TotalsState::Unavailable(reason.into())
}

fn state(state: TotalsState) -> Message {
    Message::totals_state(ns("/eps"), state)
}

fn snapshot(json: &str) -> Option<Bytes> {
    Some(format!("/eps#snapshot {json}\n").into())
}

#[test]
fn other_messages_are_for_everyone_and_change_nothing() {
    let mut fixture = Fixture::new();
    fixture.update(totals(&[("a", 1)]));
    assert_eq!(fixture.update(Message::text(ns("/eps"), "x")), ["*/eps x"]);
    assert_eq!(fixture.update(Message::tally(ns("/other"), counts(&[("a", 1)]))), ["*/other {\"a\":1}"]);
    assert!(fixture.update(Message::totals(ns("/other"), counts(&[("a", 1)]))).is_empty());
    assert!(fixture.update(Message::totals_state(ns("/other"), unavailable("no"))).is_empty());
    assert_eq!((fixture.snapshot(), fixture.state()), (snapshot("{\"a\":1}"), Some(TotalsState::Known)));
    assert_eq!(fixture.totals.snapshot(&ns("/other"), &lines()), None);
}

#[test]
fn snapshot_is_the_last_totals_and_the_tallies_after_them() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.update(tally(&[("a", 5)])), ["*/eps {\"a\":5}"]);
    assert_eq!((fixture.snapshot(), fixture.state()), (None, None));
    assert_eq!(fixture.update(totals(&[("a", 10)])), ["/eps snapshot {\"a\":10}"]);
    assert_eq!(fixture.snapshot(), snapshot("{\"a\":10}"));
    assert_eq!(fixture.update(tally(&[("a", 2)])), ["*/eps {\"a\":2}"]);
    assert_eq!(fixture.snapshot(), snapshot("{\"a\":12}"));
}

#[test]
fn new_totals_are_sent_as_the_difference() {
    let mut fixture = Fixture::new();
    fixture.update(totals(&[("a", 10), ("b", 1)]));
    assert_eq!(fixture.update(totals(&[("a", 13), ("b", 1)])), ["*/eps {\"a\":3}"]);
    assert!(fixture.update(totals(&[("a", 13), ("b", 1)])).is_empty());
    assert_eq!(fixture.update(totals(&[("a", 13)])), ["*/eps {\"b\":-1}"]);
    assert_eq!(fixture.snapshot(), snapshot("{\"a\":13}"));
}

#[test]
fn without_corrections_new_totals_are_for_new_readers_only() {
    let mut fixture = Fixture::with_corrections(false);
    fixture.update(totals(&[("a", 10)]));
    assert!(fixture.update(totals(&[("a", 20)])).is_empty());
    assert_eq!(fixture.snapshot(), snapshot("{\"a\":20}"));
    // Readers that had none for a time start over.
    fixture.update(state(unavailable("no")));
    assert_eq!(fixture.update(totals(&[("a", 30)])), ["/eps snapshot {\"a\":30}", "/eps totals {\"known\":true}"]);
}

#[test]
fn totals_beyond_the_limits_are_unavailable() {
    for (most, over, reason) in [
        (&[("a", 1), ("b", 1)][..], &[("c", 1)][..], "more than 2 keys"),
        (&[("a", 1), ("123456789", 1)], &[("a", -1), ("c", 1)], "more than 2 keys"),
        (&[("1234567890", 1)], &[("a", 1)], "more than 10 bytes of keys"),
    ] {
        let mut fixture = Fixture::new();
        fixture.update(totals(most));
        assert_eq!(fixture.state(), Some(TotalsState::Known), "{reason}");
        let sent = fixture.update(tally(over));
        assert!(sent.len() == 2 && sent[0].starts_with("*/eps {"), "{sent:?}");
        assert_eq!(sent[1], format!("/eps totals {{\"known\":false,\"reason\":\"{reason}\"}}"));
        assert_eq!((fixture.state(), fixture.snapshot()), (Some(unavailable(reason)), None));
        // Later tallies cannot make them known again; new totals do.
        assert_eq!(fixture.update(tally(&[("a", 1)])), ["*/eps {\"a\":1}"]);
        assert!(fixture.update(state(TotalsState::Known)).is_empty());
        assert_eq!(fixture.snapshot(), None);
        assert_eq!(fixture.update(totals(&[("a", 7)])), ["/eps snapshot {\"a\":7}", "/eps totals {\"known\":true}"]);
        assert_eq!((fixture.snapshot(), fixture.state()), (snapshot("{\"a\":7}"), Some(TotalsState::Known)));
    }
}

#[test]
fn totals_that_are_too_large_are_neither_sent_nor_kept() {
    let mut fixture = Fixture::new();
    fixture.update(totals(&[("a", 1)]));
    let sent = fixture.update(totals(&[("12345678901", 1)]));
    assert_eq!((sent.len(), fixture.state()), (1, Some(unavailable("more than 10 bytes of keys"))));
    assert_eq!(fixture.snapshot(), None);
}

#[test]
fn totals_that_a_source_cannot_read_come_back_with_their_sums() {
    let mut fixture = Fixture::new();
    fixture.update(totals(&[("a", 1)]));
    let sent = fixture.update(state(unavailable("wrong type")));
    assert!(sent.len() == 1 && sent[0].starts_with("/eps totals ") && sent[0].contains("wrong type"), "{sent:?}");
    assert_eq!((fixture.state(), fixture.snapshot()), (Some(unavailable("wrong type")), None));
    assert!(fixture.update(state(unavailable("wrong type"))).is_empty(), "readers are told once");
    fixture.update(tally(&[("a", 1)]));
    assert_eq!(fixture.update(state(TotalsState::Known)), ["/eps totals {\"known\":true}"]);
    assert_eq!(fixture.snapshot(), snapshot("{\"a\":2}"));
    // The difference is known, so nobody starts over.
    fixture.update(state(unavailable("wrong type")));
    assert_eq!(fixture.update(totals(&[("a", 5)])), ["*/eps {\"a\":3}", "/eps totals {\"known\":true}"]);
}

#[test]
fn first_state_has_no_readers() {
    let mut fixture = Fixture::new();
    assert!(fixture.update(state(TotalsState::Known)).is_empty());
    assert_eq!(fixture.state(), None, "nothing is known without totals");
    assert!(fixture.update(state(unavailable("too large"))).is_empty());
    assert_eq!(fixture.state(), Some(unavailable("too large")));
}

#[test]
fn snapshots_are_framed_once_and_charged_while_they_are_kept() {
    let mut fixture = Fixture::new();
    fixture.update(totals(&[("a", 1)]));
    let (first, second) = (fixture.snapshot().unwrap(), fixture.snapshot().unwrap());
    assert_eq!(first.as_ptr(), second.as_ptr());
    assert_eq!(fixture.budget.used(), first.len());
    fixture.update(tally(&[("a", 1)]));
    drop((first, second));
    assert_eq!(fixture.budget.used(), 0);
}
