//! The stamp at the start of every payload: sequence number and publish time.
//!
//! Format: `00000042 0000001234567890` followed by filler. The sequence number has 8 digits, the publish time 16 digits of
//! nanoseconds since an epoch that publisher and readers share (they are threads of one process).

use std::{
    io::{self, Write},
    time::Duration,
};

/// The length of a stamp, and thus of the shortest payload, in bytes.
pub(crate) const STAMP_BYTES: usize = SEQUENCE_DIGITS + 1 + TIME_DIGITS;

/// The maximum number of messages per run.
pub(crate) const MAX_MESSAGES: u64 = 10_u64.pow(SEQUENCE_DIGITS as u32);

const SEQUENCE_DIGITS: usize = 8;
const TIME_DIGITS: usize = 16;

/// The sequence number and publish time of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// 0 for the first message of a run.
    pub(crate) sequence: u64,
    /// Publish time since the epoch of the run.
    pub(crate) published: Duration,
}

impl Stamp {
    /// Appends a payload of `bytes` bytes (at least [`STAMP_BYTES`]) that starts with this stamp.
    pub(crate) fn write_payload(self, bytes: usize, payload: &mut Vec<u8>) -> io::Result<()> {
        let start = payload.len();
        write!(payload, "{:0SEQUENCE_DIGITS$} {:0TIME_DIGITS$}", self.sequence, self.published.as_nanos())?;
        // Filler that does not compress better than text.
        let mut state = self.sequence;
        payload.resize_with(start + bytes, || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b'a' + (state >> 60) as u8
        });
        Ok(())
    }

    /// Parses the stamp at the start of `payload`.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let (sequence, rest) = payload.split_at_checked(SEQUENCE_DIGITS)?;
        let (space, rest) = rest.split_first()?;
        let time = rest.get(..TIME_DIGITS)?;
        if *space != b' ' {
            return None;
        }
        Some(Self { sequence: parse_digits(sequence)?, published: Duration::from_nanos(parse_digits(time)?) })
    }
}

/// Parses up to 19 decimal digits.
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
        fn payload_stamp_round_trips(
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
    fn invalid_stamps_are_rejected() {
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
