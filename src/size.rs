//! Sizes in bytes, with or without a unit.
//!
//! Small enough to need no crate, and stricter than those there are: a fraction, an overflow or a unit that could mean two
//! things (`4M`) is an error, and what is shown is exactly the value.

use std::fmt;
use std::str::FromStr;

/// Units, longest first. The decimal ones are never shown.
const UNITS: [(&str, usize); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];
/// How many of these are shown.
const SHOWN: usize = 3;

/// A number of bytes. Written as `65536`, `64KiB`, `4MiB`, `1GiB` or, decimal, `64kB`, `4MB`, `1GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) usize);

/// A text is not a [`Size`], or a size is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    #[error("expected bytes, such as 65536 or 64KiB")]
    Malformed,
    #[error("expected bytes, such as 65536 or 64KiB; at least {0}")]
    TooSmall(Size),
    #[error("expected bytes, such as 65536 or 64KiB; at most {0}")]
    TooLarge(Size),
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
        let unit = &text[digits.len()..];
        let factor = match unit {
            "" => Some(1),
            unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|&(_, factor)| factor),
        };
        // A sign is refused, which `parse` would take.
        let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<usize>().ok()).flatten();
        let bytes = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        bytes.map(Self).ok_or(SizeError::Malformed)
    }
}

impl fmt::Display for Size {
    /// In the largest unit that needs no fraction.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS[..SHOWN].iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match unit {
            Some((name, factor)) => write!(formatter, "{}{name}", self.0 / factor),
            None => write!(formatter, "{}", self.0),
        }
    }
}

/// A parser of sizes of at least `minimum` bytes.
pub(crate) fn at_least(minimum: usize) -> impl Fn(&str) -> Result<Size, SizeError> + Clone + Send + Sync + 'static {
    move |text| {
        let size: Size = text.parse()?;
        if size.0 < minimum { Err(SizeError::TooSmall(Size(minimum))) } else { Ok(size) }
    }
}

/// A parser of sizes of at least `minimum` and at most `maximum` bytes.
pub(crate) fn between(
    minimum: usize,
    maximum: usize,
) -> impl Fn(&str) -> Result<Size, SizeError> + Clone + Send + Sync + 'static {
    move |text| at_least(minimum)(text).and_then(|_| at_most(maximum)(text))
}

/// A parser of sizes of at most `maximum` bytes.
pub(crate) fn at_most(maximum: usize) -> impl Fn(&str) -> Result<Size, SizeError> + Clone + Send + Sync + 'static {
    move |text| {
        let size: Size = text.parse()?;
        if size.0 > maximum { Err(SizeError::TooLarge(Size(maximum))) } else { Ok(size) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_optional() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65_536),
            ("512B", 512),
            ("64KiB", 65_536),
            ("64kib", 65_536),
            ("4MiB", 4 << 20),
            ("1GiB", 1 << 30),
            ("64kB", 64_000),
            ("64KB", 64_000),
            ("4MB", 4_000_000),
            ("2GB", 2_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn other_texts_are_invalid() {
        for text in [
            "",
            "KiB",
            "-1",
            "+1",
            "1.5MiB",
            "4M",
            "4 MiB",
            "0x10",
            "1e6",
            "64KiB64",
            "ten",
            "64K",
            "1TiB",
            "٣KiB",
            "99999999999999999999",
            "99999999999999GiB",
        ] {
            assert_eq!(text.parse::<Size>(), Err(SizeError::Malformed), "{text}");
        }
    }

    #[test]
    fn bounds_are_named() {
        assert_eq!(
            at_least(8192)("100").unwrap_err().to_string(),
            "expected bytes, such as 65536 or 64KiB; at least 8KiB"
        );
        assert_eq!(at_least(1)("0").unwrap_err(), SizeError::TooSmall(Size(1)));
        assert_eq!(
            at_most(1 << 30)("4GiB").unwrap_err().to_string(),
            "expected bytes, such as 65536 or 64KiB; at most 1GiB"
        );
    }

    proptest! {
        #[test]
        fn size_survives_being_shown(bytes: usize) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }

        #[test]
        fn any_text_is_parsed_or_invalid(text in "\\PC*") {
            let _ = text.parse::<Size>();
        }
    }
}
