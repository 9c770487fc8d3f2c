//! The `sandbox` command line: `feed` publishes synthetic Emojitracker traffic, `load` measures a server under load, `soak`
//! runs one for a long time.

mod certificate;
mod feed;
mod load;
mod process;
mod resource_usage;
mod signals;
mod soak;
mod streams;
mod target;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use self::feed::{FeedArgs, FeedError};
use self::load::{LoadArgs, LoadClientArgs, WriteLoopArgs};
use self::soak::SoakArgs;
use self::target::{TargetError, redact_credentials};

/// The exit code for a failed run.
const EXIT_FAILURE: u8 = 1;
/// The exit code for an invalid option or variable (`EX_USAGE` of sysexits).
const EXIT_USAGE: u8 = 64;
/// The exit code if Redis is unavailable (`EX_UNAVAILABLE` of sysexits).
const EXIT_UNAVAILABLE: u8 = 69;

/// Synthetic traffic for tallycast: a feeder, a load generator and a soak test
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
    Soak(SoakArgs),
    #[command(hide = true)]
    LoadClient(Box<LoadClientArgs>),
    #[command(hide = true)]
    WriteLoop(WriteLoopArgs),
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return report_parse_error(&error, &arguments),
    };
    let outcome = match cli.command {
        Command::Feed(args) => feed::run(&args),
        Command::Load(args) => load::run(*args),
        Command::Soak(args) => soak::run(&args),
        Command::LoadClient(args) => load::run_client(&args),
        Command::WriteLoop(args) => load::run_write_loop(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&format!("{error:#}"));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<TargetError>() {
        EXIT_USAGE
    } else if matches!(error.downcast_ref(), Some(FeedError::Unavailable { .. })) {
        EXIT_UNAVAILABLE
    } else {
        EXIT_FAILURE
    }
}

/// Prints help unchanged, and an error as one line that names the source of the invalid value.
fn report_parse_error(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe is not an error.
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
    // Clap repeats invalid values, which may be a URL with a password.
    let line = redact_credentials(line.trim_start_matches("error: "));
    print_error(&format!("{line}{origin}; see sandbox --help"));
    ExitCode::from(EXIT_USAGE)
}

/// The environment variable that set `argument` (such as `--rate <PER_SECOND>`), unless it is on the command line.
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

/// Prints an error on standard error. A closed standard error is ignored.
fn print_error(line: &str) {
    let _ = writeln!(io::stderr(), "sandbox: {line}");
}
