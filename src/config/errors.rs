//! Why a configuration is invalid, in one line: the value, what was expected, and where the value is from.

use std::ffi::OsString;
use std::fmt::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::file::File;
use super::flags;
use super::secret::is_secret;

/// The exit code for an invalid flag, variable or file (`EX_USAGE` of sysexits).
pub const EXIT_USAGE: u8 = 64;
/// The exit code if something needed at startup is missing (`EX_UNAVAILABLE` of sysexits).
pub const EXIT_UNAVAILABLE: u8 = 69;

/// Why there is no [`Command`](super::Command).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line asks for `--help` or `--version`; the text to print.
    #[error("{0}")]
    Help(Box<clap::Error>),
    /// A value is invalid: one line that never holds a secret.
    #[error("{0}")]
    Usage(String),
}

impl ConfigError {
    /// Prints help to standard output, an error to standard error. Returns the exit code: 0 or [`EXIT_USAGE`].
    #[expect(clippy::print_stderr, reason = "printed before logging starts, and for people")]
    pub fn print(&self) -> ExitCode {
        match self {
            Self::Help(help) => {
                // Fails if the reader has closed the pipe, and then has what it needs.
                let _ = help.print();
                ExitCode::SUCCESS
            }
            Self::Usage(line) => {
                eprintln!("tallycast: {line}");
                ExitCode::from(EXIT_USAGE)
            }
        }
    }
}

/// An error of clap in this program's words. `named` is the command on the command line.
pub(super) fn explain(
    error: clap::Error,
    definition: &clap::Command,
    named: Option<&str>,
    arguments: &[OsString],
    file: &File,
) -> ConfigError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    // Such as `--port <PORT>`.
    let argument = context(ContextKind::InvalidArg);
    let flag = argument.split([' ', '=']).next().unwrap_or_default();
    let name = flag.trim_start_matches("--");
    let line = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return ConfigError::Help(Box::new(error)),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation if is_missing(&error) => {
            format!("no value for {flag}: expected {}", argument.get(flag.len() + 1..).unwrap_or("a value"))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = match flags::find(definition, name) {
                Some(argument) if !is_secret(argument) => format!("{:?} ", context(ContextKind::InvalidValue)),
                _ => String::new(),
            };
            let origin = origin(name, definition, arguments, file);
            format!("invalid value {value}for {flag}: {}{origin}", expected(&error))
        }
        ErrorKind::TooManyValues => format!("{flag} takes no value"),
        ErrorKind::UnknownArgument if flag.starts_with('-') => {
            let command = named.unwrap_or("serve");
            let owners = owners(definition, name).join(" and ");
            if owners.is_empty() {
                let suggestion = suggestion(&error, ContextKind::SuggestedArg);
                format!("unknown flag {flag}: expected one of tallycast {command} --help{suggestion}")
            } else {
                format!("{flag} is a flag of tallycast {owners}, not of tallycast {command}")
            }
        }
        ErrorKind::UnknownArgument => format!("unexpected argument {flag:?}: expected a flag, see tallycast --help"),
        ErrorKind::InvalidSubcommand => {
            let command = context(ContextKind::InvalidSubcommand);
            let suggestion = suggestion(&error, ContextKind::SuggestedSubcommand);
            format!("unknown command {command:?}: expected {}{suggestion}", commands(definition).join(", "))
        }
        _ => {
            let rendered = error.render().to_string();
            let line = rendered.lines().next().unwrap_or_default().trim_start_matches("error: ");
            format!("{line}; see tallycast --help")
        }
    };
    ConfigError::Usage(line)
}

/// Whether a flag stands at the end of the command line, or before another flag.
fn is_missing(error: &clap::Error) -> bool {
    std::error::Error::source(error).is_none()
        && matches!(error.get(ContextKind::InvalidValue), Some(ContextValue::String(value)) if value.is_empty())
}

/// What a flag's parser expected.
fn expected(error: &clap::Error) -> String {
    match (error.get(ContextKind::ValidValue), std::error::Error::source(error)) {
        (Some(ContextValue::Strings(valid)), _) if !valid.is_empty() => {
            let (last, others) = valid.split_last().map_or(("", &[][..]), |(last, others)| (last.as_str(), others));
            let others = others.join(", ");
            format!("expected {others}{}{last}", if others.is_empty() { "" } else { " or " })
        }
        (_, Some(source)) => source.to_string(),
        (_, None) => "expected another value, see tallycast --help".to_owned(),
    }
}

fn suggestion(error: &clap::Error, kind: ContextKind) -> String {
    let mut text = String::new();
    let nearest = match error.get(kind) {
        Some(ContextValue::String(nearest)) => Some(nearest),
        Some(ContextValue::Strings(nearest)) => nearest.first(),
        _ => None,
    };
    if let Some(nearest) = nearest {
        // A `String` takes all that is written to it.
        let _ = write!(text, "; did you mean {nearest}?");
    }
    text
}

fn commands(definition: &clap::Command) -> Vec<&str> {
    definition.get_subcommands().map(clap::Command::get_name).collect()
}

/// The commands that have a flag `--name`.
fn owners<'a>(definition: &'a clap::Command, name: &str) -> Vec<&'a str> {
    let has = |command: &&clap::Command| command.get_arguments().any(|argument| argument.get_long() == Some(name));
    definition.get_subcommands().filter(has).map(clap::Command::get_name).collect()
}

/// Where the invalid value of a flag is from, unless it is on the command line.
#[expect(clippy::disallowed_methods, reason = "only finds out where a value that clap has refused is from")]
fn origin(flag: &str, definition: &clap::Command, arguments: &[OsString], file: &File) -> String {
    let written = format!("--{flag}");
    if arguments.iter().any(|given| given.to_string_lossy().split('=').next() == Some(&written)) {
        return String::new();
    }
    match flags::find(definition, flag).and_then(clap::Arg::get_env) {
        Some(name) if std::env::var_os(name).is_some() => {
            format!(" (from the environment variable {})", name.to_string_lossy())
        }
        _ => file.location(flag).map(|location| format!(" (from {location})")).unwrap_or_default(),
    }
}
