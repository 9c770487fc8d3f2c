//! How much each subject may do: rates by keys that clients choose within what their tokens allow, so their number is bounded.

use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// The subjects whose rates are known at the same time.
const MAX_SUBJECTS: usize = 100_000;
/// The time between two sweeps, each of which visits all subjects.
const SWEEP: Duration = Duration::from_secs(10);

/// Too much at once, or too much in a short time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateError {
    /// More than may be done at once.
    Burst(NonZeroU32),
    /// Seconds until it may be done.
    Wait(u64),
}

/// A rate for each subject.
#[derive(Debug)]
pub struct SubjectRates {
    rate: NonZeroU32,
    limiter: DefaultKeyedRateLimiter<u64>,
    hasher: RandomState,
    swept: Mutex<Instant>,
}

impl SubjectRates {
    /// `rate` per second for each subject, and as much at once.
    pub fn new(rate: NonZeroU32) -> Self {
        let limiter = RateLimiter::hashmap(Quota::per_second(rate));
        Self { rate, limiter, hasher: RandomState::new(), swept: Mutex::new(Instant::now()) }
    }

    /// What each subject may do per second.
    pub fn rate(&self) -> NonZeroU32 {
        self.rate
    }

    /// The key of a subject.
    pub fn key(&self, subject: impl Hash) -> u64 {
        self.hasher.hash_one(subject)
    }

    /// Takes `count`, at least one, from what the subject with this [`key`](Self::key) may do now.
    ///
    /// # Errors
    /// When it is too much, or there are too many subjects.
    pub fn take(&self, subject: u64, count: usize) -> Result<(), RateError> {
        self.sweep();
        if self.limiter.len() >= MAX_SUBJECTS {
            return Err(RateError::Wait(SWEEP.as_secs()));
        }
        let count = u32::try_from(count)
            .ok()
            .map_or(NonZeroU32::MAX, |count| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN));
        match self.limiter.check_key_n(&subject, count) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                Err(RateError::Wait(not_until.wait_time_from(DefaultClock::default().now()).as_secs() + 1))
            }
            Err(_) => Err(RateError::Burst(self.rate)),
        }
    }

    fn sweep(&self) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.elapsed() >= SWEEP {
            *swept = Instant::now();
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subject_has_a_rate_of_its_own() {
        let rates = SubjectRates::new(NonZeroU32::new(10).unwrap());
        assert_eq!((rates.take(1, 10), rates.take(2, 10)), (Ok(()), Ok(())));
        assert!(matches!(rates.take(1, 10), Err(RateError::Wait(1 | 2))));
        assert_eq!(rates.take(3, 11), Err(RateError::Burst(rates.rate())));
    }

    #[test]
    fn number_of_subjects_is_bounded() {
        let rates = SubjectRates::new(NonZeroU32::MIN);
        for subject in 0..MAX_SUBJECTS {
            rates.take(subject as u64, 1).unwrap();
        }
        assert_eq!(rates.take(u64::MAX, 1), Err(RateError::Wait(SWEEP.as_secs())));
    }
}
