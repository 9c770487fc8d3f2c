//! The flags of the contract of gochan and unifrost, and the route of its topics.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tallycast_fanout::Namespace;

use super::errors::ConfigError;
use super::values::{duration, duration_text};
use crate::api::unifrost::{self, Config, Flavour};
use crate::decode::Route;
use crate::sessions;

/// The channels of topics if none are given.
const CHANNELS: &str = "unifrost:*";
/// The first segments of paths that the server itself has.
const RESERVED: [&str; 18] = [
    ".well-known",
    "admin",
    "api",
    "assets",
    "count",
    "healthz",
    "metrics",
    "publish",
    "readyz",
    "session",
    "sessions",
    "subscribe",
    "subscriptions",
    "tickets",
    "v1",
    "web",
    "ws",
    "ws-hub",
];

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "unifrost")]
pub(super) struct UnifrostOptions {
    /// Serve the contract of unifrost 0.1, of unifrost before that (0.0), or of gochan. It switches on sessions and /sessions, but not
    /// streams at /session [default: none]
    #[arg(long, env = "TALLYCAST_UNIFROST", value_name = "GENERATION")]
    pub(super) unifrost: Option<Generation>,
    /// Channels of topics: a prefix and *, which stands for the topic. Not used if a route leads to /unifrost, such as
    /// stream:chat=/unifrost/*,history=1000
    #[arg(
        long,
        env = "TALLYCAST_UNIFROST_CHANNELS",
        default_value = CHANNELS,
        value_name = "PATTERN",
        value_parser = channels
    )]
    pub(super) unifrost_channels: String,
    /// How long a consumer and its topics outlive its last connection
    #[arg(
        long,
        env = "TALLYCAST_UNIFROST_TTL",
        default_value = duration_text(unifrost::DEFAULT_TTL),
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(super) unifrost_ttl: Duration,
    /// Path of the streams of consumers
    #[arg(
        long,
        env = "TALLYCAST_UNIFROST_EVENTS_PATH",
        default_value = unifrost::DEFAULT_EVENTS_PATH,
        value_name = "PATH",
        value_parser = path
    )]
    pub(super) unifrost_events_path: String,
    /// Path at which the topics of a consumer are changed
    #[arg(
        long,
        env = "TALLYCAST_UNIFROST_UPDATE_PATH",
        default_value = unifrost::DEFAULT_UPDATE_PATH,
        value_name = "PATH",
        value_parser = path
    )]
    pub(super) unifrost_update_path: String,
    /// Which ids make a consumer: any, or only those that the server makes for clients without one (issued). A backend may make
    /// consumers in both cases. With issued, clients cannot guess or choose the id of another one
    #[arg(long, env = "TALLYCAST_UNIFROST_CREATE", default_value = "any", value_name = "IDS")]
    pub(super) unifrost_create: Ids,
}

/// A generation of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Generation {
    /// The predecessor of unifrost.
    Gochan,
    /// Before 0.1.
    #[value(name = "0.0")]
    Unifrost00,
    /// The usual one.
    #[value(name = "0.1")]
    Unifrost01,
}

/// Which ids make a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Ids {
    /// Those that clients choose, too.
    Any,
    /// Those that the server makes.
    Issued,
}

impl From<Generation> for Flavour {
    fn from(generation: Generation) -> Self {
        match generation {
            Generation::Gochan => Self::Gochan,
            Generation::Unifrost00 => Self::Unifrost00,
            Generation::Unifrost01 => Self::Unifrost01,
        }
    }
}

impl UnifrostOptions {
    /// The configuration of the contract, if it is on.
    pub(super) fn config(&self) -> Result<Option<Config>, ConfigError> {
        let Some(generation) = self.unifrost else { return Ok(None) };
        if self.unifrost_ttl > sessions::MAX_TTL {
            return Err(ConfigError::Usage(format!(
                "invalid value for --unifrost-ttl: expected at most {}",
                humantime::format_duration(sessions::MAX_TTL)
            )));
        }
        if self.unifrost_events_path == self.unifrost_update_path {
            return Err(ConfigError::Usage(
                "invalid value for --unifrost-update-path: expected another path than --unifrost-events-path"
                    .to_owned(),
            ));
        }
        let mut config = Config::new(generation.into());
        config.ttl = self.unifrost_ttl;
        config.events_path.clone_from(&self.unifrost_events_path);
        config.update_path.clone_from(&self.unifrost_update_path);
        config.any_id = self.unifrost_create == Ids::Any;
        Ok(Some(config))
    }

    /// Adds the route of the topics, if there is none.
    pub(super) fn add_route(&self, routes: &mut Vec<Route>) {
        let leads_there =
            |route: &Route| unifrost::NAMESPACE.parse::<Namespace>().is_ok_and(|namespace| route.is_below(&namespace));
        if self.unifrost.is_some() && !routes.iter().any(leads_there) {
            routes.extend(route(&self.unifrost_channels).parse::<Route>());
        }
    }
}

/// The route of a pattern. A topic may have segments.
fn route(pattern: &str) -> String {
    format!("{pattern}={}/*,split=/", unifrost::NAMESPACE)
}

fn channels(text: &str) -> Result<String, String> {
    let is_pattern = text.ends_with('*') && !text.starts_with("stream:") && !text.contains(['=', ',']);
    if !is_pattern {
        return Err(
            "expected a prefix and *, such as unifrost:*; other channels need a --route to /unifrost/*".to_owned()
        );
    }
    route(text).parse::<Route>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn path(text: &str) -> Result<String, String> {
    let is_valid = |segment: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain)
    };
    let rest = text.strip_prefix('/').filter(|rest| rest.split('/').all(is_valid));
    let rest = rest.ok_or("expected a path of letters, digits and - . _ ~, such as /events")?;
    match rest.split('/').next().filter(|first| RESERVED.contains(first)) {
        Some(first) => {
            Err(format!("the server itself has paths below /{first}; expected another path, such as /events"))
        }
        None => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Command, read};
    use crate::source::SourceId;

    /// The selectors and streams of a command line.
    fn sources(flags: &[&str]) -> (Vec<String>, usize) {
        let arguments = ["tallycast", "serve"].iter().chain(flags).map(|text| (*text).into());
        let Ok(Command::Run(config)) = read(arguments) else { panic!("{flags:?}") };
        (
            config.routes.selectors(SourceId::DEFAULT).iter().map(ToString::to_string).collect(),
            config.routes.streams(SourceId::DEFAULT).len(),
        )
    }

    #[test]
    fn route_of_topics_is_added_unless_there_is_one() {
        let has = |flags: &[&str], pattern: &str| sources(flags).0.iter().any(|selector| selector == pattern);
        assert!(!has(&[], CHANNELS) && has(&["--unifrost", "0.1"], CHANNELS));
        let other = ["--unifrost", "gochan", "--unifrost-channels", "u.*"];
        assert!(!has(&other, CHANNELS) && has(&other, "u.*"));
        let own = ["--unifrost", "0.0", "--route", "stream:chat=/unifrost/*"];
        assert!(!has(&own, CHANNELS) && sources(&own).1 == 1);
        // Routes to elsewhere do not count, and neither does one whose entries name their topics.
        assert!(has(&["--unifrost", "0.0", "--route", "a=/unifrosty"], CHANNELS));
        assert!(has(&["--unifrost", "0.0", "--route", "stream:any=*"], CHANNELS));
    }

    #[test]
    fn values_are_checked() {
        for valid in ["/events", "/a/b-c_d.e~", "/sub"] {
            assert_eq!(path(valid).as_deref(), Ok(valid));
        }
        for invalid in ["", "/", "events", "/a/", "//a", "/{a}", "/a b", "/..", "/subscribe", "/v1/x"] {
            assert!(path(invalid).is_err(), "{invalid}");
        }
        for valid in ["*", "unifrost:*"] {
            assert_eq!(channels(valid).as_deref(), Ok(valid));
        }
        for invalid in ["", "a", "a*b*", "stream:a*", "a,*", "a=*"] {
            assert!(channels(invalid).is_err(), "{invalid}");
        }
    }
}
