//! How topics relate to namespaces and to each other.

use super::{ANY, Kind, Template, Topic};
use crate::Namespace;

impl Topic {
    /// Whether a reader of this topic receives what is sent to `namespace`.
    pub fn contains(&self, namespace: &Namespace) -> bool {
        match &self.0 {
            Kind::Path { path, is_recursive } if path.is_root() => *is_recursive || namespace.is_root(),
            Kind::Path { .. } if namespace.is_name() => false,
            Kind::Path { path, is_recursive } => {
                let mut theirs = namespace.segments();
                let fits =
                    path.segments().all(|ours| theirs.next().is_some_and(|theirs| ours == ANY || ours == theirs));
                fits && (*is_recursive || theirs.next().is_none())
            }
            Kind::Exact(exact) => exact == namespace,
            Kind::Template(template) => template.matches(namespace.as_str()),
        }
    }

    /// Whether a reader of this topic receives something that is sent to `namespace` or below it: the topic is in the
    /// namespace, contains it, or matches it by wildcards. Sometimes true of a template although it does not.
    pub fn overlaps(&self, namespace: &Namespace) -> bool {
        match &self.0 {
            _ if namespace.is_root() => true,
            _ if namespace.is_name() => self.contains(namespace),
            Kind::Path { path, is_recursive } => {
                let mut ours = path.segments();
                // What remains of the topic afterwards is below the namespace.
                namespace.segments().all(|theirs| match ours.next() {
                    Some(ours) => ours == ANY || ours == theirs,
                    None => *is_recursive,
                })
            }
            Kind::Exact(exact) => namespace.contains(exact),
            Kind::Template(template) => may_be_in(template, namespace),
        }
    }

    /// Whether every namespace that `other` contains is also contained in this topic. Of two templates only if they differ in the names
    /// of their variables at most.
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::Path { path, is_recursive: true }, _) if path.is_root() => true,
            (_, Kind::Exact(exact)) => self.contains(exact),
            (
                Kind::Path { path: ours, is_recursive: ours_is_recursive },
                Kind::Path { path: theirs, is_recursive: theirs_is_recursive },
            ) => {
                let mut theirs = theirs.segments();
                let fits =
                    ours.segments().all(|ours| theirs.next().is_some_and(|theirs| ours == ANY || ours == theirs));
                fits && (*ours_is_recursive || (theirs.next().is_none() && !theirs_is_recursive))
            }
            (Kind::Template(ours), Kind::Template(theirs)) => ours.is_like(theirs),
            (Kind::Path { .. } | Kind::Exact(_), Kind::Template(_))
            | (Kind::Exact(_) | Kind::Template(_), Kind::Path { .. }) => false,
        }
    }

    /// What this topic has in common with `other`: the namespaces that both contain. `None` if that is none, or if a template is involved
    /// that neither covers the other topic nor is covered by it: such a set has no topic.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        if self.covers(other) {
            return Some(other.clone());
        }
        if other.covers(self) {
            return Some(self.clone());
        }
        match (&self.0, &other.0) {
            (Kind::Path { path, is_recursive }, Kind::Path { path: other_path, is_recursive: other_is_recursive }) => {
                intersection_of_paths((path, *is_recursive), (other_path, *other_is_recursive))
            }
            _ => None,
        }
    }
}

/// What two topics that are paths have in common: path, and whether everything below belongs to it too.
fn intersection_of_paths(one: (&Namespace, bool), other: (&Namespace, bool)) -> Option<Topic> {
    let mut segments = Vec::new();
    let (mut left, mut right) = (one.0.segments(), other.0.segments());
    let is_recursive = loop {
        let segment = match (left.next(), right.next()) {
            (Some(left), Some(right)) if left == right || right == ANY => left,
            (Some(left), Some(right)) if left == ANY => right,
            (Some(_), Some(_)) => return None,
            // What is left of the longer one is below the shorter one.
            (Some(left), None) if other.1 => left,
            (None, Some(right)) if one.1 => right,
            (Some(_), None) | (None, Some(_)) => return None,
            (None, None) => {
                let (left, right) = (one.0.segments().count(), other.0.segments().count());
                break (one.1 || left < right) && (other.1 || right < left);
            }
        };
        segments.push(segment);
    };
    let is_literal = !segments.contains(&ANY);
    // Namespaces that would be too long do not exist.
    let path = Namespace::from_segments(segments).ok()?;
    Some(if is_literal && !is_recursive { Topic::exact(path) } else { Topic(Kind::Path { path, is_recursive }) })
}

/// Whether a template may stand for a path in `namespace`, by its literal prefix.
fn may_be_in(template: &Template, namespace: &Namespace) -> bool {
    let (prefix, path) = (template.prefix(), namespace.as_str());
    match prefix.strip_prefix(path) {
        Some(below) => below.is_empty() || below.starts_with('/'),
        None => path.starts_with(prefix),
    }
}
