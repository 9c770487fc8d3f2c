//! The mark at the start of every published payload, by which a reader knows which message it got and how old it is.
//!
//! `00000042 0000001234567890` and then filler: the sequence number in 8 digits, the publish time in 16 digits of
//! nanoseconds since an epoch that publisher and readers share (they are threads of one process).

use std::{
    io::{self, Write},
    time::Duration,
};

/// Length of a stamp, and so of the shortest payload, in bytes.
pub(super) const STAMP_BYTES: usize = SEQUENCE_DIGITS + 1 + TIME_DIGITS;

/// The most messages one run can number.
pub(super) const MAX_MESSAGES: u64 = 10_u64.pow(SEQUENCE_DIGITS as u32);

const SEQUENCE_DIGITS: usize = 8;
const TIME_DIGITS: usize = 16;

/// Which message, and when it was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// 0 for the first message of a run.
    pub(super) sequence: u64,
    /// Since the epoch of the run.
    pub(super) published: Duration,
}

impl Stamp {
    /// Appends a payload of `bytes` bytes (at least [`STAMP_BYTES`]) that begins with this stamp.
    pub(super) fn write_payload(self, bytes: usize, payload: &mut Vec<u8>) -> io::Result<()> {
        let start = payload.len();
        write!(payload, "{:0SEQUENCE_DIGITS$} {:0TIME_DIGITS$}", self.sequence, self.published.as_nanos())?;
        // Letters that compress no better than text does.
        let mut state = self.sequence;
        payload.resize_with(start + bytes, || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b'a' + (state >> 60) as u8
        });
        Ok(())
    }

    /// Reads the stamp that `payload` begins with; `None` when it begins with something else.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let (sequence, rest) = payload.split_at_checked(SEQUENCE_DIGITS)?;
        let (space, rest) = rest.split_first()?;
        let time = rest.get(..TIME_DIGITS)?;
        if *space != b' ' {
            return None;
        }
        Some(Self { sequence: parse_digits(sequence)?, published: Duration::from_nanos(parse_digits(time)?) })
    }
}

/// The value of up to 19 decimal digits.
fn parse_digits(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| value * 10 + u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_payload_gives_its_stamp_back(
            sequence in 0..MAX_MESSAGES,
            nanos in 0..10_u64.pow(TIME_DIGITS as u32),
            bytes in STAMP_BYTES..300,
        ) {
            let stamp = Stamp { sequence, published: Duration::from_nanos(nanos) };
            let mut payload = Vec::new();
            stamp.write_payload(bytes, &mut payload)?;
            prop_assert_eq!(payload.len(), bytes);
            prop_assert_eq!(Stamp::parse(&payload), Some(stamp));
        }
    }

    #[test]
    fn what_is_no_stamp_is_none() {
        for payload in [
            "",
            "00000042",
            "00000042 000000123456789",
            "0000004x 0000001234567890",
            "00000042:0000001234567890",
            "1F600",
        ] {
            assert_eq!(Stamp::parse(payload.as_bytes()), None, "{payload:?}");
        }
    }
}
