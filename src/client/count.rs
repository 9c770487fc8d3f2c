//! `tallycast count`: adds counts to the totals of a namespace.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::{Value, json};
use tallycast_fanout::Namespace;

use super::http::encoded;
use super::publish::{authorization, persistently, random};
use super::{ClientError, ServerOptions, print};
use crate::config::Secret;

/// What is counted, and how often: `KEY` or `KEY=COUNT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountItem {
    key: String,
    count: u32,
}

/// The text is not a [`CountItem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected KEY or KEY=COUNT, such as 1F602 or 1F602=3")]
pub struct CountItemError;

impl FromStr for CountItem {
    type Err = CountItemError;

    fn from_str(text: &str) -> Result<Self, CountItemError> {
        let (key, count) = match text.rsplit_once('=') {
            Some((key, count)) => (key, count.parse().ok().filter(|count| *count > 0).ok_or(CountItemError)?),
            None => (text, 1),
        };
        if key.is_empty() { Err(CountItemError) } else { Ok(Self { key: key.to_owned(), count }) }
    }
}

/// What to count.
#[derive(Debug)]
pub struct CountOptions {
    /// Where the server is.
    pub server: ServerOptions,
    /// The publishing key.
    pub key: Option<Secret>,
    /// The namespace with the totals.
    pub namespace: Namespace,
    /// What is counted.
    pub items: Vec<CountItem>,
}

pub(super) async fn run(options: CountOptions) -> Result<(), ClientError> {
    let CountOptions { server, key, namespace, items } = options;
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for CountItem { key, count } in items {
        let sum = counts.entry(key).or_default();
        *sum = sum.saturating_add(count);
    }
    let (authorization, once) = (authorization(key.as_ref()), random());
    let mut headers = vec![("content-type", "application/json"), ("idempotency-key", &*once)];
    headers.extend(authorization.iter().map(|value| ("authorization", value.as_str())));
    let path = format!("/count{}", encoded(namespace.as_str()));
    let answer = persistently(&server, &path, &headers, &json!(counts).to_string()).await?;
    let totals: BTreeMap<String, Value> =
        serde_json::from_str(&answer).map_err(|error| ClientError::Refused(format!("unexpected answer: {error}")))?;
    totals.into_iter().try_for_each(|(key, total)| print(format_args!("{key} {total}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_follows_the_last_equals_sign() {
        let item = |text: &str| text.parse::<CountItem>().map(|item| (item.key, item.count));
        assert_eq!(item("1F602"), Ok(("1F602".to_owned(), 1)));
        assert_eq!(item("a=b=3"), Ok(("a=b".to_owned(), 3)));
        for text in ["", "=3", "a=", "a=0", "a=-1", "a=x"] {
            assert_eq!(item(text), Err(CountItemError), "{text}");
        }
    }
}
