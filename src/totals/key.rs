//! Which sorted set has the totals of a namespace.

use std::fmt;
use std::str::FromStr;

use tallycast_fanout::{Namespace, NamespaceError};

/// The sorted set with the totals of a namespace: each member's score is the sum of its tallies. Written
/// `NAMESPACE=KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TotalsKey {
    /// The namespace.
    pub namespace: Namespace,
    /// The key of the sorted set.
    pub key: String,
}

/// Why a text is not a [`TotalsKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TotalsKeyError {
    /// The key is missing.
    #[error("expected NAMESPACE=KEY, such as /eps=emojitrack_score, found {0:?}")]
    NoKey(String),
    /// The namespace is invalid.
    #[error("{0:?} before '=': {1}")]
    Namespace(String, NamespaceError),
}

impl FromStr for TotalsKey {
    type Err = TotalsKeyError;

    fn from_str(text: &str) -> Result<Self, TotalsKeyError> {
        let (namespace, key) = text
            .split_once('=')
            .filter(|(_, key)| !key.is_empty())
            .ok_or_else(|| TotalsKeyError::NoKey(text.to_owned()))?;
        let parsed = namespace.parse().map_err(|error| TotalsKeyError::Namespace(namespace.to_owned(), error))?;
        Ok(Self { namespace: parsed, key: key.to_owned() })
    }
}

impl fmt::Display for TotalsKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.namespace, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_was_expected() {
        let error = |text: &str| text.parse::<TotalsKey>().unwrap_err().to_string();
        assert_eq!(error("/eps"), "expected NAMESPACE=KEY, such as /eps=emojitrack_score, found \"/eps\"");
        assert_eq!(error("/eps="), "expected NAMESPACE=KEY, such as /eps=emojitrack_score, found \"/eps=\"");
        assert!(error("eps=a").starts_with("\"eps\" before '=': "), "{}", error("eps=a"));
        assert_eq!("/eps=a=b".parse::<TotalsKey>().unwrap().to_string(), "/eps=a=b");
    }
}
