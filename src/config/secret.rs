//! A value that cannot print itself.

use std::any::TypeId;
use std::fmt;

/// A secret. `Display` and `Debug` show `***`, or the part that may be seen; only [`Secret::expose`] gives the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    value: Box<str>,
    shown: Box<str>,
}

impl Secret {
    /// A value of which nothing may be seen.
    pub fn new(value: &str) -> Self {
        Self::shown_as(value, "***")
    }

    /// A value in whose place `shown` may be seen, such as a URL without its password.
    pub fn shown_as(value: &str, shown: &str) -> Self {
        Self { value: value.into(), shown: shown.into() }
    }

    /// The value, for the code that needs it.
    pub fn expose(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

/// Whether the value of a flag is a secret: its type decides, so no list can miss one.
pub(super) fn is_secret(argument: &clap::Arg) -> bool {
    argument.get_value_parser().type_id() == TypeId::of::<Secret>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_prints_as_stars() {
        let secret = Secret::new("hunter2");
        assert_eq!((format!("{secret}"), format!("{secret:?}")), ("***".to_owned(), "***".to_owned()));
        assert_eq!(format!("{:?}", Some(&secret)), "Some(***)");
        assert_eq!(secret.expose(), "hunter2");
        assert_ne!(secret, Secret::new("hunter3"));
    }

    #[test]
    fn part_of_a_secret_may_be_shown() {
        let secret = Secret::shown_as("redis://:hunter2@host", "redis://:***@host");
        assert_eq!(format!("{secret} {secret:?}"), "redis://:***@host redis://:***@host");
    }
}
