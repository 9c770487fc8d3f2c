//! The header `traceparent` (W3C Trace Context), by which a sender makes its trace continue here.

/// A span of another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The id of its trace.
    pub trace_id: u128,
    /// Its own id.
    pub span_id: u64,
}

impl TraceParent {
    /// The span that a `traceparent` names, if its trace is sampled. `None` for anything that the specification does not allow.
    pub fn sampled(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut fields = text.split('-');
        let (version, trace_id, span_id, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let has_more = fields.next().is_some();
        let version = hex(version, 2)?;
        // A later version may have more fields.
        if version == 0xff || version == 0 && has_more {
            return None;
        }
        let (trace_id, span_id) = (hex(trace_id, 32)?, u64::try_from(hex(span_id, 16)?).ok()?);
        let is_sampled = hex(flags, 2)? & 1 == 1;
        (trace_id != 0 && span_id != 0 && is_sampled).then_some(Self { trace_id, span_id })
    }
}

/// A number of `digits` digits, which are lower case.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == digits && text.bytes().all(is_hex)).then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_and_sampled_parents_are_continued() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent =
            TraceParent { trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, span_id: 0x00f0_67aa_0ba9_02b7 };
        for (text, expected) in [
            (valid.to_owned(), Some(parent)),
            (valid.replace("00-4b", "cc-4b") + "-more", Some(parent)),
            (valid.replace("-01", "-00"), None),
            (valid.to_owned() + "-more", None),
            (valid.replace("00-4b", "ff-4b"), None),
            (valid.to_uppercase(), None),
            (valid.replace("4bf9", "+bf9"), None),
            (valid.replace("00f067aa0ba902b7", "0000000000000000"), None),
            (valid.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0"), None),
            (String::new(), None),
        ] {
            assert_eq!(TraceParent::sampled(text.as_bytes()), expected, "{text}");
        }
    }
}
