//! Templates, found by their literals.

use std::collections::HashMap;
use std::sync::Arc;

use super::prefix_tree::PrefixTree;
use super::remove_of_key;
use crate::topic::{Part, Template, matches_with_ends};

/// Values by template. Only templates are matched that have three literals in common with a text: the one before the first expression, the
/// one after the last, and the longest in between. So the cost does not depend on the number of other templates. Templates that differ in
/// nothing but the names of their variables are matched once.
#[derive(Debug)]
pub(super) struct Templates<T> {
    by_prefix: PrefixTree<BySuffix<T>>,
}

/// By the literal after the last expression, from its end.
type BySuffix<T> = PrefixTree<ByMiddle<T>>;
/// By the longest literal between two expressions; empty if there is none.
type ByMiddle<T> = PrefixTree<HashMap<Arc<[Part]>, Vec<T>>>;

impl<T: Copy + PartialEq> Templates<T> {
    pub(super) fn new() -> Self {
        Self { by_prefix: PrefixTree::default() }
    }

    pub(super) fn insert(&mut self, template: &Template, value: T) {
        let by_suffix = self.by_prefix.entry(template.prefix().bytes());
        let by_middle = by_suffix.entry(template.suffix().bytes().rev());
        let templates = by_middle.entry(template.longest_middle().bytes());
        templates.entry(Arc::clone(template.parts())).or_default().push(value);
    }

    pub(super) fn remove(&mut self, template: &Template, value: T) {
        self.by_prefix.change(template.prefix().bytes(), |by_suffix| {
            by_suffix.change(template.suffix().bytes().rev(), |by_middle| {
                by_middle.change(template.longest_middle().bytes(), |templates| {
                    remove_of_key(templates, template.parts(), value);
                    !templates.is_empty()
                });
                !by_middle.is_empty()
            });
            !by_suffix.is_empty()
        });
    }

    /// Calls `visit` with each value of a template that stands for `text`.
    pub(super) fn visit(&self, text: &str, visit: &mut impl FnMut(T)) {
        let mut visit_matching = |templates: &HashMap<Arc<[Part]>, Vec<T>>| {
            let matching = templates.iter().filter(|(parts, _)| matches_with_ends(parts, text));
            matching.for_each(|(_, values)| values.iter().copied().for_each(&mut *visit));
        };
        self.by_prefix.visit_prefixes(text.bytes(), |prefix_bytes, by_suffix| {
            by_suffix.visit_prefixes(text[prefix_bytes..].bytes().rev(), |suffix_bytes, by_middle| {
                by_middle.visit_prefixes(std::iter::empty(), |_, templates| visit_matching(templates));
                if by_middle.is_leaf() {
                    return;
                }
                let middle = &text.as_bytes()[prefix_bytes..text.len() - suffix_bytes];
                for at in 0..middle.len() {
                    by_middle.visit_prefixes(middle[at..].iter().copied(), |length, templates| {
                        // A literal that is there several times counts once.
                        let is_first = || {
                            let literal = &middle[at..at + length];
                            middle.windows(length).position(|part| part == literal) == Some(at)
                        };
                        if length > 0 && is_first() {
                            visit_matching(templates);
                        }
                    });
                }
            });
        });
    }

    #[cfg(test)]
    pub(super) fn count_patterns(&self) -> usize {
        let values = self.by_prefix.values().into_iter().flat_map(PrefixTree::values).flat_map(PrefixTree::values);
        values.map(HashMap::len).sum()
    }

    #[cfg(test)]
    pub(super) fn count_nodes(&self) -> usize {
        self.by_prefix.count_nodes()
    }
}
