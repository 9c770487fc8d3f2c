//! When each message or change of a run is due, at an even rate.

use std::time::Duration;

/// The shortest time between two batches: at 5,000 per second each batch has five.
pub(super) const BATCH_PERIOD: Duration = Duration::from_millis(1);

/// How much longer than planned a schedule may take. What is due after that is skipped.
const OVERRUN_LIMIT: Duration = Duration::from_secs(5);

/// An even rate for a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Number per second.
    pub(super) rate: u32,
    pub(super) duration: Duration,
}

impl Schedule {
    /// The total number.
    pub(super) fn total(&self) -> u64 {
        u64::from(self.rate) * self.duration.as_secs()
    }

    /// The time at which `number` is due. The first one is 0, and due at the start.
    pub(super) fn due(&self, number: u64) -> Duration {
        Duration::from_nanos(number * 1_000_000_000 / u64::from(self.rate))
    }

    /// How many are due `elapsed` after the start.
    pub(super) fn due_count(&self, elapsed: Duration) -> u64 {
        let whole = elapsed.as_nanos() * u128::from(self.rate) / 1_000_000_000;
        u64::try_from(whole).map_or(u64::MAX, |whole| whole + 1).min(self.total())
    }

    /// Whether `elapsed` after the start no more may be sent, with `sent` so far.
    pub(super) fn is_over(&self, sent: u64, elapsed: Duration) -> bool {
        sent >= self.total() || elapsed >= self.duration + OVERRUN_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn due_count_includes_a_message_from_its_due_time(rate in 1..2_000_000_u32, seconds in 1..1_000_u64, part in 0.0..1.0_f64) {
            let schedule = Schedule { rate, duration: Duration::from_secs(seconds) };
            let number = ((schedule.total() - 1) as f64 * part) as u64;
            let due = schedule.due(number);
            // Due times are rounded down to nanoseconds.
            prop_assert!(schedule.due_count(due + Duration::from_nanos(1)) > number);
            prop_assert!(schedule.due_count(due.saturating_sub(Duration::from_nanos(1))) <= number.max(1));
            prop_assert_eq!(schedule.due_count(schedule.duration * 2), schedule.total());
        }
    }

    #[test]
    fn schedule_is_over_when_everything_is_sent_or_too_late() {
        let schedule = Schedule { rate: 10, duration: Duration::from_secs(2) };
        assert!(!schedule.is_over(19, Duration::from_secs(3)));
        assert!(schedule.is_over(20, Duration::from_secs(1)));
        assert!(schedule.is_over(19, Duration::from_secs(7)));
    }
}
