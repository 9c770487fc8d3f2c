//! A trie of path segments that finds the feeds of a message.

use std::collections::HashMap;

use crate::Namespace;
use crate::topic::{Segment, Topic};

/// Values by topic. Looking up a namespace visits the values of all topics that contain it. The cost depends on its depth,
/// on the number of matching `*` and of values found, not on the number of values in the trie.
#[derive(Debug)]
pub(crate) struct Trie<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    children: HashMap<Box<str>, Self>,
    /// The node of `*`.
    any: Option<Box<Self>>,
    /// Values of topics that end here.
    here: Vec<T>,
    /// Values of topics that end here and contain everything below.
    below: Vec<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { children: HashMap::new(), any: None, here: Vec::new(), below: Vec::new() }
    }
}

impl<T: Copy + PartialEq> Trie<T> {
    pub(crate) fn new() -> Self {
        Self { root: Node::default() }
    }

    pub(crate) fn insert(&mut self, topic: &Topic, value: T) {
        let mut node = &mut self.root;
        for segment in topic.segments() {
            node = match segment {
                Segment::Any => node.any.get_or_insert_default(),
                // Looked up by the borrowed text first, so that only a new node copies it.
                Segment::Literal(text) if node.children.contains_key(text) => match node.children.get_mut(text) {
                    Some(child) => child,
                    None => return,
                },
                Segment::Literal(text) => node.children.entry(text.into()).or_default(),
            };
        }
        let values = if topic.is_recursive() { &mut node.below } else { &mut node.here };
        values.push(value);
    }

    /// Removes `value`, and every node that is empty without it.
    pub(crate) fn remove(&mut self, topic: &Topic, value: T) {
        remove_below(&mut self.root, &mut topic.segments(), topic.is_recursive(), value);
    }

    /// Calls `visit` with each value under a topic that contains `namespace`: once for each such topic.
    pub(crate) fn visit(&self, namespace: &Namespace, mut visit: impl FnMut(T)) {
        self.root.visit(namespace.as_str().trim_start_matches('/'), &mut visit);
    }
}

impl<T: Copy> Node<T> {
    /// `path` is what is left of the namespace, without the separator before it; empty at its end.
    fn visit(&self, path: &str, visit: &mut impl FnMut(T)) {
        self.below.iter().copied().for_each(&mut *visit);
        if path.is_empty() {
            self.here.iter().copied().for_each(visit);
            return;
        }
        let (segment, rest) = path.split_once('/').unwrap_or((path, ""));
        if let Some(child) = self.children.get(segment) {
            child.visit(rest, visit);
        }
        if let Some(child) = &self.any {
            child.visit(rest, visit);
        }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.any.is_none() && self.here.is_empty() && self.below.is_empty()
    }
}

fn remove_below<'a, T: PartialEq + Copy>(
    node: &mut Node<T>,
    segments: &mut impl Iterator<Item = Segment<'a>>,
    below: bool,
    value: T,
) {
    match segments.next() {
        None => {
            let values = if below { &mut node.below } else { &mut node.here };
            if let Some(place) = values.iter().position(|other| *other == value) {
                values.swap_remove(place);
            }
        }
        Some(Segment::Any) => {
            if let Some(child) = &mut node.any {
                remove_below(child, segments, below, value);
                if child.is_empty() {
                    node.any = None;
                }
            }
        }
        Some(Segment::Literal(segment)) => {
            if let Some(child) = node.children.get_mut(segment) {
                remove_below(child, segments, below, value);
                if child.is_empty() {
                    node.children.remove(segment);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topics() -> impl Strategy<Value = Vec<Topic>> {
        proptest::collection::vec("(/[ab*]|/ab){0,4}(/\\*\\*)?", 0..12).prop_map(|paths| {
            paths.iter().map(|path| format!("/{}", path.trim_start_matches('/')).parse().unwrap()).collect()
        })
    }

    fn namespaces() -> impl Strategy<Value = Vec<Namespace>> {
        proptest::collection::vec("(/[ab]{1,2}){0,4}", 0..12).prop_map(|paths| {
            paths.iter().map(|path| format!("/{}", path.trim_start_matches('/')).parse().unwrap()).collect()
        })
    }

    proptest! {
        /// The trie agrees with asking every topic in turn.
        #[test]
        fn visits_exactly_the_topics_that_contain_the_namespace(filed in topics(), gone in topics(), asked in namespaces()) {
            let mut trie = Trie::new();
            for (index, topic) in filed.iter().enumerate() {
                trie.insert(topic, index);
            }
            let kept: Vec<usize> = (0..filed.len()).filter(|&index| !gone.contains(&filed[index])).collect();
            for (index, topic) in filed.iter().enumerate() {
                if !kept.contains(&index) {
                    trie.remove(topic, index);
                }
            }
            for namespace in &asked {
                let mut found = Vec::new();
                trie.visit(namespace, |index| found.push(index));
                found.sort_unstable();
                let expected: Vec<usize> = kept.iter().copied().filter(|&index| filed[index].contains(namespace)).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn removing_leaves_no_nodes_behind() {
        let mut trie = Trie::new();
        for text in ["/a/b/c", "/a/*/c/**", "/", "/*"] {
            let topic: Topic = text.parse().unwrap();
            trie.insert(&topic, 1);
            trie.remove(&topic, 1);
            assert!(trie.root.is_empty(), "{text}");
        }
    }
}
