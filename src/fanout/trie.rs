//! Finds the feeds that a message belongs to: a trie of path segments.

use std::collections::HashMap;

use super::Namespace;

/// Values filed under namespaces. Looking up a namespace visits the values of it and of each of its parents, at a cost
/// that depends on its depth and on the values found, not on how many are filed.
#[derive(Debug)]
pub(super) struct Trie<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    children: HashMap<Box<str>, Self>,
    values: Vec<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { children: HashMap::new(), values: Vec::new() }
    }
}

impl<T: Copy + PartialEq> Trie<T> {
    pub(super) fn new() -> Self {
        Self { root: Node::default() }
    }

    pub(super) fn insert(&mut self, namespace: &Namespace, value: T) {
        let mut node = &mut self.root;
        for segment in namespace.segments() {
            if !node.children.contains_key(segment) {
                node.children.insert(segment.into(), Node::default());
            }
            let Some(child) = node.children.get_mut(segment) else { return };
            node = child;
        }
        node.values.push(value);
    }

    /// Removes `value`, and every node that holds nothing without it.
    pub(super) fn remove(&mut self, namespace: &Namespace, value: T) {
        remove_below(&mut self.root, &mut namespace.segments(), value);
    }

    /// Calls `visit` with each value filed under `namespace` or one of its parents, the outermost first.
    pub(super) fn visit(&self, namespace: &Namespace, mut visit: impl FnMut(T)) {
        let mut node = &self.root;
        node.values.iter().copied().for_each(&mut visit);
        for segment in namespace.segments() {
            let Some(child) = node.children.get(segment) else { return };
            node = child;
            node.values.iter().copied().for_each(&mut visit);
        }
    }
}

fn remove_below<'a, T: PartialEq>(node: &mut Node<T>, segments: &mut impl Iterator<Item = &'a str>, value: T) {
    let Some(segment) = segments.next() else {
        node.values.retain(|filed| *filed != value);
        return;
    };
    if let Some(child) = node.children.get_mut(segment) {
        remove_below(child, segments, value);
        if child.values.is_empty() && child.children.is_empty() {
            node.children.remove(segment);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn namespaces() -> impl Strategy<Value = Vec<Namespace>> {
        proptest::collection::vec("(/[ab]{1,2}){0,4}", 0..12).prop_map(|paths| {
            paths.iter().map(|path| format!("/{}", path.trim_start_matches('/')).parse().unwrap()).collect()
        })
    }

    proptest! {
        /// The trie agrees with asking every namespace in turn.
        #[test]
        fn visits_what_contains_the_namespace(filed in namespaces(), gone in namespaces(), asked in namespaces()) {
            let mut trie = Trie::new();
            for (index, namespace) in filed.iter().enumerate() {
                trie.insert(namespace, index);
            }
            let kept: Vec<usize> = (0..filed.len()).filter(|&index| !gone.contains(&filed[index])).collect();
            for (index, namespace) in filed.iter().enumerate() {
                if !kept.contains(&index) {
                    trie.remove(namespace, index);
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
    fn removing_leaves_nothing_behind() {
        let mut trie = Trie::new();
        let namespace: Namespace = "/a/b/c".parse().unwrap();
        trie.insert(&namespace, 1);
        trie.remove(&namespace, 1);
        assert!(trie.root.children.is_empty());
    }
}
