//! Questions about the subscriptions of all nodes. Pages are in the order of topic, node and id.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::entry::Snapshot;
use super::registry::Registry;
use super::{Presence, SubscriberId, Subscription, shared};
use crate::nodes::{Nodes, NodesError};

/// Time for an answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Topics whose lists are read together.
const CHUNK_TOPICS: usize = 32;
/// Such readings for a page; then it may be short.
const MAX_CHUNKS: usize = 64;

/// Where the subscriptions of all nodes are.
#[derive(Debug, Clone)]
pub(super) enum Directory {
    /// There is one node.
    Local { node: Arc<str>, registry: Arc<Registry> },
    /// In Redis.
    Shared(Nodes),
}

/// Why nothing is known of other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the subscriptions cannot be read from Redis; try again")]
pub struct Unavailable;

/// The place of a subscription, after which a page starts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    topic: Arc<str>,
    node: Arc<str>,
    id: SubscriberId,
}

/// The number of subscriptions to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicCount {
    /// The topic.
    pub topic: Arc<str>,
    /// How many there are.
    pub count: u64,
}

/// Topics with subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicsPage {
    /// The topics.
    pub topics: Vec<TopicCount>,
    /// The topic after which the next page starts; none if there is no more.
    pub next: Option<Arc<str>>,
}

/// The subscriptions to a topic.
#[derive(Debug, Clone)]
pub struct TopicPage {
    /// How many there are in all.
    pub count: u64,
    /// How many of them can be listed: nodes list at most [`MAX_LISTED`](super::MAX_LISTED) each.
    pub listed: u64,
    /// One page of those.
    pub page: Page,
}

/// Subscriptions in their order.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// Where the next page starts; none if there is no more.
    pub next: Option<Cursor>,
}

/// The subscriptions to a topic on the nodes.
struct Found {
    topic: Arc<str>,
    nodes: Vec<(Arc<str>, Snapshot)>,
}

impl Presence {
    /// The topics with subscriptions after `after`, at most `limit`, and how many each has.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn topics(&self, after: Option<&str>, limit: usize) -> Result<TopicsPage, Unavailable> {
        in_time(async {
            let start = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut topics = self.directory.topics(start, limit + 1).await?;
            let has_more = topics.len() > limit;
            topics.truncate(limit);
            let next = topics.last().filter(|_| has_more).cloned();
            let found = self.directory.find(topics).await?;
            let counts = found.into_iter().map(|found| TopicCount { count: found.count(), topic: found.topic });
            // One may have lost its last subscription meanwhile.
            Ok(TopicsPage { topics: counts.filter(|topic| topic.count > 0).collect(), next })
        })
        .await
    }

    /// The subscriptions to a topic after `after`, at most `limit`.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn of_topic(&self, topic: &str, after: Option<&Cursor>, limit: usize) -> Result<TopicPage, Unavailable> {
        in_time(async {
            let found = self.directory.find(vec![topic.into()]).await?;
            let count = found.iter().map(Found::count).sum();
            let listed = found.iter().flat_map(|found| &found.nodes).map(|(_, snapshot)| snapshot.listed.len() as u64);
            Ok(TopicPage {
                count,
                listed: listed.sum(),
                page: page(found.into_iter().flat_map(Found::places), after, limit),
            })
        })
        .await
    }

    /// One subscription to a topic, if it is listed.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn get(&self, topic: &str, id: SubscriberId) -> Result<Option<Subscription>, Unavailable> {
        in_time(async {
            let found = self.directory.find(vec![topic.into()]).await?;
            let mut places = found.into_iter().flat_map(Found::places);
            Ok(places.find(|(cursor, _)| cursor.id == id).map(|(_, subscription)| subscription))
        })
        .await
    }

    /// All listed subscriptions after `after`, at most `limit`. A page may be short although another follows.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn all(&self, after: Option<&Cursor>, limit: usize) -> Result<Page, Unavailable> {
        in_time(async {
            let mut places = Vec::new();
            let mut last = after.map(|after| Arc::clone(&after.topic));
            for chunk in 0..MAX_CHUNKS {
                let start = match &last {
                    // The rest of this topic, which the page before has begun.
                    Some(topic) if chunk == 0 => Bound::Included(&**topic),
                    Some(topic) => Bound::Excluded(&**topic),
                    None => Bound::Unbounded,
                };
                let topics = self.directory.topics(start, CHUNK_TOPICS).await?;
                let is_last = topics.len() < CHUNK_TOPICS;
                last = topics.last().cloned().or(last);
                let found = self.directory.find(topics).await?;
                let found = found.into_iter().flat_map(Found::places);
                places.extend(found.filter(|(cursor, _)| after.is_none_or(|after| cursor > after)));
                if is_last || places.len() > limit {
                    return Ok(page(places.into_iter(), after, limit));
                }
            }
            let mut page = page(places.into_iter(), after, limit);
            page.next = last.map(Cursor::end_of);
            Ok(page)
        })
        .await
    }
}

/// The answer of Redis, if it comes in time.
async fn in_time<T>(answer: impl Future<Output = Result<T, NodesError>>) -> Result<T, Unavailable> {
    let answer = timeout(LIMIT, answer).await.unwrap_or(Err(NodesError::Timeout));
    answer.map_err(|error| {
        tracing::debug!(%error, "cannot read subscriptions");
        Unavailable
    })
}

/// The first `limit` of the subscriptions after `after`.
fn page(places: impl Iterator<Item = (Cursor, Subscription)>, after: Option<&Cursor>, limit: usize) -> Page {
    let mut places: Vec<_> = places.filter(|(cursor, _)| after.is_none_or(|after| cursor > after)).collect();
    places.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let has_more = places.len() > limit;
    places.truncate(limit);
    let next = places.last().filter(|_| has_more).map(|(cursor, _)| cursor.clone());
    Page { subscriptions: places.into_iter().map(|(_, subscription)| subscription).collect(), next }
}

impl Found {
    fn count(&self) -> u64 {
        self.nodes.iter().map(|(_, snapshot)| snapshot.count).sum()
    }

    /// What is listed, with its places.
    fn places(self) -> impl Iterator<Item = (Cursor, Subscription)> {
        let Self { topic, nodes } = self;
        nodes.into_iter().flat_map(move |(id, snapshot)| {
            let (topic, name) = (Arc::clone(&topic), crate::nodes::name(&id).into());
            snapshot.listed.into_iter().map(move |(subscriber, _)| {
                let cursor = Cursor { topic: Arc::clone(&topic), node: Arc::clone(&id), id: subscriber.id };
                (cursor, Subscription { topic: Arc::clone(&topic), node: Arc::clone(&name), subscriber })
            })
        })
    }
}

impl Directory {
    /// The first topics from `start` on, in their order.
    async fn topics(&self, start: Bound<&str>, limit: usize) -> Result<Vec<Arc<str>>, NodesError> {
        let nodes = match self {
            Self::Local { registry, .. } => return Ok(registry.topics(start, limit)),
            Self::Shared(nodes) => nodes,
        };
        let start = match start {
            Bound::Included(start) => format!("[{start}"),
            Bound::Excluded(start) => format!("({start}"),
            Bound::Unbounded => "-".to_owned(),
        };
        let mut pipeline = redis::pipe();
        for node in nodes.live().await? {
            pipeline.add_command(shared::topics(nodes, &node, &start, limit));
        }
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let topics: Vec<Vec<String>> = nodes.ask_all(&pipeline).await?;
        let topics: BTreeSet<String> = topics.into_iter().flatten().collect();
        Ok(topics.into_iter().take(limit).map(Arc::from).collect())
    }

    /// What the nodes have of these topics.
    async fn find(&self, topics: Vec<Arc<str>>) -> Result<Vec<Found>, NodesError> {
        let mut found: Vec<Found> = topics.into_iter().map(|topic| Found { topic, nodes: Vec::new() }).collect();
        let nodes = match self {
            Self::Local { node, registry } => {
                for found in &mut found {
                    found.nodes.extend(registry.snapshot(&found.topic).map(|snapshot| (Arc::clone(node), snapshot)));
                }
                return Ok(found);
            }
            Self::Shared(nodes) => nodes,
        };
        let live = if found.is_empty() { Vec::new() } else { nodes.live().await? };
        if live.is_empty() {
            return Ok(found);
        }
        let mut pipeline = redis::pipe();
        for node in &live {
            pipeline.add_command(shared::values(nodes, node, found.iter().map(|found| &*found.topic)));
        }
        let values: Vec<Vec<Option<String>>> = nodes.ask_all(&pipeline).await?;
        for (node, values) in live.iter().zip(values) {
            let node: Arc<str> = node.as_str().into();
            for (found, value) in found.iter_mut().zip(values) {
                found.nodes.push((Arc::clone(&node), shared::parse(value)?));
            }
        }
        Ok(found)
    }
}

impl Cursor {
    /// After the last subscription to a topic.
    fn end_of(topic: Arc<str>) -> Self {
        Self { topic, node: char::MAX.to_string().into(), id: SubscriberId::LAST }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }
}

/// `<id>,<bytes of the node>,<node><topic>`, which clients need not understand.
impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, node, id } = self;
        write!(formatter, "{id},{},{node}{topic}", node.len())
    }
}

/// Not the text of a [`Cursor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid cursor: expected the next of a page")]
pub struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let mut parts = text.splitn(3, ',');
        let mut next = || parts.next().ok_or(InvalidCursor);
        let (id, length, rest) = (next()?, next()?, next()?);
        let length = length.parse().map_err(|_| InvalidCursor)?;
        let (node, topic) = rest.split_at_checked(length).ok_or(InvalidCursor)?;
        Ok(Self { topic: topic.into(), node: node.into(), id: id.parse().map_err(|_| InvalidCursor)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursors_survive_their_text(topic in ".{0,8}", node in ".{0,8}") {
            let cursor = Cursor { topic: topic.into(), node: node.into(), id: SubscriberId::LAST };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn no_text_is_a_cursor_that_fails(text in "(urn:uuid:)?.{0,40},[0-9]{0,3},.{0,8}") {
            let _ = text.parse::<Cursor>();
        }
    }
}
