//! The sandbox's command line: `feed` publishes fake Emojitracker traffic, `load` measures a server under many readers.

mod feed;
mod load;
mod target;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use self::feed::{FeedArgs, FeedError};
use self::load::{LoadArgs, WriteLoopArgs};
use self::target::{TargetError, without_credentials};

/// The exit code when what was asked for failed.
const EXIT_FAILURE: u8 = 1;
/// The exit code for a wrong option or variable (`EX_USAGE` of sysexits).
const EXIT_USAGE: u8 = 64;
/// The exit code when Redis is not there (`EX_UNAVAILABLE` of sysexits).
const EXIT_UNAVAILABLE: u8 = 69;

/// Made-up traffic for tallycast: a feeder and a load generator
#[derive(Debug, Parser)]
#[command(name = "sandbox", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Feed(FeedArgs),
    Load(Box<LoadArgs>),
    #[command(hide = true)]
    WriteLoop(WriteLoopArgs),
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return explain(&error, &arguments),
    };
    let outcome = match cli.command {
        Command::Feed(args) => feed::run(&args),
        Command::Load(args) => load::run(*args),
        Command::WriteLoop(args) => load::run_write_loop(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<TargetError>() {
        EXIT_USAGE
    } else if matches!(error.downcast_ref(), Some(FeedError::Away { .. })) {
        EXIT_UNAVAILABLE
    } else {
        EXIT_FAILURE
    }
}

/// Prints what clap has to say: help as it is, an error as one line that tells where the wrong value came from.
fn explain(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Whoever closed the pipe does not want the rest.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return ExitCode::from(EXIT_USAGE);
        }
        _ => {}
    }
    let rendered = error.render().to_string();
    let lines: Vec<&str> = rendered.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    let origin = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => variable_of(argument, arguments),
        _ => None,
    };
    let origin = origin.map(|name| format!(" (from the environment variable {name})")).unwrap_or_default();
    // Clap repeats what it does not understand, which may be a URL with a password.
    let line = without_credentials(line.trim_start_matches("error: "));
    complain(&format!("{line}{origin}; see sandbox --help"));
    ExitCode::from(EXIT_USAGE)
}

/// The variable that `argument` (such as `--rate <PER_SECOND>`) came from, if the command line does not have it.
fn variable_of(argument: &str, arguments: &[OsString]) -> Option<String> {
    let flag = argument.split([' ', '=']).next()?;
    if arguments.iter().any(|given| given.to_string_lossy().split('=').next() == Some(flag)) {
        return None;
    }
    let name = arguments.get(1)?.to_str()?;
    let command = Cli::command();
    let option =
        command.find_subcommand(name)?.get_arguments().find(|option| option.get_long() == flag.strip_prefix("--"))?;
    Some(option.get_env()?.to_string_lossy().into_owned())
}

/// Says it on standard error; when that is closed, nobody is left to be told.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "sandbox: {line}");
}
