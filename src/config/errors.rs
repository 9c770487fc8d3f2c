//! Why a configuration is invalid, in one line: the value, what was expected, and where the value is from.

use std::ffi::OsString;
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
            let name = argument.get(flag.len()..).unwrap_or_default().trim_matches([' ', '<', '>']);
            format!("no value for {flag}: expected {name}")
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
            match (owners(definition, name).as_slice(), context(ContextKind::SuggestedArg)) {
                ([], "") => format!("unknown flag {flag}; see tallycast {command} --help"),
                ([], nearest) => format!("unknown flag {flag}; did you mean {nearest}?"),
                (owners, _) => {
                    format!("{flag} is a flag of tallycast {}, not of tallycast {command}", list(owners, "and"))
                }
            }
        }
        ErrorKind::UnknownArgument => format!("unexpected argument {flag:?}: expected a flag, see tallycast --help"),
        ErrorKind::InvalidSubcommand => {
            let commands: Vec<&str> = definition.get_subcommands().map(clap::Command::get_name).collect();
            format!("unknown command {:?}: expected {}", context(ContextKind::InvalidSubcommand), list(&commands, "or"))
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
            format!("expected {}", list(&valid.iter().map(String::as_str).collect::<Vec<_>>(), "or"))
        }
        (_, Some(source)) => source.to_string(),
        (_, None) => "expected another value, see tallycast --help".to_owned(),
    }
}

/// `a, b or c`.
fn list(names: &[&str], conjunction: &str) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [others @ .., last] => format!("{} {conjunction} {last}", others.join(", ")),
    }
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
