//! The server's streams -> the registry.

use std::collections::HashMap;
use std::sync::Arc;

use tallycast_fanout::{ConnectionInfo, Grant, Topics};
use tallycast_server::{StreamObserver, StreamWatch};

use super::Subscriber;
use super::registry::{Held, Registry};
use super::subscriber::Ids;

/// Registers the subscriptions of streams. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PresenceObserver(Arc<Observed>);

#[derive(Debug)]
struct Observed {
    registry: Arc<Registry>,
    ids: Ids,
}

/// The subscriptions of an open stream, which end with it.
#[derive(Debug)]
struct Stream {
    registry: Arc<Registry>,
    subscriber: Arc<Subscriber>,
    held: Vec<Held>,
}

impl PresenceObserver {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self(Arc::new(Observed { registry, ids: Ids::default() }))
    }
}

impl StreamObserver for PresenceObserver {
    fn opened(&self, info: &ConnectionInfo, grant: Option<&Grant>) -> Box<dyn StreamWatch> {
        let Observed { registry, ids } = &*self.0;
        let subscriber = Arc::new(Subscriber::new(ids.next(), info.created_at, grant));
        let held = info.topics.iter().map(|topic| registry.add(&topic.to_string(), &subscriber)).collect();
        Box::new(Stream { registry: Arc::clone(registry), subscriber, held })
    }
}

impl StreamWatch for Stream {
    fn topics_changed(&mut self, topics: &Topics, grant: Option<&Grant>) {
        let mut left: HashMap<Arc<str>, Held> =
            self.held.drain(..).map(|held| (Arc::clone(&held.topic), held)).collect();
        let changed = grant.map(|grant| Arc::new(self.subscriber.with_grant(Some(grant))));
        let changed = changed.filter(|subscriber| !subscriber.is_same(&self.subscriber));
        let is_same = changed.is_none();
        if let Some(subscriber) = changed {
            self.subscriber = subscriber;
        }
        let mut added = Vec::new();
        for topic in topics.iter().map(|topic| topic.to_string()) {
            match left.remove(&*topic) {
                Some(held) => self.held.push(held),
                None => added.push(topic),
            }
        }
        for held in left.values() {
            self.registry.remove(held, &self.subscriber);
        }
        if !is_same {
            self.held.iter().for_each(|held| self.registry.replace(held, &self.subscriber));
        }
        self.held.extend(added.iter().map(|topic| self.registry.add(topic, &self.subscriber)));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for held in &self.held {
            self.registry.remove(held, &self.subscriber);
        }
    }
}
