//! The configuration file: TOML whose keys are the flags' names without the dashes. It stands in for the flags' defaults,
//! so the flags themselves are its schema, and a flag or a variable wins over it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::builder::ArgAction;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Flags that a file cannot have: they say which file, or ask for something else than to serve.
const NOT_IN_FILES: [&str; 4] = ["config", "print-config", "help", "version"];
/// Values whose line is not shown where something is wrong with it.
const SECRET: [&str; 2] = ["redis-url", "admin-token"];
/// The most bytes a file may have.
const MAX_BYTES: u64 = 1024 * 1024;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct File {
    path: PathBuf,
    /// By key, the values as a command line would have them, and where they stand.
    entries: BTreeMap<String, (Vec<String>, String)>,
}

/// Why a file is refused. Each tells file and line.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("cannot read the configuration file {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{place}: not TOML: {reason}")]
    Syntax { place: String, reason: String },
    #[error("{place}: unknown key {key:?}{nearest}; a key is a flag's name without the dashes, see tallycast --help")]
    UnknownKey { place: String, key: String, nearest: String },
    #[error("{place}: {key}: expected {expected}")]
    Type { place: String, key: String, expected: &'static str },
}

impl File {
    /// Reads and checks a file against the flags of `command`.
    pub(super) fn read(path: &Path, command: &clap::Command) -> Result<Self, FileError> {
        let unreadable = |error| FileError::Unreadable { path: path.to_owned(), error };
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > MAX_BYTES {
            return Err(unreadable(std::io::Error::other(format!("{size} bytes, the limit is {MAX_BYTES}"))));
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(unreadable)?, command)
    }

    fn parse(path: &Path, text: &str, command: &clap::Command) -> Result<Self, FileError> {
        let table = DeTable::parse(text).map_err(|error| FileError::Syntax {
            place: place(path, text, error.span().unwrap_or_default(), true),
            reason: error.message().to_owned(),
        })?;
        let mut entries = BTreeMap::new();
        for (key, value) in table.get_ref() {
            let (name, span) = (key.get_ref().as_ref(), key.span());
            let here = place(path, text, span, !SECRET.contains(&name));
            let Some(argument) = find(command, name) else {
                let nearest = nearest(command, name);
                let nearest = nearest.map(|known| format!(", did you mean {known:?}?")).unwrap_or_default();
                return Err(FileError::UnknownKey { place: here, key: name.to_owned(), nearest });
            };
            let values = values(argument, value).map_err(|expected| FileError::Type {
                place: here.clone(),
                key: name.to_owned(),
                expected,
            })?;
            entries.insert(name.to_owned(), (values, here));
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// The command with the file's values in the place of the flags' defaults.
    pub(super) fn apply(&self, command: clap::Command) -> clap::Command {
        let command = command.mut_args(|argument| self.apply_to(argument));
        let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        names.into_iter().fold(command, |command, name| {
            command.mut_subcommand(name, |command| command.mut_args(|arg| self.apply_to(arg)))
        })
    }

    fn apply_to(&self, argument: clap::Arg) -> clap::Arg {
        match argument.get_long().and_then(|long| self.entries.get(long)) {
            Some((values, _)) => argument.default_values(values.clone()),
            None => argument,
        }
    }

    /// Where the value of a flag stands, if the file has it.
    pub(super) fn place_of(&self, flag: &str) -> Option<&str> {
        self.entries.get(flag).map(|(_, place)| place.as_str())
    }

    /// The file's name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// All flags of a command and its subcommands that a file may have.
fn arguments(command: &clap::Command) -> impl Iterator<Item = (&str, &clap::Arg)> {
    std::iter::once(command)
        .chain(command.get_subcommands())
        .flat_map(clap::Command::get_arguments)
        .filter_map(|argument| Some((argument.get_long()?, argument)))
        .filter(|(long, _)| !NOT_IN_FILES.contains(long))
}

fn find<'a>(command: &'a clap::Command, name: &str) -> Option<&'a clap::Arg> {
    arguments(command).find(|(long, _)| *long == name).map(|(_, argument)| argument)
}

/// The key that somebody who wrote `name` could have meant.
fn nearest<'a>(command: &'a clap::Command, name: &str) -> Option<&'a str> {
    let likeness = |known: &str| strsim::jaro_winkler(known, name);
    let known = arguments(command).map(|(long, _)| long).max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    known.filter(|known| likeness(known) > 0.7)
}

/// A value as a command line would have it; otherwise what was expected.
fn values(argument: &clap::Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, &'static str> {
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        return value.get_ref().as_bool().map(|value| vec![value.to_string()]).ok_or("true or false");
    }
    let list = matches!(argument.get_action(), ArgAction::Append);
    match (value.get_ref(), list) {
        (DeValue::Array(items), true) => {
            items.iter().map(|item| scalar(item.get_ref()).ok_or("a list of strings")).collect()
        }
        (value, true) => scalar(value).map(|value| vec![value]).ok_or("a string, or a list of strings"),
        (value, false) => scalar(value).map(|value| vec![value]).ok_or("a string or a number"),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        // As TOML allows: 50_000.
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        _ => None,
    }
}

/// File and line, and what the line says if that may be shown.
fn place(path: &Path, text: &str, span: Range<usize>, show: bool) -> String {
    let number = text[..span.start.min(text.len())].matches('\n').count();
    let line = text.lines().nth(number).map(str::trim).filter(|_| show);
    let shown = line.map(|line| format!(" ({line})")).unwrap_or_default();
    format!("{} line {}{shown}", path.display(), number + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command() -> clap::Command {
        use clap::Arg;
        clap::Command::new("tallycast")
            .arg(Arg::new("port").long("port").default_value("8001"))
            .arg(Arg::new("route").long("route").action(ArgAction::Append).default_value("a=/a"))
            .arg(Arg::new("no_admin").long("no-admin").action(ArgAction::SetTrue))
            .arg(Arg::new("redis_url").long("redis-url"))
    }

    fn parse(text: &str) -> Result<File, String> {
        File::parse(Path::new("t.toml"), text, &command()).map_err(|error| error.to_string())
    }

    #[test]
    fn values_stand_in_for_defaults() {
        let file = parse("port = 9_000\nroute = [\"b=/b\", \"c=/c\"]\nno-admin = true\n").unwrap();
        let matches = file.apply(command()).try_get_matches_from(["tallycast"]).unwrap();
        assert_eq!(matches.get_one::<String>("port").unwrap(), "9000");
        assert_eq!(matches.get_many::<String>("route").unwrap().collect::<Vec<_>>(), ["b=/b", "c=/c"]);
        assert!(matches.get_flag("no_admin"));
        let matches =
            file.apply(command()).try_get_matches_from(["tallycast", "--port", "1", "--route", "d=/d"]).unwrap();
        assert_eq!(matches.get_one::<String>("port").unwrap(), "1");
        assert_eq!(matches.get_many::<String>("route").unwrap().collect::<Vec<_>>(), ["d=/d"]);
        assert_eq!(file.place_of("port"), Some("t.toml line 1 (port = 9_000)"));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let error = |text| parse(text).unwrap_err();
        let hint = "a key is a flag's name without the dashes, see tallycast --help";
        assert_eq!(
            error("# a comment\nprot = 80\n"),
            format!("t.toml line 2 (prot = 80): unknown key \"prot\", did you mean \"port\"?; {hint}")
        );
        assert_eq!(error("[http]\nport = 1"), format!("t.toml line 1 ([http]): unknown key \"http\"; {hint}"));
        assert_eq!(error("config = 'x'"), format!("t.toml line 1 (config = 'x'): unknown key \"config\"; {hint}"));
        assert_eq!(error("no-admin = 1"), "t.toml line 1 (no-admin = 1): no-admin: expected true or false");
        assert_eq!(error("port = [1]"), "t.toml line 1 (port = [1]): port: expected a string or a number");
        assert_eq!(error("redis-url = 1.5"), "t.toml line 1: redis-url: expected a string or a number");
        assert!(error("port = 1\nport = 2").starts_with("t.toml line 2 (port = 2): not TOML: duplicate key"));
        assert!(error("port =").starts_with("t.toml line 1 (port =): not TOML: "));
    }

    proptest! {
        #[test]
        fn no_file_is_too_odd(text in "(port|route|[a-z.-]{0,5}|\"|'|\\[|\\]|=|\n|#|[0-9])*") {
            let _ = parse(&text);
        }
    }
}
