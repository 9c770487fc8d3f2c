//! The flags of restarts that refuse no connection, and what a supervisor such as systemd passes by the environment.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::errors::ConfigError;
use super::values::duration;

/// The most that `--ready-limit` may be with `--handover`: the process that serves waits no longer for another one.
pub const MAX_READY_LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Restart")]
pub(super) struct RestartOptions {
    /// Unix socket by which a process hands its listening socket over to the next one. A process that starts takes it from the
    /// process that serves this path, if there is one, which then drains [default: none]
    #[arg(long, env = "TALLYCAST_HANDOVER", value_name = "PATH")]
    handover: Option<PathBuf>,
    /// Let other processes listen on the same address and port (SO_REUSEPORT)
    #[arg(long, env = "TALLYCAST_REUSE_PORT")]
    reuse_port: bool,
    /// Time for a process to become ready before it accepts connections, where another one may be serving: with --handover,
    /// --reuse-port or a socket of systemd
    #[arg(
        long,
        env = "TALLYCAST_READY_LIMIT",
        default_value = "30s",
        value_name = "DURATION",
        value_parser = duration
    )]
    ready_limit: Duration,
}

/// How the process comes to its listening socket.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Restart {
    /// The Unix socket by which listening sockets are handed over.
    pub handover: Option<PathBuf>,
    /// Whether other processes may listen on the port.
    pub reuse_port: bool,
    /// The time to become ready before connections are accepted.
    pub ready_limit: Duration,
}

impl RestartOptions {
    pub(super) fn config(self) -> Result<Restart, ConfigError> {
        let Self { handover, reuse_port, ready_limit } = self;
        if handover.is_some() && reuse_port {
            return Err(ConfigError::Usage(
                "--handover and --reuse-port exclude each other; expected one of them: the socket that is handed over is the only one of \
                 its port"
                    .to_owned(),
            ));
        }
        if handover.is_some() && ready_limit > MAX_READY_LIMIT {
            return Err(ConfigError::Usage(
                "invalid value for --ready-limit: expected at most 10m with --handover; the process that serves waits no \
                 longer"
                    .to_owned(),
            ));
        }
        Ok(Restart { handover, reuse_port, ready_limit })
    }
}

/// What systemd says by environment variables: sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Supervisor {
    /// `LISTEN_FDNAMES`: the names of the sockets that it passes.
    pub socket_names: Vec<String>,
    /// `NOTIFY_SOCKET`: where it is notified of the state of the process.
    pub notify_socket: Option<OsString>,
    /// `WATCHDOG_USEC`: the time within which it expects a sign of life, if it is meant for this process (`WATCHDOG_PID`).
    pub watchdog: Option<Duration>,
}

impl Supervisor {
    /// Reads the variables. Those that are invalid are ignored, as libsystemd does.
    pub fn from_env() -> Self {
        #[expect(clippy::disallowed_methods, reason = "a protocol of the supervisor, not configuration")]
        Self::read(|name| std::env::var_os(name))
    }

    fn read(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |name| variable(name)?.into_string().ok();
        let is_ours = text("WATCHDOG_PID").is_none_or(|id| id.parse() == Ok(std::process::id()));
        let microseconds = text("WATCHDOG_USEC").and_then(|text| text.parse().ok()).filter(|time| *time > 0);
        Self {
            socket_names: text("LISTEN_FDNAMES")
                .map_or_else(Vec::new, |names| names.split(':').map(str::to_owned).collect()),
            notify_socket: variable("NOTIFY_SOCKET").filter(|path| !path.is_empty()),
            watchdog: microseconds.filter(|_| is_ours).map(Duration::from_micros),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::config;

    #[test]
    fn process_that_serves_waits_for_another_one_for_ten_minutes() {
        let flags = ["--handover", "/run/handover", "--ready-limit"];
        let with = |limit| config(&[&flags[..], &[limit]].concat());
        assert_eq!(with("10m").unwrap().restart.ready_limit, MAX_READY_LIMIT);
        let error = with("601s").unwrap_err();
        assert!(error.contains("invalid value for --ready-limit: expected at most 10m with --handover"), "{error}");
        assert!(config(&["--ready-limit", "1h"]).is_ok());
    }

    fn read(variables: &[(&str, &str)]) -> Supervisor {
        Supervisor::read(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn watchdog_is_that_of_this_process() {
        let id = std::process::id().to_string();
        let watchdog = |variables: &[_]| read(variables).watchdog;
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "3000000")]), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", &id)]), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "1")]), None);
        for invalid in ["", "0", "-1", "soon"] {
            assert_eq!(watchdog(&[("WATCHDOG_USEC", invalid)]), None, "{invalid}");
        }
    }

    #[test]
    fn sockets_have_names() {
        assert_eq!(read(&[("LISTEN_FDNAMES", "web:web6")]).socket_names, ["web", "web6"]);
        assert!(read(&[]).socket_names.is_empty());
        assert_eq!(read(&[("NOTIFY_SOCKET", "")]).notify_socket, None);
    }
}
