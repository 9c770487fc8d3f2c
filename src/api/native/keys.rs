//! The keys of those who may publish, and how much each may.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use headers::HeaderMapExt;
use headers::authorization::{Authorization, Bearer};
use subtle::ConstantTimeEq;

use super::PublishError;
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

    /// The key of a request.
    pub(super) fn of(&self, headers: &HeaderMap) -> Result<PublishKey, PublishError> {
        if self.0.is_empty() {
            return Err(PublishError::Off);
        }
        let bearer = headers.typed_get::<Authorization<Bearer>>().ok_or(PublishError::Unauthorized)?;
        // All are compared, in constant time: the duration reveals nothing about a key but its length.
        let candidate = bearer.token().as_bytes();
        let found = self.0.iter().fold(None, |found, key| {
            if key.secret.expose().as_bytes().ct_eq(candidate).into() { Some(key) } else { found }
        });
        found.cloned().ok_or(PublishError::Unauthorized)
    }
}

impl PublishKey {
    /// Takes `messages`, at least one, from what may be published now.
    pub(super) fn take(&self, messages: usize) -> Result<(), PublishError> {
        let count = u32::try_from(messages).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        let error = match self.limiter.check_n(count) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(not_until)) => {
                let wait: Duration = not_until.wait_time_from(DefaultClock::default().now());
                PublishError::TooMany(wait.as_secs() + 1)
            }
            Err(_) => {
                let rate = self.rate;
                PublishError::TooLarge(format!(
                    "{messages} messages; a key may publish {rate} at once (--publish-rate)"
                ))
            }
        };
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header::{AUTHORIZATION, HeaderValue};

    use super::*;

    fn keys(rate: u32) -> PublishKeys {
        PublishKeys::new(["first", "second"].map(Secret::new), NonZeroU32::new(rate).unwrap())
    }

    fn key(value: &str) -> Result<String, PublishError> {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
        keys(1).of(&headers).map(|key| key.secret.expose().to_owned())
    }

    #[test]
    fn every_key_is_accepted_and_nothing_else() {
        assert_eq!((key("Bearer first").as_deref(), key("bearer second").as_deref()), (Ok("first"), Ok("second")));
        for other in ["Bearer", "Bearer firs", "Bearer first2", "Basic first", "first", "Bearer ***"] {
            assert_eq!(key(other), Err(PublishError::Unauthorized), "{other}");
        }
        assert_eq!(keys(1).of(&HeaderMap::new()).unwrap_err(), PublishError::Unauthorized);
        assert_eq!(PublishKeys::default().of(&HeaderMap::new()).unwrap_err(), PublishError::Off);
    }

    #[test]
    fn each_key_has_a_rate_of_its_own() {
        let keys = keys(10);
        let of = |name: &str| keys.0.iter().find(|key| key.secret.expose() == name).unwrap();
        assert_eq!((of("first").take(10), of("second").take(10)), (Ok(()), Ok(())));
        assert!(matches!(of("first").take(10), Err(PublishError::TooMany(1 | 2))));
        let error = of("second").take(11).unwrap_err().to_string();
        assert_eq!(error, "11 messages; a key may publish 10 at once (--publish-rate)");
    }
}
