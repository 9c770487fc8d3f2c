//! Rate-limited items of a generator.

use std::num::NonZeroU32;

use async_stream::stream;
use governor::{Quota, RateLimiter};
use tokio_stream::Stream;

/// The highest rate of [`paced`], in items per second.
pub const MAX_RATE: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();

/// The largest batch of [`paced`], in items.
pub const MAX_BATCH: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

/// The maximum number of timer waits per second: timers are not finer than a millisecond on every platform.
const WAITS_PER_SECOND: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

/// The fraction of a second (1/10) that a slow consumer can catch up on. Older items are skipped.
const CATCH_UP: u32 = 10;

/// A stream of batches of items from `generator`, which never ends, `rate` items per second.
///
/// The mean rate is never exceeded, except by up to 0.1 % from rounding to nanoseconds. A slow consumer gets larger
/// batches, up to [`MAX_BATCH`], and catches up on a tenth of a second; items of longer pauses are skipped. Rates above
/// [`MAX_RATE`] are reduced to it. The stream never ends. It must be polled in a tokio runtime, to which it yields before
/// each batch.
pub fn paced<G>(mut generator: G, rate: NonZeroU32) -> impl Stream<Item = Vec<G::Item>> + Send
where
    G: Iterator<Item: Send> + Send,
{
    let rate = rate.min(MAX_RATE);
    let step = step(rate);
    let burst = step.saturating_add(rate.get() / CATCH_UP);
    stream! {
        let limiter = RateLimiter::direct(Quota::per_second(rate).allow_burst(burst));
        let is_due = || limiter.check_n(step).is_ok_and(|due| due.is_ok());
        // A new limiter allows a full burst at once: use it up.
        let _ = limiter.check_n(burst);
        loop {
            // With a slow consumer nothing below ever waits; let other tasks run.
            tokio::task::yield_now().await;
            // Fails only if the step is larger than the burst.
            let _ = limiter.until_n_ready(step).await;
            let mut due = step.get();
            while due + step.get() <= MAX_BATCH.get() && is_due() {
                due += step.get();
            }
            yield generator.by_ref().take(due as usize).collect();
        }
    }
}

/// The number of items per timer wait: one if the rate allows it.
fn step(rate: NonZeroU32) -> NonZeroU32 {
    rate.div_ceil(WAITS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use tokio_stream::StreamExt;

    use super::*;
    use crate::{Generator, Update};

    fn rate(rate: u32) -> NonZeroU32 {
        NonZeroU32::new(rate).unwrap()
    }

    /// Takes `count` batches with a `pause` after each, and returns them with the elapsed time.
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

    /// Asserts that no update is missing, duplicated or early, and that batch sizes are within bounds.
    async fn check(per_second: u32, count: usize, pause: Duration) {
        let (batches, elapsed) = batches(rate(per_second), count, pause).await;
        let (most, least) = (MAX_BATCH.get() as usize, step(rate(per_second)).get() as usize);
        assert!(batches.iter().all(|batch| (least..=most).contains(&batch.len())));
        let updates: Vec<Update> = batches.into_iter().flatten().collect();
        let allowed = elapsed.as_secs_f64() * f64::from(per_second) * 1.001;
        assert!(updates.len() as f64 <= allowed, "{} updates, {allowed} allowed", updates.len());
        assert_eq!(updates, Generator::new(7).take(updates.len()).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn updates_are_complete_and_not_early() {
        check(400, 40, Duration::ZERO).await;
        check(50_000, 100, Duration::ZERO).await;
        check(MAX_RATE.get(), 5, Duration::ZERO).await;
    }

    #[tokio::test]
    async fn slow_consumer_gets_larger_batches() {
        check(10_000, 5, Duration::from_millis(20)).await;
        let (batches, _) = batches(rate(10_000), 3, Duration::from_millis(50)).await;
        assert!(batches[1].len() > step(rate(10_000)).get() as usize, "{}", batches[1].len());
    }

    #[tokio::test]
    async fn rate_is_capped() {
        let (batches, _) = batches(NonZeroU32::MAX, 3, Duration::ZERO).await;
        assert!(batches.iter().all(|batch| batch.len() == MAX_BATCH.get() as usize));
    }

    #[tokio::test]
    async fn stream_yields_to_other_tasks() {
        let other = tokio::spawn(async {});
        let mut stream = pin!(paced(Generator::new(7), MAX_RATE));
        // Slower than the rate, so that the stream never waits.
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(2));
            stream.next().await;
        }
        assert!(other.is_finished());
    }

    proptest! {
        #[test]
        fn steps_are_small_and_within_the_timer_rate(per_second in 1..=MAX_RATE.get()) {
            let step = step(rate(per_second)).get();
            prop_assert!((1..=MAX_BATCH.get()).contains(&step));
            prop_assert!(per_second / step <= WAITS_PER_SECOND.get());
            // One update at a time if the timer allows it.
            prop_assert!(step == 1 || per_second > WAITS_PER_SECOND.get());
        }
    }
}
