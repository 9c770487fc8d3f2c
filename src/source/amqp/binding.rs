//! Selectors -> the binding keys of a topic exchange.
//!
//! A topic exchange compares words, which dots separate: `*` in a binding key stands for one word, and `#` for any number of
//! them. What it cannot express is bound more broadly, and what comes in addition is left out here. A queue receives an event
//! once, however many of its bindings match.

use std::collections::{BTreeSet, HashSet};

use crate::amqp_client::MAX_NAME_BYTES;
use crate::decode::SENT;
use crate::source::{Selector, StreamKey};

/// What all channels match.
const ALL: &str = "#";

/// Why routes cannot read something from RabbitMQ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// It is a stream.
    #[error("invalid stream {0:?} for RabbitMQ, which gives events no positions; expected a channel, such as orders.*")]
    Stream(String),
    /// It looks like a binding key.
    #[error(
        "invalid channel {0:?} for RabbitMQ: in routes only a last * stands for something; expected orders.*, for example"
    )]
    Wildcard(String),
    /// A routing key has at most 255 bytes.
    #[error("invalid channel {0:?} for RabbitMQ: expected at most {MAX_NAME_BYTES} bytes")]
    TooLong(String),
}

/// What a queue is bound with, and what of that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bindings {
    /// The binding keys.
    pub(super) keys: BTreeSet<String>,
    channels: HashSet<String>,
    prefixes: Vec<String>,
}

impl Bindings {
    pub(super) fn new(selectors: &[Selector]) -> Result<Self, BindingError> {
        let mut bindings = Self::default();
        for selector in selectors {
            let (Selector::Exact(text) | Selector::Prefix(text)) = selector;
            // Events of RabbitMQ have their sender in a header.
            if text.starts_with(SENT) {
                continue;
            }
            check_selector(selector)?;
            bindings.keys.insert(key(selector));
            match selector {
                Selector::Exact(channel) => {
                    bindings.channels.insert(channel.clone());
                }
                Selector::Prefix(prefix) => bindings.prefixes.push(prefix.clone()),
            }
        }
        if bindings.keys.contains(ALL) {
            bindings.keys = BTreeSet::from([ALL.to_owned()]);
        }
        Ok(bindings)
    }

    /// Whether events of this channel are wanted.
    pub(super) fn select(&self, channel: &str) -> bool {
        self.channels.contains(channel) || self.prefixes.iter().any(|prefix| channel.starts_with(prefix.as_str()))
    }
}

/// Checks that routes can read this from RabbitMQ.
///
/// # Errors
/// They cannot.
pub fn check(selectors: &[Selector], streams: &[StreamKey]) -> Result<(), BindingError> {
    if let Some(stream) = streams.first() {
        return Err(BindingError::Stream(stream.key.to_string()));
    }
    selectors.iter().try_for_each(check_selector)
}

fn check_selector(selector: &Selector) -> Result<(), BindingError> {
    let (Selector::Exact(text) | Selector::Prefix(text)) = selector;
    if text.len() > MAX_NAME_BYTES {
        return Err(BindingError::TooLong(selector.to_string()));
    }
    if text.split('.').any(|word| matches!(word, "*" | "#")) {
        return Err(BindingError::Wildcard(selector.to_string()));
    }
    Ok(())
}

/// The narrowest binding key that matches all of `selector`.
fn key(selector: &Selector) -> String {
    match selector {
        Selector::Exact(channel) => channel.clone(),
        // The words before the last dot are complete.
        Selector::Prefix(prefix) => match prefix.rsplit_once('.') {
            Some((words, _)) => format!("{words}.{ALL}"),
            None => ALL.to_owned(),
        },
    }
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

    fn keys(selectors: &[Selector]) -> Vec<String> {
        Bindings::new(selectors).unwrap().keys.into_iter().collect()
    }

    #[test]
    fn selectors_become_binding_keys() {
        assert_eq!(keys(&[exact("orders.eu"), prefix("orders.")]), ["orders.#", "orders.eu"]);
        assert_eq!(keys(&[prefix("a.b.c")]), ["a.b.#"]);
        assert_eq!(keys(&[prefix("a.b.c"), prefix("ord"), exact("x")]), ["#"]);
        assert_eq!(keys(&[prefix("")]), ["#"]);
        assert_eq!(keys(&[exact("a"), prefix("tallycast:sent:")]), ["a"]);
        assert_eq!(keys(&[exact("a*b.c#")]), ["a*b.c#"]);
    }

    #[test]
    fn only_what_is_selected_is_wanted() {
        let bindings = Bindings::new(&[prefix("orders."), exact("news")]).unwrap();
        assert!(bindings.select("orders.eu.1") && bindings.select("orders.") && bindings.select("news"));
        // "orders.#" matches this, too.
        assert!(!bindings.select("orders") && !bindings.select("news.eu"));
    }

    #[test]
    fn binding_keys_in_routes_are_refused() {
        for selector in [exact("orders.#"), exact("#"), prefix("*.orders."), exact("a.*.b")] {
            let error = Bindings::new(std::slice::from_ref(&selector)).unwrap_err().to_string();
            assert!(error.contains(&format!("{:?}", selector.to_string())), "{error}");
        }
        assert!(matches!(check(&[exact(&"a".repeat(256))], &[]), Err(BindingError::TooLong(_))));
        assert_eq!(check(&[prefix(&"a".repeat(255))], &[]), Ok(()));
        let stream = StreamKey { key: "s".into(), sequence: "s".into(), retention: None };
        assert_eq!(check(&[], &[stream]), Err(BindingError::Stream("s".to_owned())));
    }

    /// Whether a topic exchange sends `channel` to a queue that is bound with `key`.
    fn matches(key: &[&str], channel: &[&str]) -> bool {
        match (key, channel) {
            ([], []) => true,
            (["#", rest @ ..], _) => {
                matches(rest, channel) || matches!(channel, [_, channel @ ..] if matches(key, channel))
            }
            (["*", key @ ..], [_, channel @ ..]) => matches(key, channel),
            ([word, key @ ..], [first, channel @ ..]) => word == first && matches(key, channel),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn everything_selected_is_bound_and_nothing_else_is_wanted(
            selectors in prop::collection::vec(("[ab.]{0,5}", any::<bool>()), 0..4),
            channel in "[ab.]{0,6}",
        ) {
            let selector = |(text, is_exact): (String, bool)| if is_exact { Selector::Exact(text) } else { Selector::Prefix(text) };
            let selectors: Vec<Selector> = selectors.into_iter().map(selector).collect();
            let bindings = Bindings::new(&selectors).unwrap();
            let is_selected = selectors.iter().any(|selector| selector.matches(&channel));
            prop_assert_eq!(bindings.select(&channel), is_selected);
            let words: Vec<&str> = channel.split('.').collect();
            let is_bound = bindings.keys.iter().any(|key| matches(&key.split('.').collect::<Vec<_>>(), &words));
            prop_assert!(is_bound || !is_selected, "{:?} {:?}", bindings.keys, channel);
        }
    }
}
