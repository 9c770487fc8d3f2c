//! Points in time in four bytes, for what every connection has.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A point in time, to the millisecond. Only for comparison with points less than 49 days away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(u32);

impl Moment {
    pub(crate) fn now() -> Self {
        Instant::now().into()
    }

    /// The time from `earlier` to this point; zero if it is not earlier.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        let milliseconds = self.0.wrapping_sub(earlier.0);
        // Further away than half of the range is before.
        Duration::from_millis(if milliseconds > u32::MAX / 2 { 0 } else { milliseconds.into() })
    }
}

impl From<Instant> for Moment {
    #[expect(clippy::cast_possible_truncation, reason = "it wraps around")]
    fn from(instant: Instant) -> Self {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Self(instant.saturating_duration_since(*START).as_millis() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_compared_across_the_end_of_their_range() {
        let moments = [Moment(u32::MAX - 9), Moment(0), Moment(90)];
        let since = |later: usize, earlier: usize| moments[later].since(moments[earlier]).as_millis();
        assert_eq!([since(1, 0), since(2, 0), since(0, 2), since(1, 1)], [10, 100, 0, 0]);
        let now = Instant::now();
        let two_seconds = Moment::from(now + Duration::from_secs(2)).since(now.into()).as_millis();
        assert!((1999..=2001).contains(&two_seconds), "{two_seconds}");
    }
}
