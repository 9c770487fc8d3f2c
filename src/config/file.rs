//! The configuration file: TOML whose keys are the flag names without the dashes.
//!
//! Its values replace the defaults of the flags, so the flags are its schema, and a flag or a variable overrides it.
//! Errors name the place, and the key if it is known or a slip of one. They never repeat anything else: in a file with a missing
//! quote or key, any text may be a secret.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::builder::ArgAction;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::flags;
use super::secret::is_secret;

/// Flags that a file cannot have: they name the file, or ask for something other than serving.
const NOT_IN_FILES: [&str; 5] = ["config", "print-config", "token", "help", "version"];
/// The maximum size of a file, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Characters by which a misspelled key may differ from a known one. Anything further from one may be a secret.
const MAX_EDITS: usize = 2;

/// The values of a file.
#[derive(Debug, Default)]
pub(super) struct File {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

/// The value of one key.
struct Entry {
    /// As on a command line.
    values: Vec<String>,
    location: Location,
}

/// `Debug` leaves the values out: they may be secrets.
impl std::fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Entry").field("location", &self.location).finish_non_exhaustive()
    }
}

/// A place in a file. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} line {line} column {column}", path.display())]
pub(super) struct Location {
    path: PathBuf,
    line: usize,
    column: usize,
}

/// Why a file is invalid.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("cannot read the configuration file {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("invalid TOML{}: {reason} (from {location})", key.as_ref().map(|key| format!(" for {key}")).unwrap_or_default())]
    Syntax { location: Location, key: Option<String>, reason: String },
    #[error("unknown key: expected a flag name without the dashes, see tallycast --help (from {location})")]
    UnknownKey { location: Location },
    #[error(
        "unknown key {key:?}: expected a flag name without the dashes; did you mean {nearest:?}? (from {location})"
    )]
    MisspelledKey { location: Location, key: String, nearest: String },
    #[error("invalid type for {key}: expected {expected} (from {location})")]
    Type { location: Location, key: String, expected: &'static str },
}

impl File {
    /// Reads a file and validates its keys and types against the flags of `definition`.
    pub(super) fn read(path: &Path, definition: &clap::Command) -> Result<Self, FileError> {
        let unreadable = |error| FileError::Unreadable { path: path.to_owned(), error };
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > MAX_BYTES {
            return Err(unreadable(std::io::Error::other(format!("{size} bytes, the limit is {MAX_BYTES}"))));
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(unreadable)?, definition)
    }

    /// Validates the keys and types of a file with `text`.
    pub(super) fn parse(path: &Path, text: &str, definition: &clap::Command) -> Result<Self, FileError> {
        let table = DeTable::parse(text).map_err(|error| {
            let offset = error.span().unwrap_or_default().start;
            FileError::Syntax {
                location: Location::new(path, text, offset),
                key: key_before(text, offset, definition),
                reason: error.message().replace('\n', ", "),
            }
        })?;
        let mut entries = BTreeMap::new();
        for (key, value) in table.get_ref() {
            let name = key.get_ref().as_ref();
            let location = Location::new(path, text, key.span().start);
            let Some(argument) = find(definition, name) else {
                return Err(match nearest(definition, name) {
                    Some(nearest) => {
                        FileError::MisspelledKey { location, key: name.to_owned(), nearest: nearest.to_owned() }
                    }
                    None => FileError::UnknownKey { location },
                });
            };
            match values(argument, value) {
                Ok(values) => entries.insert(name.to_owned(), Entry { values, location }),
                Err(expected) => return Err(FileError::Type { location, key: name.to_owned(), expected }),
            };
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// Adds the entries of another file. A key that both have is a list, which gets the values of both.
    pub(super) fn add(&mut self, other: Self) {
        for (key, entry) in other.entries {
            match self.entries.get_mut(&key) {
                Some(own) => own.values.extend(entry.values),
                None => drop(self.entries.insert(key, entry)),
            }
        }
    }

    /// The definition with the values of the file in the place of the flags' defaults.
    pub(super) fn apply(&self, definition: clap::Command) -> clap::Command {
        let definition = definition.mut_args(|argument| self.apply_to(argument));
        let names: Vec<String> = definition.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        names.into_iter().fold(definition, |definition, name| {
            definition.mut_subcommand(name, |command| command.mut_args(|argument| self.apply_to(argument)))
        })
    }

    fn apply_to(&self, argument: clap::Arg) -> clap::Arg {
        match argument.get_long().and_then(|long| self.entries.get(long)) {
            // Help shows defaults.
            Some(entry) => {
                let hide = is_secret(&argument);
                argument.default_values(entry.values.clone()).hide_default_value(hide)
            }
            None => argument,
        }
    }

    /// Where the file has the value of a flag, if it has it.
    pub(super) fn location(&self, flag: &str) -> Option<&Location> {
        self.entries.get(flag).map(|entry| &entry.location)
    }

    /// The name of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Location {
    fn new(path: &Path, text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Self { path: path.to_owned(), line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
    }
}

/// The flags of a command and its subcommands that a file may have.
fn settable(definition: &clap::Command) -> impl Iterator<Item = (&str, &clap::Arg)> {
    flags::all(definition).filter(|(long, _)| !NOT_IN_FILES.contains(long))
}

fn find<'a>(definition: &'a clap::Command, name: &str) -> Option<&'a clap::Arg> {
    settable(definition).find(|(long, _)| *long == name).map(|(_, argument)| argument)
}

/// The known key that `name` is a slip of, if it is one.
fn nearest<'a>(definition: &'a clap::Command, name: &str) -> Option<&'a str> {
    let edits = |known: &str| strsim::osa_distance(known, name);
    settable(definition)
        .map(|(long, _)| long)
        .min_by_key(|known| edits(known))
        .filter(|known| edits(known) <= MAX_EDITS)
}

/// The key at the start of the line, if it is known. Anything else there may be part of a value.
fn key_before(text: &str, offset: usize, definition: &clap::Command) -> Option<String> {
    let start = text.get(..offset).unwrap_or(text).rfind('\n').map_or(0, |newline| newline + 1);
    let (key, _) = text[start..].lines().next()?.split_once('=')?;
    find(definition, key.trim()).map(|_| key.trim().to_owned())
}

/// A value as on a command line, or what was expected.
fn values(argument: &clap::Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, &'static str> {
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        return value.get_ref().as_bool().map(|value| vec![value.to_string()]).ok_or("true or false");
    }
    let list = matches!(argument.get_action(), ArgAction::Append);
    match (value.get_ref(), list) {
        (DeValue::Array(items), true) => {
            items.iter().map(|item| scalar(item.get_ref()).ok_or("a list of strings of one line")).collect()
        }
        (value, true) => {
            scalar(value).map(|value| vec![value]).ok_or("a string of one line, or a list of such strings")
        }
        (value, false) => scalar(value).map(|value| vec![value]).ok_or("a string of one line or a number"),
    }
}

/// A value of one line. One of several may have swallowed other options, because its closing quotes are missing.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) if !text.contains(char::is_control) => Some(text.to_string()),
        // TOML allows 50_000.
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::secret::Secret;

    fn definition() -> clap::Command {
        use clap::Arg;
        let secret = |text: &str| Ok::<_, String>(Secret::new(text));
        clap::Command::new("tallycast")
            .arg(Arg::new("port").long("port").default_value("8001"))
            .arg(Arg::new("route").long("route").action(ArgAction::Append).default_value("a=/a"))
            .arg(Arg::new("no_admin").long("no-admin").action(ArgAction::SetTrue))
            .arg(Arg::new("redis_url").long("redis-url").value_parser(secret))
    }

    fn parse(text: &str) -> Result<File, String> {
        File::parse(Path::new("t.toml"), text, &definition()).map_err(|error| error.to_string())
    }

    #[test]
    fn file_replaces_defaults() {
        let file = parse("port = 9_000\nroute = [\"b=/b\", \"c=/c\"]\nno-admin = true\n").unwrap();
        let matches = file.apply(definition()).try_get_matches_from(["tallycast"]).unwrap();
        assert_eq!(matches.get_one::<String>("port").unwrap(), "9000");
        assert_eq!(matches.get_many::<String>("route").unwrap().collect::<Vec<_>>(), ["b=/b", "c=/c"]);
        assert!(matches.get_flag("no_admin"));
        let matches =
            file.apply(definition()).try_get_matches_from(["tallycast", "--port", "1", "--route", "d=/d"]).unwrap();
        assert_eq!(matches.get_one::<String>("port").unwrap(), "1");
        assert_eq!(matches.get_many::<String>("route").unwrap().collect::<Vec<_>>(), ["d=/d"]);
        assert_eq!(file.location("no-admin").unwrap().to_string(), "t.toml line 3 column 1");
    }

    #[test]
    fn errors_name_key_and_place_but_no_value() {
        let error = |text| parse(text).unwrap_err();
        let expected = "expected a flag name without the dashes";
        assert_eq!(
            error("# a comment\nprot = 80\n"),
            format!("unknown key \"prot\": {expected}; did you mean \"port\"? (from t.toml line 2 column 1)")
        );
        assert_eq!(
            error("[http]\nport = 1"),
            format!("unknown key: {expected}, see tallycast --help (from t.toml line 1 column 2)")
        );
        assert!(error("config = 'x'").starts_with("unknown key: expected "));
        assert_eq!(
            error("no-admin = 1"),
            "invalid type for no-admin: expected true or false (from t.toml line 1 column 1)"
        );
        assert_eq!(
            error("port = [1]"),
            "invalid type for port: expected a string of one line or a number (from t.toml line 1 column 1)"
        );
        assert_eq!(
            error("redis-url = 1.5"),
            "invalid type for redis-url: expected a string of one line or a number (from t.toml line 1 column 1)"
        );
        assert_eq!(error("port = 1\nport = 2"), "invalid TOML for port: duplicate key (from t.toml line 2 column 1)");
        assert!(error("port =").starts_with("invalid TOML for port: "), "{}", error("port ="));
    }

    #[test]
    fn syntax_error_never_shows_a_secret() {
        for text in [
            "redis-url = redis://:hunter2@host\n",
            "redis-url = \"redis://:hunter2@host\n",
            "redis-url = \"redis://:hunter2@host\\x\"\n",
            "redis-url \"redis://:hunter2@host\"\n",
            "redis-url = \"\"\"\nredis://:hunter2=@host\n",
            "redis-url = 'redis://:hunter2@host' x\n",
            "redis-url = 'a'\nredis-url = 'redis://:hunter2@host'\n",
            "redis-url = ['redis://:hunter2@host']\n",
            "redis-url = {password = 'hunter2'}\n",
            "redis-ulr = 'redis://:hunter2@host'\n",
            "hunter2 = 1\n",
            "'redis://:hunter2@host' = 1\n",
            "[hunter2]\nport = 1\n",
            "port = \"\"\"8001\nredis-url = 'redis://:hunter2@host'\"\"\"\n",
            "route = [\"\"\"a\nredis-url = 'redis://:hunter2@host'\"\"\"]\n",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("hunter2") && !error.contains('\n'), "{text}: {error}");
            assert!(error.contains("t.toml line "), "{text}: {error}");
        }
        let file = parse("redis-url = 'redis://:hunter2@host'\n").unwrap();
        assert!(!format!("{file:?}").contains("hunter2"));
        let help = file.apply(definition()).render_long_help().to_string();
        assert!(!help.contains("hunter2"), "{help}");
    }

    proptest! {
        #[test]
        fn any_file_is_parsed_or_invalid(text in "(port|route|[a-z.-]{0,5}|\"|'|\\[|\\]|=|\n|#|[0-9])*") {
            let _ = parse(&text);
        }

        #[test]
        fn only_known_keys_and_their_slips_are_in_an_error(
            before in "(port|redis-url|a| |=|\"|'|\"\"\"|'''|\\[|\\]|\\{|\\}|\n|#|,|\\.)*",
            after in "(port|redis-url|a| |=|\"|'|\"\"\"|'''|\\[|\\]|\\{|\\}|\n|#|,|\\.)*",
        ) {
            for secret in ["hunter2", "hunter"] {
                if let Err(error) = parse(&format!("{before}{secret}{after}")) {
                    prop_assert!(!error.contains(secret) && !error.contains('\n'), "{}", error);
                }
            }
        }

        #[test]
        fn value_is_never_in_an_error(
            before in "(\"|'|\\[|\\{|\"\"\"|\n|#)*",
            after in "(\"|'|\\]|=|\n|,|[0-9])*",
        ) {
            if let Err(error) = parse(&format!("port = \"{before}:hunter2@{after}")) {
                prop_assert!(!error.contains("hunter2"), "{}", error);
            }
        }
    }
}
