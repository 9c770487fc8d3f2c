//! The query of a request for a stream: the parameters that are known, and names that are nearly theirs.

use std::borrow::Cow;

use tallycast_fanout::{Rate, RateError};

/// Names a topic. Repeatable.
pub(crate) const TOPIC: &str = "topic";
/// Asks for a snapshot of the totals: `1` or `0`.
pub(crate) const SNAPSHOT: &str = "snapshot";
/// Asks for each message in an envelope: `1` or `0`.
pub(crate) const ENVELOPE: &str = "envelope";
/// Asks for heartbeats and notes of skipped messages as events: `1` or `0`.
pub(crate) const NOTICES: &str = "notices";
/// Asks for everything that another server needs to send the same messages: `1` or `0`.
pub(crate) const RELAY: &str = "relay";
/// Asks for at most so many batches in a time, such as `2/s`.
pub(crate) const MAX_RATE: &str = "max-rate";

/// A parameter whose name is nearly a known one. Ignoring it would send the client something that it did not ask for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad query: unknown parameter {found:?}; did you mean {known}?")]
pub(crate) struct NearMiss {
    found: String,
    known: &'static str,
}

/// Looks for near misses. Other unknown parameters are allowed: proxies and caches add theirs.
pub(crate) fn check_names(query: &str) -> Result<(), NearMiss> {
    for (name, _) in form_urlencoded::parse(query.as_bytes()) {
        if let Some(known) =
            [TOPIC, SNAPSHOT, ENVELOPE, NOTICES, MAX_RATE].into_iter().find(|known| is_near(&name, known))
        {
            return Err(NearMiss { found: name.into_owned(), known });
        }
    }
    Ok(())
}

/// Reads a parameter that is `1` or `0`; 0 without it.
pub(crate) fn flag(query: &str, name: &str) -> Result<bool, String> {
    match value(query, name).as_deref() {
        None | Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(other) => Err(format!("bad query: {name}={}; expected {name}=1 or {name}=0\n", one_line(other))),
    }
}

/// Reads [`MAX_RATE`].
pub(crate) fn max_rate(query: &str) -> Result<Option<Rate>, String> {
    let Some(value) = value(query, MAX_RATE) else { return Ok(None) };
    let error = |error: RateError| format!("bad query: {MAX_RATE}={}; {error}\n", one_line(&value));
    value.parse().map(Some).map_err(error)
}

/// The first value of a parameter, decoded.
pub(crate) fn value<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    form_urlencoded::parse(query.as_bytes()).find(|(found, _)| found == name).map(|(_, value)| value)
}

/// A decoded value as part of a response of one line, without the control characters that it may have.
pub(crate) fn one_line(value: &str) -> String {
    value.replace(char::is_control, "\u{fffd}")
}

/// Whether `name` is not `known`, but would be in another case, without the `[]` that some libraries append to the names of
/// lists, or with one character added, removed, replaced or swapped with the next.
fn is_near(name: &str, known: &str) -> bool {
    if name == known {
        return false;
    }
    let name = name.strip_suffix("[]").unwrap_or(name);
    if name.len().abs_diff(known.len()) > 1 {
        return false;
    }
    let (name, known) = (name.to_ascii_lowercase().into_bytes(), known.as_bytes());
    let same = name.iter().zip(known).take_while(|(ours, theirs)| ours == theirs).count();
    match (&name[same..], &known[same..]) {
        // At most one character is left: see above.
        ([], _) | (_, []) => true,
        (ours @ [_, ours_after @ ..], theirs @ [_, theirs_after @ ..]) => {
            let swapped = || match (ours, theirs) {
                ([a, b, ours @ ..], [c, d, theirs @ ..]) => (a, b) == (d, c) && ours == theirs,
                _ => false,
            };
            ours_after == theirs_after || ours == theirs_after || ours_after == theirs || swapped()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line() {
        let error = "bad query: snapshot=a\u{fffd}b; expected snapshot=1 or snapshot=0\n";
        assert_eq!(flag("snapshot=a%0Ab", SNAPSHOT), Err(error.to_owned()));
        let error =
            "bad query: max-rate=\u{fffd}; expected a number from 1 to 1000 and a time, such as 2/s, 30/min or 10/h\n";
        assert_eq!(max_rate("max-rate=%0A"), Err(error.to_owned()));
        assert_eq!((max_rate("max-rate=2/s"), max_rate("a=b")), (Ok("2/s".parse().ok()), Ok(None)));
    }

    #[test]
    fn near_misses_are_found_and_other_parameters_allowed() {
        let found = |query: &str| check_names(query).map_err(|error| error.to_string());
        for (name, known) in [
            ("topics", TOPIC),
            ("Topic", TOPIC),
            ("TOPIC", TOPIC),
            ("TOPICS", TOPIC),
            ("topic[]", TOPIC),
            ("topic%5B%5D", TOPIC),
            ("tpoic", TOPIC),
            ("topi", TOPIC),
            ("opic", TOPIC),
            ("tropic", TOPIC),
            ("t0pic", TOPIC),
            ("Snapshot", SNAPSHOT),
            ("snapshots", SNAPSHOT),
            ("snaphot", SNAPSHOT),
            ("snapshto", SNAPSHOT),
            ("Envelope", ENVELOPE),
            ("envelop", ENVELOPE),
            ("envelopes", ENVELOPE),
            ("notice", NOTICES),
            ("max_rate", MAX_RATE),
            ("maxrate", MAX_RATE),
            ("MAX-RATE", MAX_RATE),
        ] {
            let name = name.replace("%5B%5D", "[]");
            let expected = format!("bad query: unknown parameter {name:?}; did you mean {known}?");
            assert_eq!(found(&format!("a=b&{name}=/a")), Err(expected.clone()));
            assert_eq!(found(&name), Err(expected));
        }
        for query in [
            "",
            "topic=/a",
            "%74opic=/a&topic=/b&snapshot=1&envelope=1",
            "lastEventId=1&lastEventID=2&_=1",
            "top=1&x",
            "shot",
            "тема=1",
        ] {
            assert_eq!(found(query), Ok(()), "{query}");
        }
    }
}
