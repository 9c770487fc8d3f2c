//! Policies for readers that fall further behind than their feed's log reaches.

use std::fmt;
use std::str::FromStr;

use crate::{Namespace, NamespaceError, Topic, Topics};

/// The policy for readers that fall further behind than their feed's log reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The connection is closed; the client connects again and starts afresh.
    #[default]
    Disconnect,
    /// The reader goes on with the newest batch, after a note that counts the messages it missed. For readers that started
    /// with totals this is [`Merge`](Self::Merge), because skipped tallies would make their totals wrong.
    Skip,
    /// The tallies that the reader missed are summed into one, so that its totals stay exact. Text messages are skipped.
    Merge,
    /// The reader gets the newest message of each namespace that it missed, after a note that counts the others. For readers
    /// that started with totals, tallies are summed up as by [`Merge`](Self::Merge).
    Latest,
}

/// Not a [`Policy`], or not a policy for a namespace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The policy's name is unknown.
    #[error("unknown slow-reader policy {0:?}: expected disconnect, skip, merge or latest")]
    UnknownName(String),
    /// There is no `=` between namespace and policy.
    #[error("expected NAMESPACE=POLICY, such as /eps=merge, found {0:?}")]
    NoPolicy(String),
    /// The namespace is not valid.
    #[error("{0:?} before '=': {1}")]
    Namespace(String, NamespaceError),
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match text {
            "disconnect" => Ok(Self::Disconnect),
            "skip" => Ok(Self::Skip),
            "merge" => Ok(Self::Merge),
            "latest" => Ok(Self::Latest),
            _ => Err(PolicyError::UnknownName(text.to_owned())),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Disconnect => "disconnect",
            Self::Skip => "skip",
            Self::Merge => "merge",
            Self::Latest => "latest",
        })
    }
}

/// The policy for the readers of a namespace and everything below it; written `/eps=merge`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespacePolicy {
    /// Where the policy applies, unless a longer namespace has another one.
    pub namespace: Namespace,
    /// The policy.
    pub policy: Policy,
}

impl FromStr for NamespacePolicy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (namespace, policy) = text.rsplit_once('=').ok_or_else(|| PolicyError::NoPolicy(text.to_owned()))?;
        let namespace = namespace.parse().map_err(|error| PolicyError::Namespace(namespace.to_owned(), error))?;
        Ok(Self { namespace, policy: policy.parse()? })
    }
}

impl fmt::Display for NamespacePolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.namespace, self.policy)
    }
}

/// The policy for readers of `topics`: for each topic the one of the longest namespace in `policies` that contains all of
/// it; the default policy if there is none, or if the topics disagree.
pub(crate) fn policy_of(policies: &[NamespacePolicy], topics: &Topics) -> Policy {
    let of = |topic: Topic| {
        let within = topic.literal_prefix();
        policies
            .iter()
            .filter(|entry| entry.namespace.contains(&within))
            .max_by_key(|entry| entry.namespace.segments().count())
            .map_or_else(Policy::default, |entry| entry.policy)
    };
    let mut all = topics.iter().map(of);
    let first = all.next().unwrap_or_default();
    if all.all(|policy| policy == first) { first } else { Policy::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_namespace_decides() {
        let policies: Vec<NamespacePolicy> =
            ["/=skip", "/eps=merge", "/eps/raw=disconnect"].iter().map(|text| text.parse().unwrap()).collect();
        let of = |texts: &str| {
            policy_of(&policies, &Topics::new(texts.split(',').map(|text| text.parse().unwrap()).collect()).unwrap())
        };
        assert_eq!(of("/details/26"), Policy::Skip);
        assert_eq!(of("/eps"), Policy::Merge);
        assert_eq!(of("/eps/other"), Policy::Merge);
        assert_eq!(of("/eps/raw"), Policy::Disconnect);
        assert_eq!(of("/eps/*"), Policy::Merge);
        assert_eq!(of("/details/26,/raw"), Policy::Skip);
        assert_eq!(of("/details/26,/eps"), Policy::Disconnect);
        assert_eq!(policy_of(&[], &Namespace::root().into()), Policy::Disconnect);
    }

    #[test]
    fn errors_name_value_and_expectation() {
        let error = |text: &str| text.parse::<NamespacePolicy>().unwrap_err().to_string();
        assert_eq!(error("/eps"), "expected NAMESPACE=POLICY, such as /eps=merge, found \"/eps\"");
        assert_eq!(
            error("/eps=drop"),
            "unknown slow-reader policy \"drop\": expected disconnect, skip, merge or latest"
        );
        assert_eq!(error("eps=skip"), "\"eps\" before '=': a namespace must start with '/'");
    }
}
