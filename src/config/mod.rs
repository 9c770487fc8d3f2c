//! Command line, environment and configuration file -> the stages' own configs. Nothing else reads the environment.
//!
//! A flag overrides its variable, and both override the file.

mod arguments;
mod clients;
mod cluster;
mod compose;
mod connect;
mod demo;
#[cfg(test)]
mod docs;
mod effective;
mod errors;
mod file;
mod flags;
mod mercure;
mod mint;
mod realtime;
mod redis_topology;
mod reload;
mod restart;
mod secret;
mod send_multiple;
mod sessions;
mod sources;
#[cfg(test)]
mod testing;
mod tokens;
mod traces;
mod unifrost;
mod values;
mod ws_hub;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgMatches, FromArgMatches};

pub use compose::{Broker, Config, Drain};
pub use effective::EffectiveOption;
pub use errors::{ConfigError, EXIT_UNAVAILABLE, EXIT_USAGE};
pub use flags::{DemoOptions, LogFormat};
pub use reload::Changes;
pub use restart::{MAX_READY_LIMIT, Restart, Supervisor};
pub use secret::Secret;
pub use sources::{SourceConfig, SourceKind, SourceValueError};

use crate::{auth, client};
use compose::{SourceOptions, compose};
use errors::explain;
use file::File;
use flags::{Cli, ServeOptions, Subcommands};

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run the pipeline.
    Run(Box<Config>),
    /// Print this text and exit.
    Print(String),
    /// Say what a token may do.
    CheckToken(Box<auth::Config>, Secret),
    /// Use a running server.
    Client(Box<client::Command>),
    /// Ask the tallycast that listens on this address whether it is alive.
    Healthcheck(SocketAddr),
}

/// Reads the command line, the environment, and the file that one of them names.
///
/// # Errors
/// For a request for help, and for an invalid value.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, ConfigError> {
    let (named, arguments) = arguments::command_first(arguments.into_iter().collect());
    let definition = definition_of(named.as_deref())?;
    let file = match file_named(&definition, &arguments) {
        Some(path) => File::read(&path, &definition).map_err(|error| ConfigError::Usage(error.to_string()))?,
        None => File::default(),
    };
    resolve(named.as_deref(), &arguments, definition, &file)
}

/// Reads a command line and the text of a file, for the fuzz targets.
///
/// # Errors
/// For an invalid value.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn read_text(arguments: impl IntoIterator<Item = OsString>, text: &str) -> Result<Command, ConfigError> {
    let (named, arguments) = arguments::command_first(arguments.into_iter().collect());
    let definition = definition_of(named.as_deref())?;
    let file = File::parse(std::path::Path::new("tallycast.toml"), text, &definition);
    let file = file.map_err(|error| ConfigError::Usage(error.to_string()))?;
    resolve(named.as_deref(), &arguments, definition, &file)
}

/// The command line of the flags that follow `tallycast NAME`, with the defaults of that command.
fn definition_of(named: Option<&str>) -> Result<clap::Command, ConfigError> {
    let definition = Cli::definition(named);
    if named != Some("demo") {
        return Ok(definition);
    }
    let defaults = demo::defaults(&definition).map_err(|error| ConfigError::Usage(error.to_string()))?;
    Ok(defaults.apply(definition))
}

/// Puts the command line, the environment and the file together.
fn resolve(
    named: Option<&str>,
    arguments: &[OsString],
    definition: clap::Command,
    file: &File,
) -> Result<Command, ConfigError> {
    let definition = file.apply(definition);
    let explain = |error| explain(error, &definition, named, arguments, file);
    let matches = definition.clone().try_get_matches_from(arguments).map_err(explain)?;
    let command = match Cli::from_arg_matches(&matches).map_err(explain)?.command {
        Some(command) => command,
        None => Subcommands::Serve(Box::new(ServeOptions::from_arg_matches(&matches).map_err(explain)?)),
    };
    let mut check = false;
    let mut token = None;
    let (source, pipeline) = match command {
        Subcommands::Healthcheck(options) => {
            return Ok(Command::Healthcheck(SocketAddr::new(options.address, options.port)));
        }
        Subcommands::Publish(options) => {
            return Ok(Command::Client(Box::new(client::Command::Publish(options.into()))));
        }
        Subcommands::Count(options) => return Ok(Command::Client(Box::new(client::Command::Count(options.into())))),
        Subcommands::Tail(options) => return Ok(Command::Client(Box::new(client::Command::Tail(options.into())))),
        Subcommands::Token(options) => return Ok(Command::Print(options.mint()? + "\n")),
        Subcommands::Demo(options) => {
            let pipeline = options.pipeline.clone();
            (SourceOptions::Demo(options), pipeline)
        }
        Subcommands::Check(options) => {
            check = true;
            token = options.token;
            (SourceOptions::Redis(options.serve.broker), options.serve.pipeline)
        }
        Subcommands::Serve(options) => (SourceOptions::Redis(options.broker), options.pipeline),
    };
    let print = check || pipeline.print_config;
    let (definition, matches) = chosen(&definition, &matches);
    let config = compose(source, pipeline, effective::effective(definition, matches, file))?;
    if let Some(token) = token {
        return Ok(Command::CheckToken(Box::new(config.tokens), token));
    }
    if print {
        let options = config.options.iter().map(|option| format!("{option}\n"));
        let sources = config.broker.sources.iter().map(|source| format!("# {source}\n"));
        return Ok(Command::Print(options.chain(sources).collect()));
    }
    Ok(Command::Run(Box::new(config)))
}

/// The file that a flag or the variable names. Other errors are found later.
fn file_named(definition: &clap::Command, arguments: &[OsString]) -> Option<PathBuf> {
    let matches = definition.clone().ignore_errors(true).try_get_matches_from(arguments).ok()?;
    chosen(definition, &matches).1.try_get_one::<PathBuf>("config").ok().flatten().cloned()
}

/// Definition and matches of the command that runs.
fn chosen<'a>(definition: &'a clap::Command, matches: &'a ArgMatches) -> (&'a clap::Command, &'a ArgMatches) {
    match matches.subcommand() {
        Some((name, matches)) => (definition.find_subcommand(name).unwrap_or(definition), matches),
        None => (definition, matches),
    }
}
