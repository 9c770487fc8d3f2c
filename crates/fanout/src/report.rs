//! Snapshots of connections and feeds, for status pages and metrics.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{ConnectionId, ConnectionInfo, Policy, Topics};

/// All connections and feeds at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The connections, in no particular order.
    pub connections: Vec<ConnectionReport>,
    /// The feeds, the one with the most readers first.
    pub feeds: Vec<FeedReport>,
}

/// One connection.
#[derive(Debug, Clone)]
pub struct ConnectionReport {
    /// Identifies it to [`Handle::close`](crate::Handle::close) and its siblings.
    pub id: ConnectionId,
    /// What its transport knows of it.
    pub info: ConnectionInfo,
    /// The [`Grant::subject`](crate::Grant::subject) of its client.
    pub subject: Option<Arc<str>>,
    /// Messages written to it.
    pub messages_sent: u64,
}

/// One feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedReport {
    /// What its readers subscribe to.
    pub topics: Topics,
    /// The name of its framing.
    pub framing: &'static str,
    /// What happens to readers that fall behind.
    pub policy: Policy,
    /// The number of its readers.
    pub readers: usize,
}

/// Joins the reports of all shards, each of which has readers of its own.
pub(crate) fn merge_feeds(parts: Vec<FeedReport>) -> Vec<FeedReport> {
    let mut feeds: Vec<FeedReport> = Vec::new();
    let mut places = HashMap::new();
    for feed in parts {
        let place = *places.entry((feed.topics.clone(), feed.framing)).or_insert(feeds.len());
        match feeds.get_mut(place) {
            Some(same) => same.readers += feed.readers,
            None => feeds.push(feed),
        }
    }
    feeds.sort_by_cached_key(|feed| (std::cmp::Reverse(feed.readers), feed.topics.to_string()));
    feeds
}
