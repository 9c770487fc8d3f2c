//! The rates of namespaces below prefixes that someone looks at.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tallycast_fanout::{Message, Namespace};

/// How long the namespaces below a prefix are counted after someone has looked.
const LEASE: Duration = Duration::from_secs(15);
/// Prefixes that are counted; the one that no one has looked at for longest makes room for another.
const MAX_PREFIXES: usize = 32;
/// Children of a prefix that are counted in a window, and the bytes of their names; further ones only count for the prefix.
const MAX_CHILDREN: usize = 4096;
const MAX_BYTES: usize = 256 * 1024;
/// Messages are counted in windows of this length: a rate is that of the current one and the one before.
const WINDOW: Duration = Duration::from_secs(5);

/// The prefixes that are counted.
#[derive(Debug, Default)]
pub(super) struct Rates(Vec<Prefix>);

#[derive(Debug)]
struct Prefix {
    namespace: Namespace,
    asked_at: Instant,
    current: Window,
    previous: Option<Window>,
}

#[derive(Debug)]
struct Window {
    begun_at: Instant,
    messages: u64,
    /// By their namespaces.
    children: HashMap<Box<str>, Child>,
    bytes: usize,
    /// Some children were left out.
    is_full: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Child {
    messages: u64,
    /// The number of the message that was counted last.
    last: u64,
    has_children: bool,
}

/// The rates of a prefix and of what is below it, in messages per second.
#[derive(Debug, Default)]
pub(in crate::admin) struct PrefixRates {
    pub(in crate::admin) rate: f64,
    /// The time for which messages were counted.
    pub(in crate::admin) seconds: f64,
    /// By their namespaces.
    pub(in crate::admin) children: HashMap<Box<str>, ChildRate>,
    /// Whether children are missing.
    pub(in crate::admin) is_partial: bool,
}

#[derive(Debug, Default)]
pub(in crate::admin) struct ChildRate {
    pub(in crate::admin) rate: f64,
    /// Whether messages came for namespaces below.
    pub(in crate::admin) has_children: bool,
}

/// The child of `prefix` that `namespace` is or belongs to, and whether it is below that child.
pub(in crate::admin) fn child_of<'a>(prefix: &Namespace, namespace: &'a Namespace) -> Option<(&'a str, bool)> {
    if !prefix.contains(namespace) || prefix == namespace {
        return None;
    }
    let text = namespace.as_str();
    if namespace.is_name() {
        return Some((text, false));
    }
    let begin = if prefix.is_root() { 0 } else { prefix.as_str().len() };
    // After the separator.
    match text[begin + 1..].find('/') {
        Some(end) => Some((&text[..begin + 1 + end], true)),
        None => Some((text, false)),
    }
}

impl Rates {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn count(&mut self, message: &Message) {
        for prefix in &mut self.0 {
            prefix.count(message);
        }
    }

    /// The rates of a prefix, which is counted from now on.
    pub(super) fn of(&mut self, namespace: &Namespace, now: Instant) -> PrefixRates {
        let place = self.0.iter().position(|prefix| prefix.namespace == *namespace).unwrap_or_else(|| {
            if self.0.len() == MAX_PREFIXES {
                let oldest = self.0.iter().enumerate().min_by_key(|(_, prefix)| prefix.asked_at);
                if let Some((place, _)) = oldest {
                    self.0.swap_remove(place);
                }
            }
            let current = Window::new(now);
            self.0.push(Prefix { namespace: namespace.clone(), asked_at: now, current, previous: None });
            self.0.len() - 1
        });
        let prefix = &mut self.0[place];
        prefix.asked_at = now;
        prefix.rates(now)
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.0.retain(|prefix| now.duration_since(prefix.asked_at) < LEASE);
        for prefix in &mut self.0 {
            if now.duration_since(prefix.current.begun_at) >= WINDOW {
                prefix.previous = Some(std::mem::replace(&mut prefix.current, Window::new(now)));
            }
        }
    }
}

impl Prefix {
    fn count(&mut self, message: &Message) {
        if !message.topics().any(|topic| self.namespace.contains(topic)) {
            return;
        }
        self.current.messages += 1;
        for topic in message.topics() {
            if let Some((child, is_below)) = child_of(&self.namespace, topic) {
                self.current.count(child, is_below);
            }
        }
    }

    fn rates(&self, now: Instant) -> PrefixRates {
        let windows = || self.previous.iter().chain([&self.current]);
        let begun_at = self.previous.as_ref().unwrap_or(&self.current).begun_at;
        let seconds = now.duration_since(begun_at).as_secs_f64();
        let rate = |messages: u64| if seconds > 0.0 { messages as f64 / seconds } else { 0.0 };
        let mut children: HashMap<Box<str>, Child> = HashMap::new();
        for (name, child) in windows().flat_map(|window| &window.children) {
            let sum = children.entry(name.clone()).or_default();
            sum.messages += child.messages;
            sum.has_children |= child.has_children;
        }
        let children = children.into_iter().map(|(name, Child { messages, has_children, .. })| {
            (name, ChildRate { rate: rate(messages), has_children })
        });
        PrefixRates {
            rate: rate(windows().map(|window| window.messages).sum()),
            seconds,
            children: children.collect(),
            is_partial: windows().any(|window| window.is_full),
        }
    }
}

impl Window {
    fn new(begun_at: Instant) -> Self {
        Self { begun_at, messages: 0, children: HashMap::new(), bytes: 0, is_full: false }
    }

    /// Counts the last message for a child, once if several of its topics are there.
    fn count(&mut self, name: &str, is_below: bool) {
        let last = self.messages;
        if let Some(child) = self.children.get_mut(name) {
            child.messages += u64::from(child.last != last);
            child.last = last;
            child.has_children |= is_below;
        } else if self.children.len() < MAX_CHILDREN && self.bytes + name.len() <= MAX_BYTES {
            self.bytes += name.len();
            self.children.insert(name.into(), Child { messages: 1, last, has_children: is_below });
        } else {
            self.is_full = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use tallycast_fanout::Update;

    use super::*;

    fn ns(text: &str) -> Namespace {
        text.parse().unwrap()
    }

    fn message(text: &str) -> Message {
        Message::text(Namespace::from_topic(text).unwrap(), "")
    }

    /// The names, rates and whether something is below, sorted.
    fn listed(rates: &PrefixRates) -> Vec<(&str, f64, bool)> {
        let mut all: Vec<_> =
            rates.children.iter().map(|(name, child)| (&**name, child.rate, child.has_children)).collect();
        all.sort_by(|left, right| left.0.cmp(right.0));
        all
    }

    #[test]
    fn children_are_counted_over_two_windows_and_while_someone_looks() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rates = Rates::default();
        assert_eq!((rates.of(&ns("/a"), at(0)).rate, rates.of(&ns("/"), at(0)).seconds), (0.0, 0.0));
        for text in ["/a", "/a/b", "/a/b/c", "/a/d", "/ab/b", "https://e.com/a/b"] {
            rates.count(&message(text));
        }
        let of_a = rates.of(&ns("/a"), at(2));
        assert_eq!((of_a.rate, of_a.seconds, of_a.is_partial), (2.0, 2.0, false));
        assert_eq!(listed(&of_a), [("/a/b", 1.0, true), ("/a/d", 0.5, false)]);
        let of_root = rates.of(&ns("/"), at(2));
        assert_eq!(listed(&of_root), [("/a", 2.0, true), ("/ab", 0.5, true), ("https://e.com/a/b", 0.5, false)]);
        rates.tick(at(5));
        rates.count(&message("/a/d"));
        assert_eq!(listed(&rates.of(&ns("/a"), at(10))), [("/a/b", 0.2, true), ("/a/d", 0.2, false)]);
        rates.tick(at(10));
        rates.tick(at(15));
        assert_eq!(listed(&rates.of(&ns("/a"), at(15))), []);
        rates.tick(at(29));
        assert!(!rates.is_empty());
        rates.tick(at(30));
        assert!(rates.is_empty());
    }

    #[test]
    fn message_with_several_topics_counts_once_for_each_child() {
        let start = Instant::now();
        let mut rates = Rates::default();
        rates.of(&ns("/a"), start);
        let mut several = message("/a/b");
        several.update = Some(Box::new(Update { alternates: ["/a/b/c", "/a/d"].map(ns).into(), ..Update::default() }));
        rates.count(&several);
        let found = rates.of(&ns("/a"), start + Duration::from_secs(1));
        assert_eq!((found.rate, &*listed(&found)), (1.0, &[("/a/b", 1.0, true), ("/a/d", 1.0, false)][..]));
    }

    #[test]
    fn prefixes_and_children_are_bounded() {
        let now = Instant::now();
        let mut rates = Rates::default();
        for number in 0..2 * MAX_PREFIXES {
            rates.of(&ns(&format!("/{number}")), now + Duration::from_millis(number as u64));
        }
        assert_eq!(rates.0.len(), MAX_PREFIXES);
        assert!(!rates.0.iter().any(|prefix| prefix.namespace == ns("/0")));
        rates.of(&ns("/x"), now + Duration::from_secs(1));
        (0..MAX_CHILDREN + 5).for_each(|number| rates.count(&message(&format!("/x/{number}"))));
        let found = rates.of(&ns("/x"), now + Duration::from_secs(2));
        assert_eq!((found.children.len(), found.is_partial), (MAX_CHILDREN, true));
        assert_eq!(found.rate, (MAX_CHILDREN + 5) as f64);
    }
}
