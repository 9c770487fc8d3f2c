//! What a process needs around its work: logging, signals, file descriptors, warnings.

use std::fs::File;
use std::io::{IsTerminal, Read, stderr};
use std::process::ExitCode;

use tallycast::admin::RecentLog;
use tallycast::config::{Config, EXIT_UNAVAILABLE, EXIT_USAGE, LogFormat, Secret};
use tallycast::{auth, client};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, registry, reload};

/// The bytes of a file that are read as a token: more than one may have.
const MAX_TOKEN_FILE_BYTES: u64 = 16 * 1024;

/// Runs a command that uses a running server, on a runtime of its own.
#[expect(clippy::print_stderr, reason = "for people: such a command has no log")]
pub(crate) fn run_client(command: client::Command) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(command.run());
            // A thread may still read standard input.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("tallycast: cannot start the runtime: {error}");
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}

/// Prints what a token may do.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "for people: such a command has no log")]
pub(crate) fn check_token(config: auth::Config, token: &Secret) -> ExitCode {
    let token = match token.expose() {
        "-" => std::io::read_to_string(std::io::stdin().take(MAX_TOKEN_FILE_BYTES)),
        text => match text.strip_prefix('@') {
            Some(path) => File::open(path).and_then(|file| std::io::read_to_string(file.take(MAX_TOKEN_FILE_BYTES))),
            None => Ok(text.to_owned()),
        },
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match token.and_then(|token| Ok((token, runtime?))) {
        Ok((token, runtime)) => {
            let (report, is_valid) = runtime.block_on(auth::check(config, token.trim()));
            print!("{report}");
            if is_valid { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("tallycast: cannot read the token: {error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Changes the filter of the running log.
pub(crate) type LogFilter = reload::Handle<EnvFilter, Registry>;

/// Starts logging to standard error, and keeps the last warnings and errors.
pub(crate) fn start_logging(filter: EnvFilter, format: LogFormat) -> (LogFilter, RecentLog) {
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(stderr().is_terminal()).boxed(),
        // Each span is in the list already.
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    let recent = RecentLog::default();
    registry().with(lines.with_filter(filter)).with(recent.layer()).init();
    (handle, recent)
}

/// Cancels `token` at the first SIGTERM or SIGINT. The second ends the process at once.
pub(crate) fn cancel_at_signal(token: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            let signal = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if token.is_cancelled() {
                tracing::warn!(signal, "exiting at once");
                std::process::exit(1);
            }
            tracing::info!(signal, "shutting down; a second signal exits at once");
            token.cancel();
        }
    });
    Ok(())
}

/// Logs how to close the admin routes, if everyone on the network may use them.
pub(crate) fn warn_of_exposed_admin(config: &Config) {
    if config.is_admin_exposed() {
        tracing::warn!("/admin and /metrics are open to everyone who can connect; set --admin-token or --no-admin");
    }
}

/// Open files that are not for clients: the broker, the listener, the log, the runtime, and connections over the limit that are
/// sent a response. Half of the limit where that is less, but not less than these need.
const RESERVED_FILES: u64 = 64;
const LEAST_RESERVED_FILES: u64 = 48;

/// The number of files that the process may have open; `None` without a limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileLimit(Option<u64>);

impl FileLimit {
    /// Lowers the limit of connections to what the limit on open files allows: each connection is one, and without a free one
    /// the broker could not be connected again.
    pub(crate) fn clamp(self, config: &mut tallycast_server::Config) {
        let Some(files) = self.0 else { return };
        let reserved = (files / 2).clamp(LEAST_RESERVED_FILES, RESERVED_FILES);
        let possible = usize::try_from(files.saturating_sub(reserved).max(1)).unwrap_or(usize::MAX);
        if config.max_connections > possible {
            tracing::warn!(
                open_files = files,
                wanted = config.max_connections,
                max_connections = possible,
                "--max-connections lowered to what the limit on open files allows; raise it with ulimit -n or LimitNOFILE="
            );
            config.max_connections = possible;
        }
    }
}

/// Raises the limit on open files to the maximum that the process may have: each connection is one.
pub(crate) fn raise_file_limit() -> FileLimit {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, ?maximum, "cannot raise the limit on open files");
        return FileLimit(current);
    }
    FileLimit(maximum)
}
