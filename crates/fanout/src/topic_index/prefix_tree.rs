//! A tree of byte strings that finds those that a text begins with.

/// Values by byte string. Looking up a text visits the values of all strings that it begins with; the cost depends on the length of the
/// text, not on the number of strings. A node stands for all bytes up to the next branch or value.
#[derive(Debug)]
pub(super) struct PrefixTree<V> {
    root: Node<V>,
}

#[derive(Debug)]
struct Node<V> {
    /// The bytes after those of the parent; empty for the root only.
    label: Box<[u8]>,
    value: Option<V>,
    /// Sorted by the first byte, which no two have in common.
    children: Vec<Node<V>>,
}

impl<V> Node<V> {
    fn new(label: &[u8]) -> Self {
        Self { label: label.into(), value: None, children: Vec::new() }
    }

    fn child(&self, first: u8) -> Result<usize, usize> {
        self.children.binary_search_by_key(&first, |child| child.label[0])
    }

    /// Inserts a node for the first `length` bytes of the label above this one.
    fn split(&mut self, length: usize) {
        let upper = Self::new(&self.label[..length]);
        let mut lower = std::mem::replace(self, upper);
        lower.label = lower.label[length..].into();
        self.children = vec![lower];
    }

    /// Removes the child at `place` if it has no value and no children; joins it with its only child if it has one and no value.
    fn prune(&mut self, place: usize) {
        let child = &mut self.children[place];
        if child.value.is_some() {
            return;
        }
        if child.children.is_empty() {
            self.children.remove(place);
            if self.children.capacity() > 4 * self.children.len() {
                self.children.shrink_to(2 * self.children.len());
            }
        } else if child.children.len() == 1
            && let Some(mut only) = child.children.pop()
        {
            only.label = [&*child.label, &*only.label].concat().into();
            *child = only;
        }
    }

    /// See [`PrefixTree::change`].
    fn change(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> bool) {
        let Some(first) = key.first() else {
            if self.value.as_mut().is_some_and(|value| !change(value)) {
                self.value = None;
            }
            return;
        };
        let Ok(place) = self.child(*first) else { return };
        let child = &mut self.children[place];
        let Some(rest) = key.strip_prefix(&*child.label) else { return };
        child.change(rest, change);
        self.prune(place);
    }
}

impl<V> Default for PrefixTree<V> {
    fn default() -> Self {
        Self { root: Node::new(&[]) }
    }
}

impl<V: Default> PrefixTree<V> {
    /// The value of `key`, added if there is none.
    pub(super) fn entry(&mut self, key: impl Iterator<Item = u8>) -> &mut V {
        let key: Vec<u8> = key.collect();
        let (mut node, mut rest) = (&mut self.root, &*key);
        while let Some(first) = rest.first() {
            let place = node.child(*first).unwrap_or_else(|place| {
                node.children.insert(place, Node::new(rest));
                place
            });
            node = &mut node.children[place];
            let common = rest.iter().zip(&node.label).take_while(|(ours, theirs)| ours == theirs).count();
            if common < node.label.len() {
                node.split(common);
            }
            rest = &rest[common..];
        }
        node.value.get_or_insert_default()
    }
}

impl<V> PrefixTree<V> {
    /// Changes the value of `key`, if there is one, and removes it if `change` returns `false`.
    pub(super) fn change(&mut self, key: impl Iterator<Item = u8>, change: impl FnOnce(&mut V) -> bool) {
        self.root.change(&key.collect::<Vec<u8>>(), change);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.root.value.is_none() && self.is_leaf()
    }

    /// Whether it has no string but the empty one.
    pub(super) fn is_leaf(&self) -> bool {
        self.root.children.is_empty()
    }

    /// Calls `visit` with the length and the value of each string that `text` begins with, shorter ones first.
    pub(super) fn visit_prefixes(&self, mut text: impl Iterator<Item = u8>, mut visit: impl FnMut(usize, &V)) {
        let (mut node, mut length) = (&self.root, 0);
        loop {
            if let Some(value) = &node.value {
                visit(length, value);
            }
            if node.children.is_empty() {
                return;
            }
            let Some(Ok(place)) = text.next().map(|first| node.child(first)) else { return };
            node = &node.children[place];
            if !node.label[1..].iter().all(|byte| text.next() == Some(*byte)) {
                return;
            }
            length += node.label.len();
        }
    }

    #[cfg(test)]
    pub(super) fn values(&self) -> Vec<&V> {
        fn add<'a, V>(node: &'a Node<V>, values: &mut Vec<&'a V>) {
            values.extend(&node.value);
            node.children.iter().for_each(|child| add(child, values));
        }
        let mut values = Vec::new();
        add(&self.root, &mut values);
        values
    }

    #[cfg(test)]
    pub(super) fn count_nodes(&self) -> usize {
        fn count<V>(node: &Node<V>) -> usize {
            1 + node.children.iter().map(count).sum::<usize>()
        }
        count(&self.root)
    }
}
