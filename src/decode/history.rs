//! The option `history=` of a route: how long its messages are kept.

use std::sync::Arc;
use std::time::Duration;

use tallycast_fanout::{Namespace, Retention};

use crate::size::Size;

/// The bounds of all `history=` options of a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct History {
    max_messages: Option<usize>,
    max_bytes: Option<usize>,
    max_age: Option<Duration>,
    last_values: bool,
}

/// Why the value of a `history=` option is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The text is no bound, or zero.
    #[error("expected a duration such as 10m, a number of messages such as 1000, a size such as 64MiB, or last")]
    Malformed,
    /// Another option of the route has a bound of the same kind.
    #[error("expected at most one duration, one number of messages and one size for each route")]
    Repeated,
}

impl History {
    /// Adds the bound of one option.
    pub(super) fn add(&mut self, text: &str) -> Result<(), HistoryError> {
        let is_new = if text == "last" {
            !std::mem::replace(&mut self.last_values, true)
        } else if let Ok(Size(number)) = text.parse::<Size>() {
            if number == 0 {
                return Err(HistoryError::Malformed);
            }
            let is_count = text.ends_with(|character: char| character.is_ascii_digit());
            let bound = if is_count { &mut self.max_messages } else { &mut self.max_bytes };
            bound.replace(number).is_none()
        } else {
            self.max_age.replace(age(text)?).is_none()
        };
        if is_new { Ok(()) } else { Err(HistoryError::Repeated) }
    }

    /// The retention of a route that keeps messages; `None` without an option.
    pub(super) fn retention(
        self,
        name: String,
        namespace: Namespace,
        sequence: Option<Arc<str>>,
    ) -> Option<Arc<Retention>> {
        let Self { max_messages, max_bytes, max_age, last_values } = self;
        (self != Self::default()).then(|| {
            let name = name.into();
            Arc::new(Retention {
                name,
                namespace,
                except: Box::default(),
                sequence,
                partition: None,
                max_messages,
                max_bytes,
                max_age,
                last_values,
            })
        })
    }
}

fn age(text: &str) -> Result<Duration, HistoryError> {
    // It would be months, and is a typing error for minutes or megabytes.
    let age = if text.contains('M') { None } else { humantime::parse_duration(text).ok() };
    age.filter(|age| !age.is_zero()).ok_or(HistoryError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn history(options: &[&str]) -> Result<History, HistoryError> {
        let mut history = History::default();
        options.iter().try_for_each(|option| history.add(option))?;
        Ok(history)
    }

    #[test]
    fn bounds_of_several_options_are_combined() {
        let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
        assert_eq!(history(&["10m"]), Ok(History { max_age: minutes(10), ..History::default() }));
        assert_eq!(history(&["1000"]), Ok(History { max_messages: Some(1000), ..History::default() }));
        assert_eq!(history(&["64MiB"]), Ok(History { max_bytes: Some(64 << 20), ..History::default() }));
        let all = History { max_messages: Some(5), max_bytes: Some(2000), max_age: minutes(90), last_values: true };
        assert_eq!(history(&["last", "2kB", "1h 30m", "5"]), Ok(all));
    }

    #[test]
    fn other_texts_and_repeated_bounds_are_invalid() {
        for text in ["", "0", "0B", "0s", "10M", "4M", "-1", "1.5", "ten", "latest", "10 x"] {
            assert_eq!(history(&[text]), Err(HistoryError::Malformed), "{text}");
        }
        for options in [["1", "2"], ["1s", "2s"], ["1B", "2B"], ["last", "last"]] {
            assert_eq!(history(&options), Err(HistoryError::Repeated), "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn bound_survives_being_shown(messages in 1..usize::MAX, bytes in 1..usize::MAX, millis in 1..u64::from(u32::MAX)) {
            let age = Duration::from_millis(millis);
            let texts = [messages.to_string(), format!("{bytes}B"), format!("{millis}ms")];
            let read = history(&texts.each_ref().map(String::as_str));
            let expected =
                History { max_messages: Some(messages), max_bytes: Some(bytes), max_age: Some(age), last_values: false };
            prop_assert_eq!(read, Ok(expected));
        }
    }
}
