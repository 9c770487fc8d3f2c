//! The flags of the contract of ws-hub, and the route of the messages for groups.

use std::time::Duration;

use clap::Args;

use super::errors::ConfigError;
use super::values::{duration_or_zero, duration_text};
use crate::api::ws_hub;
use crate::decode::Route;
use crate::sessions::MAX_TTL;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "ws-hub")]
pub(super) struct WsHubOptions {
    /// Serve the clients and listeners of ws-hub. The route ws-hub:group-data:*=/ws-hub/groups/*,private is added, unless there is one
    /// for these channels. It switches on sessions and /sessions, but not streams at /session
    #[arg(long, env = "TALLYCAST_WS_HUB")]
    pub(super) ws_hub: bool,
    /// Path of the WebSockets of ws-hub clients. Native WebSockets below it stay
    #[arg(
        long,
        env = "TALLYCAST_WS_HUB_PATH",
        default_value = ws_hub::DEFAULT_PATH,
        value_name = "PATH",
        value_parser = stream_path
    )]
    pub(super) ws_hub_path: String,
    /// Query parameter with the key of a ws-hub client
    #[arg(long, env = "TALLYCAST_WS_HUB_KEY", default_value = ws_hub::DEFAULT_KEY, value_name = "NAME", value_parser = key)]
    pub(super) ws_hub_key: String,
    /// What the names of the Redis channels of ws-hub begin with
    #[arg(
        long,
        env = "TALLYCAST_WS_HUB_PREFIX",
        default_value = ws_hub::DEFAULT_PREFIX,
        value_name = "TEXT",
        value_parser = prefix
    )]
    pub(super) ws_hub_prefix: String,
    /// How long a ws-hub client waits until a listener has put it into a group; then it is closed. 0s is no limit
    #[arg(
        long,
        env = "TALLYCAST_WS_HUB_TIMEOUT",
        default_value = duration_text(ws_hub::DEFAULT_TIMEOUT),
        value_name = "DURATION",
        value_parser = duration_or_zero
    )]
    pub(super) ws_hub_timeout: Duration,
    /// How long a ws-hub client stays in its groups after its last connection has ended
    #[arg(
        long,
        env = "TALLYCAST_WS_HUB_TTL",
        default_value = "0s",
        value_name = "DURATION",
        value_parser = duration_or_zero
    )]
    pub(super) ws_hub_ttl: Duration,
    /// What the paths of the pages of ws-hub begin with: status, clients, groups and sessions. With / they are where ws-hub has them, and
    /// GET /sessions is not the native list of sessions
    #[arg(
        long,
        env = "TALLYCAST_WS_HUB_PAGES",
        default_value = ws_hub::DEFAULT_PAGES,
        value_name = "PATH",
        value_parser = path
    )]
    pub(super) ws_hub_pages: String,
}

/// A path without the slash at its end.
fn path(text: &str) -> Result<String, &'static str> {
    let is_plain = |character: char| character.is_ascii_graphic() && !"?#{}*%".contains(character);
    match text.strip_suffix('/').unwrap_or(text) {
        path if text.starts_with('/') && !text.contains("//") && text.chars().all(is_plain) => Ok(path.to_owned()),
        _ => Err("expected a path, such as /ws"),
    }
}

fn stream_path(text: &str) -> Result<String, &'static str> {
    path(text).and_then(|path| if path.is_empty() { Err("expected a path below /, such as /ws") } else { Ok(path) })
}

fn key(text: &str) -> Result<String, &'static str> {
    match text {
        "" => Err("expected the name of a query parameter, such as session_key"),
        text => Ok(text.to_owned()),
    }
}

/// The beginning of a channel, which a route can have too.
fn prefix(text: &str) -> Result<String, &'static str> {
    let is_unfit = |character: char| character.is_control() || "*=,".contains(character);
    if text.contains(is_unfit) || text.starts_with("stream:") {
        return Err("expected the beginning of a channel, such as ws-hub:, without *, = and commas");
    }
    Ok(text.to_owned())
}

impl WsHubOptions {
    /// The configuration of the contract, if it is on.
    pub(super) fn config(&self) -> Result<Option<ws_hub::Config>, ConfigError> {
        if !self.ws_hub {
            return Ok(None);
        }
        if self.ws_hub_ttl > MAX_TTL {
            let expected = format!("expected at most {}", humantime::format_duration(MAX_TTL));
            return Err(ConfigError::Usage(format!("invalid value for --ws-hub-ttl: {expected}")));
        }
        let mut config = ws_hub::Config::default();
        config.path.clone_from(&self.ws_hub_path);
        config.key.clone_from(&self.ws_hub_key);
        config.prefix.clone_from(&self.ws_hub_prefix);
        config.timeout = Some(self.ws_hub_timeout).filter(|timeout| !timeout.is_zero());
        config.ttl = self.ws_hub_ttl;
        config.pages.clone_from(&self.ws_hub_pages);
        Ok(Some(config))
    }

    /// Adds the route of the messages for groups, if there is none for their channels.
    pub(super) fn add_route(&self, routes: &mut Vec<Route>) -> Result<(), ConfigError> {
        let Some(config) = self.config()? else { return Ok(()) };
        let invalid = |error: &dyn std::fmt::Display| ConfigError::Usage(format!("invalid value for --route: {error}"));
        let text = config.route();
        let own = text.parse::<Route>().map_err(|error| invalid(&error))?;
        match routes.iter().find(|route| route.has_pattern_of(&own)) {
            Some(route) if route.has_namespace_of(&own) => Ok(()),
            Some(_) => {
                let pattern = text.split('=').next().unwrap_or_default();
                let namespace = format!("{}/*", ws_hub::NAMESPACE);
                Err(invalid(&format_args!(
                    "--ws-hub needs {pattern} at {namespace}; expected {text}, or no such route"
                )))
            }
            None => {
                routes.push(own);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::testing::config;
    use crate::source::SourceId;

    #[test]
    fn paths_have_no_slash_at_the_end() {
        let paths = |flags: &[&str]| {
            let config = config(&[&["--ws-hub"], flags].concat()).unwrap().contracts.ws_hub.unwrap();
            (config.path, config.pages)
        };
        assert_eq!(paths(&[]), ("/ws".to_owned(), "/ws-hub".to_owned()));
        assert_eq!(paths(&["--ws-hub-path", "/a/b/", "--ws-hub-pages", "/"]), ("/a/b".to_owned(), String::new()));
        for path in ["", "ws", "/", "//", "/a?b", "/{a}", "/a//b", "/a b"] {
            let error = config(&["--ws-hub", "--ws-hub-path", path]).unwrap_err();
            assert!(error.contains(": expected a path"), "{path}: {error}");
        }
    }

    #[test]
    fn route_is_added_unless_there_is_one() {
        let selectors = |flags: &[&str]| {
            let routes = config(flags).unwrap().routes;
            routes.selectors(SourceId::DEFAULT).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert!(!selectors(&[]).contains("ws-hub"));
        assert!(selectors(&["--ws-hub"]).contains("ws-hub:group-data:*"));
        assert!(selectors(&["--ws-hub", "--ws-hub-prefix", "a."]).contains("a.group-data:*"));
        let own = "ws-hub:group-data:*=/ws-hub/groups/*,history=10";
        assert_eq!(config(&["--ws-hub", "--route", own]).unwrap().fanout.retentions.len(), 1);
        assert_eq!(
            config(&["--ws-hub", "--route", "ws-hub:group-data:*=/x/*"]).unwrap_err(),
            "invalid value for --route: --ws-hub needs ws-hub:group-data:* at /ws-hub/groups/*; expected \
             ws-hub:group-data:*=/ws-hub/groups/*,private, or no such route"
        );
        let error = config(&["--ws-hub", "--ws-hub-prefix", "a*"]).unwrap_err();
        assert!(error.contains("expected the beginning of a channel"), "{error}");
    }

    #[test]
    fn sessions_are_on_with_the_contract_and_native_streams_are_not() {
        let config = |flags: &[&str]| {
            let sessions = config(flags).unwrap().contracts.sessions;
            (sessions.is_some(), sessions.is_some_and(|sessions| sessions.has_streams))
        };
        assert_eq!((config(&[]), config(&["--ws-hub"])), ((false, false), (true, false)));
        assert_eq!((config(&["--sessions"]), config(&["--sessions", "--ws-hub"])), ((true, true), (true, true)));
    }
}
