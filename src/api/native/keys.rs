//! The keys of those who may publish, and how much each may.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use subtle::ConstantTimeEq;

use crate::api::refusal::Refusal;
use crate::auth::RateError;
use crate::config::Secret;

/// A key, with what its publishers have used of its rate.
#[derive(Debug, Clone)]
pub struct PublishKey {
    secret: Secret,
    limiter: Arc<DefaultDirectRateLimiter>,
    rate: NonZeroU32,
}

/// All keys. Without one, nothing can be published.
#[derive(Debug, Clone, Default)]
pub struct PublishKeys(Vec<PublishKey>);

impl PublishKeys {
    /// Keys that may publish `rate` messages per second each, and as many at once.
    pub fn new(secrets: impl IntoIterator<Item = Secret>, rate: NonZeroU32) -> Self {
        let key = |secret| {
            let limiter = Arc::new(RateLimiter::direct(Quota::per_second(rate)));
            PublishKey { secret, limiter, rate }
        };
        Self(secrets.into_iter().map(key).collect())
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key with this secret.
    pub(super) fn find(&self, candidate: &str) -> Option<PublishKey> {
        // All are compared, in constant time: the duration reveals nothing about a key but its length.
        let found = self.0.iter().fold(None, |found, key| {
            if key.secret.expose().as_bytes().ct_eq(candidate.as_bytes()).into() { Some(key) } else { found }
        });
        found.cloned()
    }
}

impl PublishKey {
    /// Takes `messages`, at least one, from what may be published now.
    pub(super) fn take(&self, messages: usize) -> Result<(), Refusal> {
        let count = u32::try_from(messages).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        let error = match self.limiter.check_n(count) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(not_until)) => {
                let wait: Duration = not_until.wait_time_from(DefaultClock::default().now());
                RateError::Wait(wait.as_secs() + 1)
            }
            Err(_) => RateError::Burst(self.rate),
        };
        Err(Refusal::of_rate(error, messages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(rate: u32) -> PublishKeys {
        PublishKeys::new(["first", "second"].map(Secret::new), NonZeroU32::new(rate).unwrap())
    }

    #[test]
    fn every_key_is_accepted_and_nothing_else() {
        let key = |candidate: &str| keys(1).find(candidate).map(|key| key.secret.expose().to_owned());
        assert_eq!((key("first").as_deref(), key("second").as_deref()), (Some("first"), Some("second")));
        for other in ["", "firs", "first2", "***"] {
            assert_eq!(key(other), None, "{other}");
        }
    }

    #[test]
    fn each_key_has_a_rate_of_its_own() {
        let keys = keys(10);
        let of = |name: &str| keys.0.iter().find(|key| key.secret.expose() == name).unwrap();
        assert_eq!((of("first").take(10), of("second").take(10)), (Ok(()), Ok(())));
        assert!(matches!(of("first").take(10), Err(Refusal::TooMany(1 | 2))));
        let error = of("second").take(11).unwrap_err().to_string();
        assert_eq!(error, "11 messages; at most 10 may be published at once (--publish-rate)");
    }
}
