//! An index of topics: finds the feeds of a message by each of its topics.

mod prefix_tree;
mod templates;
#[cfg(test)]
mod tests;
mod trie;

use std::collections::HashMap;

use templates::Templates;
use trie::Trie;

use crate::Namespace;
use crate::topic::{Kind, Topic};

/// Values by topic. The cost of a look-up does not depend on the number of other topics: paths are in a [`Trie`], single namespaces in a
/// hash map, and [templates](Templates) are found by their literals.
#[derive(Debug)]
pub(crate) struct TopicIndex<T> {
    paths: Trie<T>,
    exact: HashMap<Namespace, Vec<T>>,
    templates: Templates<T>,
}

impl<T: Copy + PartialEq> TopicIndex<T> {
    pub(crate) fn new() -> Self {
        Self { paths: Trie::new(), exact: HashMap::new(), templates: Templates::new() }
    }

    /// An index of `topics`, all with the same value.
    pub(crate) fn of(topics: impl Iterator<Item = Topic>, value: T) -> Self {
        let mut index = Self::new();
        topics.for_each(|topic| index.insert(&topic, value));
        index
    }

    pub(crate) fn insert(&mut self, topic: &Topic, value: T) {
        match topic.kind() {
            Kind::Path { path, is_recursive } => self.paths.insert(path, *is_recursive, value),
            Kind::Exact(namespace) => self.exact.entry(namespace.clone()).or_default().push(value),
            Kind::Template(template) => self.templates.insert(template, value),
        }
    }

    /// Removes `value` of `topic`, and all that is not needed without it.
    pub(crate) fn remove(&mut self, topic: &Topic, value: T) {
        match topic.kind() {
            Kind::Path { path, is_recursive } => self.paths.remove(path, *is_recursive, value),
            Kind::Exact(namespace) => remove_of_key(&mut self.exact, namespace, value),
            Kind::Template(template) => self.templates.remove(template, value),
        }
    }

    /// Calls `visit` with each value of a topic that contains `namespace`: once for each such topic.
    pub(crate) fn visit(&self, namespace: &Namespace, mut visit: impl FnMut(T)) {
        self.paths.visit(namespace, &mut visit);
        if !self.exact.is_empty()
            && let Some(values) = self.exact.get(namespace)
        {
            values.iter().copied().for_each(&mut visit);
        }
        self.templates.visit(namespace.as_str(), &mut visit);
    }

    /// Whether some topic contains one of `namespaces`.
    pub(crate) fn contains_any<'a>(&self, namespaces: impl IntoIterator<Item = &'a Namespace>) -> bool {
        namespaces.into_iter().any(|namespace| {
            let mut is_found = false;
            self.visit(namespace, |_| is_found = true);
            is_found
        })
    }
}

/// Removes one `value` of a key, and the key if it was the last one.
fn remove_of_key<K: std::hash::Hash + Eq, T: PartialEq>(map: &mut HashMap<K, Vec<T>>, key: &K, value: T) {
    let Some(values) = map.get_mut(key) else { return };
    remove_value(values, &value);
    if values.is_empty() {
        map.remove(key);
        if map.capacity() > 8 * (map.len() + 8) {
            map.shrink_to_fit();
        }
    }
}

/// Removes `value` once.
fn remove_value<T: PartialEq>(values: &mut Vec<T>, value: &T) {
    if let Some(place) = values.iter().position(|other| other == value) {
        values.swap_remove(place);
        // Without this, a topic that many feeds once shared keeps their room.
        if values.capacity() > 4 * values.len() {
            values.shrink_to(2 * values.len());
        }
    }
}
