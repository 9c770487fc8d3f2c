//! The flags of sessions.

use std::time::Duration;

use clap::Args;

use super::errors::ConfigError;
use super::values::{count, duration, duration_text};
use crate::sessions::{self, EventTarget};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sessions")]
pub(super) struct SessionOptions {
    /// Serve sessions: named streams at /session/NAME, whose topics, rights and ends a backend decides, at /sessions or through the
    /// broker
    #[arg(long, env = "TALLYCAST_SESSIONS")]
    pub(super) sessions: bool,
    /// How long a session outlives its last connection, unless it says otherwise
    #[arg(
        long,
        env = "TALLYCAST_SESSION_TTL",
        default_value = duration_text(sessions::DEFAULT_TTL),
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(super) session_ttl: Duration,
    /// Where events of sessions, and what their clients send, are published: a channel, or stream:KEY for a Redis stream
    #[arg(
        long,
        env = "TALLYCAST_SESSION_EVENTS",
        default_value = sessions::DEFAULT_EVENTS,
        value_name = "CHANNEL|stream:KEY"
    )]
    pub(super) session_events: EventTarget,
    /// Sessions of all nodes together; further ones are refused
    #[arg(
        long,
        env = "TALLYCAST_MAX_SESSIONS",
        default_value_t = sessions::DEFAULT_MAX_SESSIONS,
        value_name = "COUNT",
        value_parser = count
    )]
    pub(super) max_sessions: usize,
}

impl SessionOptions {
    /// The config, if sessions are served or a contract needs them.
    pub(super) fn config(
        &self,
        is_needed: bool,
        has_hook: bool,
        max_topics: usize,
    ) -> Result<Option<sessions::Config>, ConfigError> {
        if !self.sessions && !is_needed {
            if has_hook {
                return Err(ConfigError::Usage(
                    "--connect-url needs --sessions, --unifrost, --ws-hub, --realtime-channel or --realtime-create: \
                     it decides about the streams of sessions"
                        .to_owned(),
                ));
            }
            return Ok(None);
        }
        if self.session_ttl > sessions::MAX_TTL {
            return Err(ConfigError::Usage(format!(
                "invalid value for --session-ttl: expected at most {}",
                humantime::format_duration(sessions::MAX_TTL)
            )));
        }
        let mut config = sessions::Config::new(max_topics);
        config.has_streams = self.sessions;
        config.ttl = self.session_ttl;
        config.events = self.session_events.clone();
        config.max_sessions = self.max_sessions;
        Ok(Some(config))
    }
}
