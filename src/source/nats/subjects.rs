//! Selectors -> the subjects to subscribe to, in which wildcards stand for whole words. Pure.

use crate::decode::SENT;
use crate::nats_client::is_subject;
use crate::source::Selector;

/// Why NATS has no subject for a selector, or no stream for a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// No message is ever published there.
    #[error(
        "{0:?} is not a NATS subject: expected words with dots in between, without white space, and without wildcards but a * at the end"
    )]
    Subject(String),
    /// No stream has this name.
    #[error("{0:?} is not the name of a JetStream stream: expected a word without white space and none of . * > / \\")]
    Stream(String),
}

/// Checks that messages can be published on what a selector selects.
///
/// # Errors
/// They can't.
pub fn check_selector(selector: &Selector) -> Result<(), SubjectError> {
    let is_valid = match selector {
        Selector::Exact(subject) => is_subject(subject),
        // Something may follow the prefix.
        Selector::Prefix(prefix) => is_subject(&format!("{prefix}a")),
    };
    if is_valid { Ok(()) } else { Err(SubjectError::Subject(selector.to_string())) }
}

/// Checks the name of a stream.
///
/// # Errors
/// There can't be one.
pub fn check_stream(name: &str) -> Result<(), SubjectError> {
    let is_valid = !name.is_empty() && is_subject(name) && !name.contains(['.', '*', '>', '/', '\\']);
    if is_valid { Ok(()) } else { Err(SubjectError::Stream(name.to_owned())) }
}

/// A subject to subscribe to: a single one, or everything that begins with certain words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Selector);

impl Pattern {
    /// The narrowest pattern for everything that `selector` selects.
    fn of(selector: &Selector) -> Self {
        match selector {
            Selector::Exact(subject) => Self(Selector::Exact(subject.clone())),
            // A wildcard stands for whole words.
            Selector::Prefix(prefix) => {
                Self(Selector::Prefix(prefix.rfind('.').map_or("", |dot| &prefix[..=dot]).to_owned()))
            }
        }
    }

    /// As NATS writes it.
    pub(super) fn subject(&self) -> String {
        match &self.0 {
            Selector::Exact(subject) => subject.clone(),
            Selector::Prefix(words) => format!("{words}>"),
        }
    }

    pub(super) fn matches(&self, subject: &str) -> bool {
        self.0.matches(subject)
    }

    fn covers(&self, other: &Self) -> bool {
        self.0.covers(&other.0)
    }
}

/// The subscriptions of one connection. While selectors change, a message may come by several of them, and counts for one.
#[derive(Debug)]
pub(super) struct Subscriptions<S> {
    selectors: Vec<Selector>,
    /// In the order in which they were made.
    entries: Vec<(Pattern, S)>,
}

impl<S> Default for Subscriptions<S> {
    fn default() -> Self {
        Self { selectors: Vec::new(), entries: Vec::new() }
    }
}

impl<S> Subscriptions<S> {
    /// Goes over to other selectors. Drops the subscriptions that none of them needs, and returns the patterns that are missing.
    pub(super) fn select(&mut self, selectors: &[Selector]) -> Vec<Pattern> {
        // In NATS, a header names the sender.
        let needed = |selector: &&Selector| !Selector::Prefix(SENT.to_owned()).covers(selector);
        self.selectors = selectors.iter().filter(needed).cloned().collect();
        let patterns: Vec<Pattern> = self.selectors.iter().map(Pattern::of).collect();
        self.entries.retain(|(kept, _)| patterns.iter().any(|pattern| kept.covers(pattern) || pattern.covers(kept)));
        let mut missing: Vec<Pattern> = Vec::new();
        for pattern in patterns {
            let is_covered =
                self.entries.iter().map(|(kept, _)| kept).chain(&missing).any(|other| other.covers(&pattern));
            if !is_covered {
                missing.retain(|other| !pattern.covers(other));
                missing.push(pattern);
            }
        }
        missing
    }

    /// Adds a subscription that was made.
    pub(super) fn add(&mut self, pattern: Pattern, subscription: S) {
        self.entries.push((pattern, subscription));
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut S> {
        self.entries.get_mut(number).map(|(_, subscription)| subscription)
    }

    /// Whether a message on `subject` that came by the subscription with this number counts.
    pub(super) fn counts(&self, number: usize, subject: &str) -> bool {
        let is_earlier = |(pattern, _): &(Pattern, S)| pattern.matches(subject);
        let selects = |selector: &Selector| selector.matches(subject) && !is_internal(selector, subject);
        !self.entries.iter().take(number).any(is_earlier) && self.selectors.iter().any(selects)
    }
}

/// Whether a message is one of NATS itself, which only a selector that names as much is meant for: replies, the API of JetStream,
/// and what the system reports.
fn is_internal(selector: &Selector, subject: &str) -> bool {
    let (Selector::Exact(named) | Selector::Prefix(named)) = selector;
    ["$", "_INBOX."].iter().any(|start| subject.starts_with(start) && !named.starts_with(start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exact(text: &str) -> Selector {
        Selector::Exact(text.to_owned())
    }

    fn prefix(text: &str) -> Selector {
        Selector::Prefix(text.to_owned())
    }

    /// The subjects to subscribe to at first.
    fn subjects(selectors: &[Selector]) -> Vec<String> {
        Subscriptions::<()>::default().select(selectors).iter().map(Pattern::subject).collect()
    }

    #[test]
    fn prefixes_become_wildcards_for_whole_words() {
        assert_eq!(subjects(&[prefix("prices."), exact("news")]), ["prices.>", "news"]);
        assert_eq!(subjects(&[prefix("pri")]), [">"]);
        assert_eq!(subjects(&[prefix("a.b.pri"), prefix("")]), [">"]);
        assert_eq!(subjects(&[exact("a.b"), prefix("a.c"), prefix("a.d")]), ["a.>"]);
        // Headers carry senders.
        assert_eq!(subjects(&[exact("a"), prefix("tallycast:sent:")]), ["a"]);
    }

    #[test]
    fn messages_of_nats_itself_are_not_events() {
        let mut all = Subscriptions::default();
        for pattern in all.select(&[prefix("")]) {
            all.add(pattern, ());
        }
        assert!(all.counts(0, "a") && !all.counts(0, "_INBOX.x.y") && !all.counts(0, "$JS.API.INFO"));
        let mut system = Subscriptions::default();
        for pattern in system.select(&[prefix("$SYS.")]) {
            system.add(pattern, ());
        }
        assert!(system.counts(0, "$SYS.SERVER.x"));
    }

    #[test]
    fn invalid_subjects_and_streams_are_named() {
        for selector in
            [exact("a b"), exact("a..b"), exact("a."), exact("a.*.b"), prefix(".a"), prefix("a b."), exact(">")]
        {
            let error = check_selector(&selector).unwrap_err().to_string();
            assert!(error.contains(&format!("{:?}", selector.to_string())), "{error}");
        }
        for selector in [exact("a.b"), prefix(""), prefix("a."), prefix("a:"), exact("stream.score_updates")] {
            assert_eq!(check_selector(&selector), Ok(()), "{selector}");
        }
        assert!(check_stream("ORDERS").is_ok() && check_stream("a.b").is_err() && check_stream("").is_err());
    }

    fn selectors() -> impl Strategy<Value = Vec<Selector>> {
        let selector = ("[ab]?(\\.[ab]{1,2}){0,2}", any::<bool>());
        let selector = selector.prop_map(|(text, is_exact)| if is_exact { exact(&text) } else { prefix(&text) });
        proptest::collection::vec(selector, 0..4)
    }

    proptest! {
        /// Through any changes of the selectors.
        #[test]
        fn each_selected_message_counts_once(changes in proptest::collection::vec(selectors(), 1..5), subject in "[ab](\\.[ab]{1,2}){0,3}") {
            let mut subscriptions = Subscriptions::default();
            for selectors in changes {
                for pattern in subscriptions.select(&selectors) {
                    subscriptions.add(pattern, ());
                }
                let received = |&number: &usize| subscriptions.entries[number].0.matches(&subject);
                let counted = (0..subscriptions.len()).filter(received).filter(|&number| subscriptions.counts(number, &subject));
                let is_selected = selectors.iter().any(|selector| selector.matches(&subject));
                prop_assert_eq!(counted.count(), usize::from(is_selected));
            }
        }
    }
}
