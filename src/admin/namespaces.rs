//! `GET /admin/namespaces.json`: the children of a namespace, with their readers, and with the rates of their messages, which are counted
//! while someone asks.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tallycast_fanout::{FeedReport, Handle, Namespace, Topics};

use super::inspector::{ChildRate, PrefixRates, child_of};
use super::live::LiveStats;
use super::parameter;
use super::status::StatusSource;
use crate::api::refusal::Refusal;
use crate::responses::json;

/// Children in an answer; the others are counted.
const MAX_CHILDREN: usize = 200;

/// A namespace and its children.
#[derive(Debug, Serialize)]
struct Listing {
    prefix: String,
    /// Readers of the namespace or of some below it.
    readers: usize,
    /// Messages per second, of it and of those below.
    rate: f64,
    /// The time for which messages were counted.
    measured_seconds: f64,
    /// Children that are left out, at least.
    more: usize,
    children: Vec<Child>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Child {
    segment: String,
    namespace: String,
    readers: usize,
    rate: f64,
    has_children: bool,
    keeps_totals: bool,
    history: bool,
}

/// The readers of a namespace and of those below it.
#[derive(Debug, Default)]
struct Readers {
    total: usize,
    /// By child: their number, and whether some read below it.
    children: BTreeMap<Box<str>, (usize, bool)>,
}

/// The handler.
pub(super) async fn listing(
    State(status): State<StatusSource>,
    State(live): State<LiveStats>,
    RawQuery(query): RawQuery,
) -> Response {
    let text = parameter(&query, "prefix").unwrap_or_else(|| "/".to_owned());
    let prefix: Namespace = match text.parse() {
        Ok(prefix) => prefix,
        Err(error) => return Refusal::BadRequest(format!("bad query: prefix={text}: {error}")).into_response(),
    };
    // Before the feeds, so that counting begins although the engine is busy.
    let rates = live.inspector().rates(&prefix);
    match status.handle.feeds().await {
        Ok(feeds) => json(&list(&status.handle, &prefix, rates, &feeds)),
        Err(error) => Refusal::Unavailable(error.to_string()).into_response(),
    }
}

fn list(engine: &Handle, prefix: &Namespace, rates: PrefixRates, feeds: &[FeedReport]) -> Listing {
    let PrefixRates { rate, seconds, children: mut rates, is_partial } = rates;
    let readers = readers(prefix, feeds);
    let mut found: Vec<_> = readers.children.into_iter().collect();
    let unread: Vec<Box<str>> =
        rates.keys().filter(|name| found.binary_search_by(|(known, _)| known.cmp(name)).is_err()).cloned().collect();
    found.extend(unread.into_iter().map(|name| (name, (0, false))));
    let mut children: Vec<_> = found
        .into_iter()
        .map(|(name, (readers, has_children))| {
            let of_messages = rates.remove(&name).unwrap_or_default();
            (name, readers, ChildRate { has_children: has_children || of_messages.has_children, ..of_messages })
        })
        .collect();
    children.sort_by(|left, right| {
        let by_rate = right.2.rate.total_cmp(&left.2.rate);
        by_rate.then_with(|| right.1.cmp(&left.1)).then_with(|| left.0.cmp(&right.0))
    });
    let more = children.len().saturating_sub(MAX_CHILDREN) + usize::from(is_partial);
    children.truncate(MAX_CHILDREN);
    let children = children.into_iter().map(|(name, readers, rate)| child(engine, &name, readers, &rate)).collect();
    Listing { prefix: prefix.to_string(), readers: readers.total, rate, measured_seconds: seconds, more, children }
}

fn child(engine: &Handle, name: &str, readers: usize, rate: &ChildRate) -> Child {
    // What was a namespace before is one again.
    let namespace = Namespace::from_topic(name).unwrap_or_else(|_| Namespace::root());
    let segment = if namespace.is_name() { name } else { name.rsplit('/').next().unwrap_or(name) };
    Child {
        segment: segment.to_owned(),
        namespace: name.to_owned(),
        readers,
        rate: rate.rate,
        has_children: rate.has_children,
        keeps_totals: engine.keeps_totals(&namespace),
        history: engine.has_history(&Topics::from(namespace)),
    }
}

/// Counts each reader once for each child that it reads in. Topics with wildcards count where their wildcards begin.
fn readers(prefix: &Namespace, feeds: &[FeedReport]) -> Readers {
    let mut readers = Readers::default();
    for feed in feeds {
        let begins: BTreeSet<Namespace> = feed.topics.iter().map(|topic| topic.literal_prefix()).collect();
        if begins.iter().any(|namespace| prefix.contains(namespace)) {
            readers.total += feed.readers;
        }
        let mut children: BTreeMap<&str, bool> = BTreeMap::new();
        for (child, is_below) in begins.iter().filter_map(|namespace| child_of(prefix, namespace)) {
            *children.entry(child).or_default() |= is_below;
        }
        for (name, is_below) in children {
            let (number, has_children) = readers.children.entry(name.into()).or_default();
            *number += feed.readers;
            *has_children |= is_below;
        }
    }
    readers
}

#[cfg(test)]
mod tests {
    use tallycast_fanout::{Fanout, Policy};

    use super::*;

    fn feed(topics: &[&str], readers: usize) -> FeedReport {
        let topics = Topics::new(topics.iter().map(|topic| topic.parse().unwrap()).collect()).unwrap();
        FeedReport { topics, framing: "sse", policy: Policy::default(), readers }
    }

    #[tokio::test]
    async fn children_have_readers_and_rates_and_are_sorted() {
        let fanout = Fanout::builder().shards(1).totals(vec!["/a/c".parse().unwrap()]).build();
        let feeds = [
            feed(&["/"], 100),
            feed(&["/a"], 10),
            feed(&["/a/b/x", "/a/c"], 1),
            feed(&["/a/*", "/z"], 2),
            feed(&["/a/b/*/d"], 4),
            feed(&["/ab"], 50),
        ];
        let rate = |rate, has_children| ChildRate { rate, has_children };
        let rates = PrefixRates {
            rate: 3.5,
            seconds: 4.0,
            children: [("/a/c".into(), rate(0.5, false)), ("/a/e".into(), rate(3.0, true))].into(),
            is_partial: false,
        };
        let listing = list(&fanout.handle(), &"/a".parse().unwrap(), rates, &feeds);
        assert_eq!((listing.readers, listing.rate, listing.measured_seconds, listing.more), (17, 3.5, 4.0, 0));
        let found: Vec<_> = listing
            .children
            .iter()
            .map(|child| (&*child.segment, child.readers, child.rate, child.has_children, child.keeps_totals))
            .collect();
        assert_eq!(found, [("e", 0, 3.0, true, false), ("c", 1, 0.5, false, true), ("b", 5, 0.0, true, false)]);
        assert_eq!(listing.children[2].namespace, "/a/b");

        let many: Vec<FeedReport> = (0..MAX_CHILDREN + 7).map(|number| feed(&[&format!("/n/{number}")], 1)).collect();
        let listing = list(&fanout.handle(), &"/n".parse().unwrap(), PrefixRates::default(), &many);
        assert_eq!((listing.children.len(), listing.more), (MAX_CHILDREN, 7));
    }
}
