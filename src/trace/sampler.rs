//! Which events are traced.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, Ordering};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use uuid::Uuid;

/// Traces that begin in a second, at most, whatever is sampled and whatever senders ask for.
const MAX_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);

/// Picks one of so many events, at random distances: at equal ones it could pick the same kind of event each time.
#[derive(Debug)]
pub(super) struct Sampler {
    one_in: NonZeroU32,
    /// Events until the next one, that one included.
    left: AtomicI64,
    budget: DefaultDirectRateLimiter,
}

impl Sampler {
    pub(super) fn new(one_in: NonZeroU32) -> Self {
        let sampler =
            Self { one_in, left: AtomicI64::new(0), budget: RateLimiter::direct(Quota::per_second(MAX_PER_SECOND)) };
        sampler.left.store(sampler.distance(), Ordering::Relaxed);
        sampler
    }

    /// Whether this event is the next one.
    pub(super) fn is_next(&self) -> bool {
        // Only one caller finds the 1; meanwhile others count below zero.
        let is_next = self.left.fetch_sub(1, Ordering::Relaxed) == 1;
        if is_next {
            self.left.store(self.distance(), Ordering::Relaxed);
        }
        is_next
    }

    /// Whether one more may begin now.
    pub(super) fn has_budget(&self) -> bool {
        self.budget.check().is_ok()
    }

    /// A random distance, on average as many events as are to be picked from.
    fn distance(&self) -> i64 {
        let range = u128::from(self.one_in.get()) * 2 - 1;
        i64::try_from(Uuid::new_v4().as_u128() % range).unwrap_or_default() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_so_many_is_picked_at_random_distances() {
        let sampler = Sampler::new(NonZeroU32::new(10).unwrap());
        let picked: Vec<bool> = (0..100_000).map(|_| sampler.is_next()).collect();
        let count = picked.iter().filter(|picked| **picked).count();
        assert!((9_000..11_000).contains(&count), "{count}");
        // Of events that alternate, both kinds are.
        let even = picked.iter().step_by(2).filter(|picked| **picked).count();
        assert!((count / 3..count * 2 / 3).contains(&even), "{even} of {count}");
        let all = Sampler::new(NonZeroU32::MIN);
        assert!((0..100).all(|_| all.is_next()));
    }

    #[test]
    fn budget_bounds_what_begins_at_once() {
        let sampler = Sampler::new(NonZeroU32::MIN);
        let begun = (0..10_000).filter(|_| sampler.has_budget()).count();
        assert!((100..10_000).contains(&begun), "{begun}");
    }
}
