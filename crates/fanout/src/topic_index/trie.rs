//! A trie of path segments that finds the feeds of a message.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use slab::Slab;

use crate::Namespace;

/// The segment that stands for any segment. Topics never have it as a literal.
const ANY: &str = "*";

/// Values by topic. Looking up a namespace visits the values of all topics that contain it. The cost depends on its depth,
/// on the number of matching `*` and of values found, not on the number of values in the trie.
///
/// Paths are compressed: a node stands for all segments up to the next branch or value, so there are at most two nodes for
/// each topic, whatever its depth. Nodes own no tables: one table finds the children of all of them.
#[derive(Debug)]
pub(super) struct Trie<T> {
    nodes: Slab<Node<T>>,
    /// All nodes but the root and those whose first segment is `*`, by parent and first segment.
    children: HashTable<NodeId>,
    hasher: RandomState,
}

type NodeId = u32;

/// The root has this id because it is inserted first, and it is never removed.
const ROOT: NodeId = 0;

#[derive(Debug)]
struct Node<T> {
    /// The segments after those of the parent, at least one, joined by `/`; empty for the root.
    label: Box<str>,
    parent: NodeId,
    /// The number of children, `any` included.
    child_count: u32,
    /// The ids of all children, combined by exclusive or: the id of the only child, if there is one child.
    child_ids: NodeId,
    /// The child whose first segment is `*`.
    any: Option<NodeId>,
    /// Values of topics that end here.
    here: Vec<T>,
    /// Values of topics that end here and contain everything below.
    below: Vec<T>,
}

impl<T> Node<T> {
    fn new(label: &str, parent: NodeId) -> Self {
        Self {
            label: label.into(),
            parent,
            child_count: 0,
            child_ids: 0,
            any: None,
            here: Vec::new(),
            below: Vec::new(),
        }
    }
}

impl<T: Copy + PartialEq> Trie<T> {
    pub(super) fn new() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new("", ROOT));
        Self { nodes, children: HashTable::new(), hasher: RandomState::new() }
    }

    pub(super) fn insert(&mut self, topic: &Namespace, is_recursive: bool, value: T) {
        let mut at = ROOT;
        let mut path = path(topic);
        while !path.is_empty() {
            let Some(child) = self.child(at, first_segment(path)) else {
                at = self.add(at, path);
                break;
            };
            let label = &*self.node(child).label;
            let common = common_segments(label, path);
            at = if common < label.len() { self.split(child, common) } else { child };
            path = after(path, common);
        }
        self.values(at, is_recursive).push(value);
    }

    /// Removes `value`, and every node that is not needed without it.
    pub(super) fn remove(&mut self, topic: &Namespace, is_recursive: bool, value: T) {
        let mut at = ROOT;
        let mut path = path(topic);
        while !path.is_empty() {
            let Some(child) = self.child(at, first_segment(path)) else { return };
            let label = &*self.node(child).label;
            if common_segments(label, path) < label.len() {
                return;
            }
            path = after(path, label.len());
            at = child;
        }
        super::remove_value(self.values(at, is_recursive), &value);
        self.prune(at);
    }

    /// Calls `visit` with each value under a topic that contains `namespace`: once for each such topic.
    /// A name is in the root alone.
    pub(super) fn visit(&self, namespace: &Namespace, mut visit: impl FnMut(T)) {
        if namespace.is_name() {
            return self.node(ROOT).below.iter().copied().for_each(visit);
        }
        self.visit_below(ROOT, path(namespace), &mut visit);
    }

    /// `path` is what is left of the namespace, without the separator before it; empty at its end.
    fn visit_below(&self, at: NodeId, path: &str, visit: &mut impl FnMut(T)) {
        let node = self.node(at);
        node.below.iter().copied().for_each(&mut *visit);
        if path.is_empty() {
            node.here.iter().copied().for_each(visit);
            return;
        }
        if node.child_count == 0 {
            return;
        }
        // A namespace may have `*` as a literal, which must not visit `any` twice.
        let literal = Some(first_segment(path)).filter(|segment| *segment != ANY);
        let literal = literal.and_then(|segment| self.child(at, segment));
        for child in [literal, node.any].into_iter().flatten() {
            if let Some(rest) = strip(path, &self.node(child).label) {
                self.visit_below(child, rest, visit);
            }
        }
    }

    fn node(&self, id: NodeId) -> &Node<T> {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node<T> {
        &mut self.nodes[id as usize]
    }

    fn values(&mut self, id: NodeId, is_recursive: bool) -> &mut Vec<T> {
        let node = self.node_mut(id);
        if is_recursive { &mut node.below } else { &mut node.here }
    }

    fn hash(&self, parent: NodeId, segment: &str) -> u64 {
        self.hasher.hash_one((parent, segment))
    }

    fn child(&self, parent: NodeId, segment: &str) -> Option<NodeId> {
        if segment == ANY {
            return self.node(parent).any;
        }
        let is_child = |&id: &NodeId| {
            let node = self.node(id);
            node.parent == parent && first_segment(&node.label) == segment
        };
        self.children.find(self.hash(parent, segment), is_child).copied()
    }

    /// Adds a node below `parent`.
    fn add(&mut self, parent: NodeId, label: &str) -> NodeId {
        #[expect(clippy::cast_possible_truncation, reason = "four billion nodes need more memory than there is")]
        let id = self.nodes.insert(Node::new(label, parent)) as NodeId;
        self.link(id);
        id
    }

    /// Makes a node findable from its parent.
    fn link(&mut self, id: NodeId) {
        let node = self.node(id);
        let (parent, segment) = (node.parent, first_segment(&node.label));
        let (is_any, hash) = (segment == ANY, self.hash(parent, segment));
        let parent = self.node_mut(parent);
        parent.child_count += 1;
        parent.child_ids ^= id;
        if is_any {
            parent.any = Some(id);
            return;
        }
        let Self { nodes, children, hasher } = self;
        children.insert_unique(hash, id, |&id| {
            let node = &nodes[id as usize];
            hasher.hash_one((node.parent, first_segment(&node.label)))
        });
    }

    /// The opposite of [`link`](Self::link).
    fn unlink(&mut self, id: NodeId) {
        let node = self.node(id);
        let (parent, segment) = (node.parent, first_segment(&node.label));
        let (is_any, hash) = (segment == ANY, self.hash(parent, segment));
        let parent = self.node_mut(parent);
        parent.child_count -= 1;
        parent.child_ids ^= id;
        if is_any {
            parent.any = None;
        } else if let Ok(entry) = self.children.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
    }

    /// Splits a node after the first `common` bytes of its label. Returns the new node for those.
    fn split(&mut self, lower: NodeId, common: usize) -> NodeId {
        self.unlink(lower);
        let Node { label, parent, .. } = self.node(lower);
        let (upper_label, lower_label) = (Box::<str>::from(&label[..common]), Box::<str>::from(after(label, common)));
        let upper = self.add(*parent, &upper_label);
        let node = self.node_mut(lower);
        (node.label, node.parent) = (lower_label, upper);
        self.link(lower);
        upper
    }

    /// Removes a node without values and children; joins one without values to its only child.
    fn prune(&mut self, id: NodeId) {
        let node = self.node(id);
        if id == ROOT || !node.here.is_empty() || !node.below.is_empty() {
            return;
        }
        let (parent, only_child) = (node.parent, node.child_ids);
        match node.child_count {
            0 => {
                self.unlink(id);
                self.nodes.remove(id as usize);
                self.shrink();
                self.prune(parent);
            }
            1 => {
                self.unlink(only_child);
                self.unlink(id);
                let label = [&*self.nodes.remove(id as usize).label, "/", &self.node(only_child).label].concat();
                let child = self.node_mut(only_child);
                (child.label, child.parent) = (label.into(), parent);
                self.link(only_child);
            }
            _ => {}
        }
    }

    /// Gives back the room of nodes that are gone. The capacity of the table says less: removed entries count as used until it
    /// is rebuilt.
    fn shrink(&mut self) {
        if self.nodes.capacity() > 8 * (self.nodes.len() + 8) {
            let Self { nodes, children, hasher } = self;
            children.shrink_to_fit(|&id| {
                let node = &nodes[id as usize];
                hasher.hash_one((node.parent, first_segment(&node.label)))
            });
            nodes.shrink_to_fit();
        }
    }
}

/// The segments of a namespace, without the leading separator.
fn path(namespace: &Namespace) -> &str {
    namespace.as_str().trim_start_matches('/')
}

fn first_segment(path: &str) -> &str {
    path.split('/').next().unwrap_or_default()
}

/// The rest of `path` after its first `bytes`, which are whole segments.
fn after(path: &str, bytes: usize) -> &str {
    path[bytes..].trim_start_matches('/')
}

/// The bytes of the whole segments that both paths begin with.
fn common_segments(a: &str, b: &str) -> usize {
    let mut bytes = 0;
    for (of_a, of_b) in a.split('/').zip(b.split('/')) {
        if of_a != of_b {
            break;
        }
        // With the separator before it.
        bytes += of_a.len() + usize::from(bytes > 0);
    }
    bytes
}

/// What follows the segments of `label`, which may be `*`, in `path`; `None` if it does not begin with them.
fn strip<'a>(path: &'a str, label: &str) -> Option<&'a str> {
    let mut rest = Some(path);
    for segment in label.split('/') {
        let (first, others) = match rest?.split_once('/') {
            Some((first, others)) => (first, Some(others)),
            None => (rest?, None),
        };
        if segment != ANY && segment != first {
            return None;
        }
        rest = others;
    }
    Some(rest.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Topic;
    use crate::topic::Kind;

    fn parts(topic: &Topic) -> (&Namespace, bool) {
        match topic.kind() {
            Kind::Path { path, is_recursive } => (path, *is_recursive),
            _ => unreachable!("{topic} is a path"),
        }
    }

    fn insert<T: Copy + PartialEq>(trie: &mut Trie<T>, topic: &Topic, value: T) {
        let (path, is_recursive) = parts(topic);
        trie.insert(path, is_recursive, value);
    }

    fn remove<T: Copy + PartialEq>(trie: &mut Trie<T>, topic: &Topic, value: T) {
        let (path, is_recursive) = parts(topic);
        trie.remove(path, is_recursive, value);
    }

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
                insert(&mut trie, topic, index);
            }
            let kept: Vec<usize> = (0..filed.len()).filter(|&index| !gone.contains(&filed[index])).collect();
            for (index, topic) in filed.iter().enumerate() {
                if !kept.contains(&index) {
                    remove(&mut trie, topic, index);
                }
            }
            prop_assert!(trie.nodes.len() <= 2 * kept.len() + 1, "{} nodes for {} topics", trie.nodes.len(), kept.len());
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
            insert(&mut trie, &topic, 1);
            remove(&mut trie, &topic, 1);
            assert_eq!((trie.nodes.len(), trie.children.len()), (1, 0), "{text}");
        }
    }

    #[test]
    fn room_of_removed_topics_is_given_back() {
        let mut trie = Trie::new();
        let topics: Vec<Topic> = (0..1000).map(|number| format!("/{number}").parse().unwrap()).collect();
        topics.iter().for_each(|topic| insert(&mut trie, topic, 1));
        assert!(trie.children.capacity() >= 1000);
        topics[1..].iter().rev().for_each(|topic| remove(&mut trie, topic, 1));
        assert_eq!((trie.nodes.len(), trie.children.len()), (2, 1));
        let room = (trie.nodes.capacity(), trie.children.capacity());
        assert!(room.0 <= 100 && room.1 <= 100, "{room:?}");

        (0..1000).for_each(|value| insert(&mut trie, &topics[0], value));
        (2..1000).for_each(|value| remove(&mut trie, &topics[0], value));
        let node = trie.child(ROOT, "0").unwrap();
        let values = &trie.node(node).below;
        assert!(values.len() == 3 && values.capacity() <= 12, "{} of {}", values.len(), values.capacity());
    }

    #[test]
    fn literal_asterisk_of_a_namespace_is_visited_once() {
        let mut trie = Trie::new();
        insert(&mut trie, &"/*".parse().unwrap(), 1);
        let namespace = Namespace::from_segments(["*"]).unwrap();
        let mut found = Vec::new();
        trie.visit(&namespace, |value| found.push(value));
        assert_eq!(found, [1]);
    }

    #[test]
    fn other_topics_stay_when_an_unknown_one_is_removed() {
        let mut trie = Trie::new();
        insert(&mut trie, &"/a/b/c".parse().unwrap(), 1);
        for text in ["/a", "/a/b", "/a/b/c/d", "/b", "/a/b/c"] {
            remove(&mut trie, &text.parse().unwrap(), 2);
            let mut found = Vec::new();
            trie.visit(&"/a/b/c".parse().unwrap(), |value| found.push(value));
            assert_eq!((found, trie.nodes.len()), (vec![1], 2), "{text}");
        }
    }

    #[test]
    fn deep_topics_take_one_node_each() {
        let mut trie = Trie::new();
        let topics: Vec<Topic> =
            (0..64).map(|number| format!("/{number}{}", "/a".repeat(15)).parse().unwrap()).collect();
        for topic in &topics {
            insert(&mut trie, topic, 1);
        }
        assert_eq!(trie.nodes.len(), 65);
    }
}
