//! Updates at a given rate.

use std::num::NonZeroU32;

use async_stream::stream;
use governor::{Quota, RateLimiter};
use tokio_stream::Stream;

use crate::{Generator, Update};

/// The most updates a second that [`paced`] gives.
pub const MAX_RATE: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();

/// The most updates in one batch of [`paced`].
pub const MAX_BATCH: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

/// How many times a second [`paced`] waits at the most: no timer is finer than a millisecond everywhere.
const WAITS_PER_SECOND: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

/// What part of a second's updates is made up for after the consumer was busy; what it missed beyond that is not given.
const CATCH_UP: u32 = 10;

/// The updates of `generator`, `rate` a second, those that are due at the same time together.
///
/// The rate is a mean that is never exceeded (but for rounding to whole nanoseconds between two updates: up to 0.1 %). A
/// consumer that takes longer than the rate allows gets larger batches, up to [`MAX_BATCH`], and catches up on a tenth of a
/// second; after a longer stop the updates of that time are left out. A rate over [`MAX_RATE`] is taken as that. The stream
/// does not end. It is to be polled in a tokio runtime, to which it yields before each batch.
pub fn paced(mut generator: Generator, rate: NonZeroU32) -> impl Stream<Item = Vec<Update>> + Send {
    let rate = rate.min(MAX_RATE);
    let slice = slice(rate);
    let burst = slice.saturating_add(rate.get() / CATCH_UP);
    stream! {
        let limiter = RateLimiter::direct(Quota::per_second(rate).allow_burst(burst));
        let is_due = || limiter.check_n(slice).is_ok_and(|due| due.is_ok());
        // A new limiter would let a whole burst through: use it up.
        let _ = limiter.check_n(burst);
        loop {
            // When the consumer cannot keep up, nothing below ever waits, and other tasks need their turn.
            tokio::task::yield_now().await;
            // Fails only where the slice is larger than the burst.
            let _ = limiter.until_n_ready(slice).await;
            let mut due = slice.get();
            while due + slice.get() <= MAX_BATCH.get() && is_due() {
                due += slice.get();
            }
            yield generator.by_ref().take(due as usize).collect();
        }
    }
}

/// The updates to wait for at once: one where that is possible.
fn slice(rate: NonZeroU32) -> NonZeroU32 {
    rate.div_ceil(WAITS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use tokio_stream::StreamExt;

    use super::*;

    fn rate(rate: u32) -> NonZeroU32 {
        NonZeroU32::new(rate).unwrap()
    }

    /// `count` batches, taken by a consumer that is busy for `pause` with each, and the time from the first poll on.
    async fn batches(per_second: NonZeroU32, count: usize, pause: Duration) -> (Vec<Vec<Update>>, Duration) {
        let started = Instant::now();
        let mut stream = pin!(paced(Generator::new(7), per_second));
        let mut batches = Vec::new();
        while batches.len() < count {
            batches.push(stream.next().await.unwrap());
            tokio::time::sleep(pause).await;
        }
        (batches, started.elapsed())
    }

    /// None is left out, none comes twice, none comes early, and no batch is too large.
    async fn check(per_second: u32, count: usize, pause: Duration) {
        let (batches, elapsed) = batches(rate(per_second), count, pause).await;
        let (most, least) = (MAX_BATCH.get() as usize, slice(rate(per_second)).get() as usize);
        assert!(batches.iter().all(|batch| (least..=most).contains(&batch.len())));
        let given: Vec<Update> = batches.into_iter().flatten().collect();
        let allowed = elapsed.as_secs_f64() * f64::from(per_second) * 1.001;
        assert!(given.len() as f64 <= allowed, "{} given, {allowed} allowed", given.len());
        assert_eq!(given, Generator::new(7).take(given.len()).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn each_update_comes_once_and_none_early() {
        check(400, 40, Duration::ZERO).await;
        check(50_000, 100, Duration::ZERO).await;
        check(MAX_RATE.get(), 5, Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_slow_consumer_gets_larger_batches() {
        check(10_000, 5, Duration::from_millis(20)).await;
        let (batches, _) = batches(rate(10_000), 3, Duration::from_millis(50)).await;
        assert!(batches[1].len() > slice(rate(10_000)).get() as usize, "{}", batches[1].len());
    }

    #[tokio::test]
    async fn a_rate_over_the_most_is_the_most() {
        let (batches, _) = batches(NonZeroU32::MAX, 3, Duration::ZERO).await;
        assert!(batches.iter().all(|batch| batch.len() == MAX_BATCH.get() as usize));
    }

    #[tokio::test]
    async fn other_tasks_get_their_turn() {
        let other = tokio::spawn(async {});
        let mut stream = pin!(paced(Generator::new(7), MAX_RATE));
        // Slower than the rate: the stream never has to wait.
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(2));
            stream.next().await;
        }
        assert!(other.is_finished());
    }

    proptest! {
        #[test]
        fn slices_are_small_and_not_too_many(per_second in 1..=MAX_RATE.get()) {
            let slice = slice(rate(per_second)).get();
            prop_assert!((1..=MAX_BATCH.get()).contains(&slice));
            prop_assert!(per_second / slice <= WAITS_PER_SECOND.get());
            // One update at a time wherever the timer allows it.
            prop_assert!(slice == 1 || per_second > WAITS_PER_SECOND.get());
        }
    }
}
