//! Rates: how many batches in a time a reader wants at most.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// The most batches that a reader wants in a time: at most [`MAX_COUNT`](Self::MAX_COUNT) a second, minute or hour, written `2/s`,
/// `30/min` or `10/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rate {
    /// Rounded up, so that the rate is not exceeded.
    period_milliseconds: NonZeroU32,
}

/// The text is not a [`Rate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a number from 1 to {} and a time, such as 2/s, 30/min or 10/h", Rate::MAX_COUNT)]
pub struct RateError;

impl Rate {
    /// The highest number in a rate.
    pub const MAX_COUNT: u32 = 1000;

    /// `count` batches in `time`.
    ///
    /// # Errors
    /// When `count` is zero, or `time` is longer than an hour, or less than a millisecond for each batch.
    pub fn new(count: u32, time: Duration) -> Result<Self, RateError> {
        let longest = Duration::from_secs(3600);
        let milliseconds = u32::try_from(time.min(longest).as_millis()).unwrap_or(u32::MAX);
        if count == 0 || time > longest || count > milliseconds {
            return Err(RateError);
        }
        let period_milliseconds = NonZeroU32::new(milliseconds.div_ceil(count)).ok_or(RateError)?;
        Ok(Self { period_milliseconds })
    }

    /// The time from one batch to the next.
    pub fn period(self) -> Duration {
        Duration::from_millis(self.period_milliseconds.get().into())
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (count, unit) = text.split_once('/').ok_or(RateError)?;
        let seconds = match unit {
            "s" => 1,
            "min" => 60,
            "h" => 3600,
            _ => return Err(RateError),
        };
        let is_number = count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|count| is_number && *count <= Self::MAX_COUNT).ok_or(RateError)?;
        Self::new(count, Duration::from_secs(seconds))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "1 in {:?}", self.period())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_never_exceeded() {
        let period = |text: &str| text.parse::<Rate>().map(|rate| rate.period().as_millis());
        assert_eq!(
            ["2/s", "3/s", "1000/s", "30/min", "1/min", "1/h"].map(period),
            [500, 334, 1, 2000, 60_000, 3_600_000].map(Ok)
        );
        for text in [
            "",
            "2",
            "/s",
            "0/s",
            "1001/s",
            "-1/s",
            "+1/s",
            "1.5/s",
            "2/",
            "2/m",
            "2/S",
            "2/s/s",
            " 2/s",
            "99999999999/s",
        ] {
            assert_eq!(period(text), Err(RateError), "{text}");
        }
        assert_eq!(Rate::new(2000, Duration::from_secs(1)), Err(RateError));
        assert_eq!(Rate::new(1, Duration::from_secs(3601)), Err(RateError));
        assert_eq!("3/s".parse::<Rate>().unwrap().to_string(), "1 in 334ms");
    }
}
