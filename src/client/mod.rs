//! The commands that use a running server: `tallycast publish`, `count` and `tail`.

mod count;
mod http;
mod input;
mod publish;
mod tail;

use std::fmt;
use std::process::ExitCode;

use crate::config::EXIT_UNAVAILABLE;

pub use count::{CountItem, CountItemError, CountOptions};
pub use http::{ServerUrl, UrlError};
pub use publish::PublishOptions;
pub use tail::{Since, SinceError, TailOptions};

/// What a client does.
#[derive(Debug)]
pub enum Command {
    /// Publish messages.
    Publish(PublishOptions),
    /// Add counts to totals.
    Count(CountOptions),
    /// Print messages as they come.
    Tail(TailOptions),
}

/// Where the server is, and how it is reached.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The server.
    pub url: ServerUrl,
    /// Whether any certificate is accepted.
    pub insecure: bool,
}

/// Why a command failed: a line for people.
#[derive(Debug, thiserror::Error)]
enum ClientError {
    /// The server cannot be reached, or its broker is away.
    #[error("{0}")]
    Unavailable(String),
    /// The server refused the request, or the input is invalid.
    #[error("{0}")]
    Refused(String),
    /// Nobody reads the output any more.
    #[error("the output is closed")]
    OutputClosed,
}

impl Command {
    /// Runs the command to its end, and returns the exit code.
    #[expect(clippy::print_stderr, reason = "for people; the output goes to standard output")]
    pub async fn run(self) -> ExitCode {
        let (name, outcome) = match self {
            Self::Publish(options) => ("publish", publish::run(options).await),
            Self::Count(options) => ("count", count::run(options).await),
            Self::Tail(options) => ("tail", tail::run(options).await),
        };
        match outcome {
            Ok(()) | Err(ClientError::OutputClosed) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("tallycast {name}: {error}");
                match error {
                    ClientError::Unavailable(_) => ExitCode::from(EXIT_UNAVAILABLE),
                    _ => ExitCode::FAILURE,
                }
            }
        }
    }
}

/// Prints a line to standard output.
fn print(line: impl fmt::Display) -> Result<(), ClientError> {
    use std::io::Write;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).map_err(|_| ClientError::OutputClosed)
}
