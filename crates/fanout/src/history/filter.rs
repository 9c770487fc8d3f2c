//! Which messages a reader gets from the history: those of its topics, without those of topics that it read already.

use std::collections::HashSet;

use crate::topic::Topic;
use crate::trie::Trie;
use crate::{Namespace, Topics};

/// Topics, ready for many lookups.
#[derive(Debug)]
pub(crate) struct Filter {
    /// Those that are not excluded themselves.
    pub(crate) topics: Vec<Topic>,
    included: Trie<u8>,
    excluded: Option<Trie<u8>>,
}

impl Filter {
    pub(crate) fn new(topics: &Topics, excluded: Option<&Topics>) -> Self {
        let excluded = excluded.filter(|excluded| !excluded.is_empty());
        let known: HashSet<Topic> = excluded.iter().flat_map(|excluded| excluded.iter()).collect();
        let topics: Vec<Topic> = topics.iter().filter(|topic| !known.contains(topic)).collect();
        Self {
            included: trie(&topics),
            topics,
            excluded: excluded.map(|excluded| trie(&Vec::from_iter(excluded.iter()))),
        }
    }

    pub(crate) fn contains(&self, namespace: &Namespace) -> bool {
        let is_in = |trie: &Trie<u8>| {
            let mut found = false;
            trie.visit(namespace, |_| found = true);
            found
        };
        is_in(&self.included) && !self.excluded.as_ref().is_some_and(is_in)
    }

    /// Whether some of the topics are in `namespace`, contain it, or match it by wildcards.
    pub(crate) fn overlaps(&self, namespace: &Namespace) -> bool {
        self.topics.iter().any(|topic| topic.overlaps(namespace))
    }
}

fn trie(topics: &[Topic]) -> Trie<u8> {
    let mut trie = Trie::new();
    topics.iter().for_each(|topic| trie.insert(topic, 0));
    trie
}
