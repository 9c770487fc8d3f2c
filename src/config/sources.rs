//! `--source`: where events come from, beside or instead of the server of `--redis-url`.

use std::fmt;
use std::sync::Arc;

use super::compose::invalid;
use super::errors::ConfigError;
use super::flags::BrokerOptions;
#[cfg(feature = "amqp")]
use super::restart::Restart;
use super::secret::Secret;
use crate::api::push;
use crate::decode::Routes;
use crate::redis_client::{RedisUrl, UrlError};
use crate::source::relay::{self, RelaySource};
use crate::source::{self, Capabilities, PushSource, Selector, SourceId, StreamKey};

/// Sources beside the default one.
const MAX_SOURCES: usize = 32;
/// The longest name of a source, in bytes.
const MAX_NAME_BYTES: usize = 32;
/// What the pattern of a route for a stream starts with: no source has this name.
const STREAM: &str = "stream";

/// Why a value of `--source` is invalid. Never repeats a URL, which may contain a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceValueError {
    /// It is neither a kind of source nor a URL.
    #[error("expected redis, redis-streams, URL or NAME=URL with a URL that starts with {}", schemes())]
    Malformed,
    /// The name is invalid.
    #[error(
        "the name {0:?}: expected a lower-case letter, then lower-case letters, digits, - or _, at most {MAX_NAME_BYTES} in all, and not \
         \"{STREAM}\""
    )]
    Name(String),
    /// A Redis URL is invalid.
    #[error(transparent)]
    Redis(#[from] UrlError),
    /// The URL of a push source is invalid.
    #[error(transparent)]
    Push(#[from] push::UrlError),
    /// A NATS URL is invalid.
    #[cfg(feature = "nats")]
    #[error(transparent)]
    Nats(#[from] source::nats::UrlError),
    /// A URL of RabbitMQ is invalid.
    #[cfg(feature = "amqp")]
    #[error(transparent)]
    Amqp(#[from] source::amqp::UrlError),
    /// The build lacks what the scheme needs.
    #[error("this build has no {0}; expected one with the feature {1}")]
    Feature(&'static str, &'static str),
    /// A Kafka URL is invalid.
    #[cfg(feature = "kafka")]
    #[error(transparent)]
    Kafka(#[from] source::kafka::UrlError),
    /// The URL of another tallycast is invalid.
    #[error(transparent)]
    Relay(#[from] relay::UrlError),
}

/// The schemes that this build knows.
fn schemes() -> String {
    let mut schemes = vec!["redis://", "rediss://", "redis+sentinel://", "redis+cluster://"];
    if cfg!(feature = "nats") {
        schemes.extend(["nats://", "tls:// (NATS over TLS)"]);
    }
    if cfg!(feature = "amqp") {
        schemes.extend(["amqp://", "amqps://"]);
    }
    if cfg!(feature = "kafka") {
        schemes.extend(["kafka://", "kafkas:// (Kafka over TLS)"]);
    }
    format!("{}, https://, http://, wss://, ws://, webhook:, cloudevents: or pubsub:", schemes.join(", "))
}

/// A valid value of `--source`.
#[derive(Debug, Clone)]
pub(super) enum SourceValue {
    /// The default source reads channels, and the streams that routes name.
    Redis,
    /// The default source reads streams.
    RedisStreams,
    /// A source; the default one if it has no name.
    Url {
        /// Its name.
        name: Option<Arc<str>>,
        /// Where it is.
        url: SourceUrl,
    },
}

/// The URL of a source.
#[derive(Debug, Clone)]
pub(super) enum SourceUrl {
    Redis(Box<RedisUrl>),
    Push(Box<push::Config>),
    #[cfg(feature = "nats")]
    Nats(Box<source::nats::NatsUrl>),
    #[cfg(feature = "amqp")]
    Amqp(Box<source::amqp::Config>),
    #[cfg(feature = "kafka")]
    Kafka(Box<source::kafka::Config>),
    Relay(Box<relay::Config>),
}

impl SourceUrl {
    fn parse(text: &str) -> Result<Self, SourceValueError> {
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "redis" | "rediss" | "redis+unix" | "unix" | "redis+sentinel" | "rediss+sentinel" | "redis+cluster"
            | "rediss+cluster" => Ok(Self::Redis(Box::new(text.parse()?))),
            _ if push::Config::is_push(text) => Ok(Self::Push(Box::new(push::Config::parse(text)?))),
            #[cfg(feature = "nats")]
            "nats" | "tls" => Ok(Self::Nats(Box::new(source::nats::NatsUrl::parse(text)?))),
            #[cfg(not(feature = "nats"))]
            "nats" | "tls" => Err(SourceValueError::Feature("NATS", "nats")),
            #[cfg(feature = "amqp")]
            "amqp" | "amqps" => Ok(Self::Amqp(Box::new(source::amqp::Config::parse(text)?))),
            #[cfg(not(feature = "amqp"))]
            "amqp" | "amqps" => Err(SourceValueError::Feature("RabbitMQ", "amqp")),
            #[cfg(feature = "kafka")]
            "kafka" | "kafkas" => Ok(Self::Kafka(Box::new(source::kafka::Config::parse(text)?))),
            #[cfg(not(feature = "kafka"))]
            "kafka" | "kafkas" => Err(SourceValueError::Feature("Kafka", "kafka")),
            "http" | "https" | "ws" | "wss" => Ok(Self::Relay(Box::new(relay::Config::parse(text)?))),
            _ => Err(SourceValueError::Malformed),
        }
    }

    /// The configuration of the source.
    fn configure(self, flags: &str, broker: &BrokerOptions) -> Result<SourceKind, ConfigError> {
        match self {
            Self::Redis(url) => {
                let config = redis(*url, broker).map_err(|error| invalid(flags, &error))?;
                Ok(SourceKind::Redis(Box::new(config)))
            }
            Self::Push(config) => {
                let config = config.with_files().map_err(|error| invalid(flags, &error))?;
                Ok(SourceKind::Push(Box::new(config)))
            }
            #[cfg(feature = "nats")]
            Self::Nats(url) => Ok(SourceKind::Nats(url)),
            #[cfg(feature = "amqp")]
            Self::Amqp(config) => Ok(SourceKind::Amqp(config)),
            #[cfg(feature = "kafka")]
            Self::Kafka(config) => Ok(SourceKind::Kafka(config)),
            Self::Relay(config) => Ok(SourceKind::Relay(config)),
        }
    }
}

/// The configuration of a Redis server that is a source.
pub(super) fn redis(url: RedisUrl, broker: &BrokerOptions) -> Result<source::redis::Config, redis::RedisError> {
    let mut config = source::redis::Config::new(url)?;
    config.timeout = broker.redis_timeout;
    config.ping_interval = broker.redis_ping;
    config.trim.max_length = broker.stream_maxlen;
    config.trim.max_age = broker.stream_minid;
    Ok(config)
}

impl fmt::Display for SourceUrl {
    /// Without secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis(url) => url.fmt(formatter),
            Self::Push(config) => config.fmt(formatter),
            #[cfg(feature = "nats")]
            Self::Nats(url) => url.fmt(formatter),
            #[cfg(feature = "amqp")]
            Self::Amqp(config) => config.fmt(formatter),
            #[cfg(feature = "kafka")]
            Self::Kafka(config) => config.fmt(formatter),
            Self::Relay(config) => config.fmt(formatter),
        }
    }
}

impl SourceValue {
    fn parse(text: &str) -> Result<Self, SourceValueError> {
        match text {
            "redis" => return Ok(Self::Redis),
            "redis-streams" => return Ok(Self::RedisStreams),
            _ => {}
        }
        // The name comes before the scheme: what is no name belongs to the URL.
        let named = text.split_once('=').filter(|(name, _)| !name.contains([':', '/', '?', '@']));
        let Some((name, url)) = named else {
            return Ok(Self::Url { name: None, url: SourceUrl::parse(text)? });
        };
        if !is_name(name) {
            return Err(SourceValueError::Name(name.to_owned()));
        }
        Ok(Self::Url { name: Some(name.into()), url: SourceUrl::parse(url)? })
    }
}

/// Whether routes can name a source like this.
fn is_name(text: &str) -> bool {
    let is_allowed =
        |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || "-_".contains(character);
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.chars().all(is_allowed)
        && text.len() <= MAX_NAME_BYTES
        && text != STREAM
}

/// A value of `--source`, shown without secrets.
pub(super) fn source(text: &str) -> Result<Secret, SourceValueError> {
    let shown = match SourceValue::parse(text)? {
        SourceValue::Redis | SourceValue::RedisStreams => text.to_owned(),
        SourceValue::Url { name: None, url } => url.to_string(),
        SourceValue::Url { name: Some(name), url } => format!("{name}={url}"),
    };
    Ok(Secret::shown_as(text, &shown))
}

/// A source that is configured.
#[derive(Debug)]
pub struct SourceConfig {
    /// Its name; none for the default one.
    pub name: Option<Arc<str>>,
    /// What it is.
    pub kind: SourceKind,
}

/// The kinds of sources, with their configurations.
#[derive(Debug)]
pub enum SourceKind {
    /// Channels and streams of a Redis server.
    Redis(Box<source::redis::Config>),
    /// What others send over HTTP.
    Push(Box<push::Config>),
    /// Subjects and JetStream streams of NATS servers.
    #[cfg(feature = "nats")]
    Nats(Box<source::nats::NatsUrl>),
    /// Channels of RabbitMQ.
    #[cfg(feature = "amqp")]
    Amqp(Box<source::amqp::Config>),
    /// Topics of a Kafka cluster.
    #[cfg(feature = "kafka")]
    Kafka(Box<source::kafka::Config>),
    /// Another tallycast, whose messages are sent on.
    Relay(Box<relay::Config>),
    /// The generator of the sandbox.
    Demo(Box<super::DemoOptions>),
}

impl SourceKind {
    /// The kind in a word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::Push(_) => "push",
            #[cfg(feature = "nats")]
            Self::Nats(_) => "nats",
            #[cfg(feature = "amqp")]
            Self::Amqp(_) => "amqp",
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => "kafka",
            Self::Relay(_) => "relay",
            Self::Demo(_) => "demo",
        }
    }

    /// Where it is, without secrets, and what it can do with what routes read from it.
    fn describe(&self) -> (String, Vec<(&'static str, Capabilities)>) {
        match self {
            Self::Redis(config) => {
                (config.url.to_string(), vec![("channels", Capabilities::PASSING), ("streams", Capabilities::LOG)])
            }
            Self::Push(config) => (config.to_string(), vec![("events", PushSource::CAPABILITIES)]),
            #[cfg(feature = "nats")]
            Self::Nats(url) => {
                (url.to_string(), vec![("subjects", Capabilities::PASSING), ("streams", Capabilities::LOG)])
            }
            #[cfg(feature = "amqp")]
            Self::Amqp(config) => (config.to_string(), vec![("channels", config.capabilities())]),
            #[cfg(feature = "kafka")]
            Self::Kafka(config) => {
                let channels = Capabilities { positions: false, ..Capabilities::LOG };
                (config.to_string(), vec![("channels", channels), ("streams", Capabilities::LOG)])
            }
            Self::Relay(config) => (config.to_string(), vec![("messages", RelaySource::CAPABILITIES)]),
            Self::Demo(_) => ("memory".to_owned(), vec![("channels", Capabilities::PASSING)]),
        }
    }

    /// Checks that the source can have what routes read from it.
    fn check(&self, selectors: &[Selector], streams: &[StreamKey]) -> Result<(), String> {
        match self {
            Self::Redis(_) | Self::Demo(_) => Ok(()),
            Self::Relay(_) if selectors.is_empty() && streams.is_empty() => Ok(()),
            Self::Relay(_) => {
                Err("another tallycast has the namespaces that it has there; expected routes of other sources alone"
                    .to_owned())
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => Ok(()),
            Self::Push(_) => no_streams("a push source", streams),
            #[cfg(feature = "amqp")]
            Self::Amqp(_) => source::amqp::check(selectors, streams).map_err(|error| error.to_string()),
            #[cfg(feature = "nats")]
            Self::Nats(_) => {
                let check_selectors = || selectors.iter().try_for_each(source::nats::check_selector);
                let check_streams = || streams.iter().try_for_each(|stream| source::nats::check_stream(&stream.key));
                check_selectors().and_then(|()| check_streams()).map_err(|error| error.to_string())
            }
        }
    }
}

/// Refuses routes for the streams of a source that has none.
fn no_streams(kind: &str, streams: &[StreamKey]) -> Result<(), String> {
    match streams.first() {
        None => Ok(()),
        Some(stream) => Err(format!("stream:{}: {kind} has no streams; expected a channel", stream.key)),
    }
}

/// Checks that each source can have what the routes read from it.
pub(super) fn check(sources: &[SourceConfig], routes: &Routes) -> Result<(), ConfigError> {
    for (id, source) in (0..).map(SourceId).zip(sources) {
        let checked = source.kind.check(&routes.selectors(id), &routes.streams(id));
        checked.map_err(|error| invalid("--route", &error))?;
    }
    Ok(())
}

/// Refuses sources that only one process can read where another one may take over, which would never become ready: a
/// durable queue has one consumer at a time.
#[cfg(feature = "amqp")]
pub(super) fn check_handover(restart: &Restart, sources: &[SourceConfig]) -> Result<(), ConfigError> {
    let has_queue = |kind: &SourceKind| matches!(kind, SourceKind::Amqp(config) if config.queue.is_some());
    match sources.iter().find(|source| has_queue(&source.kind)) {
        Some(source) if restart.handover.is_some() => {
            let name = source.name.as_deref().unwrap_or("the default source");
            Err(ConfigError::Usage(format!(
                "--handover needs sources that two processes can read at the same time; remove queue= from {name}"
            )))
        }
        _ => Ok(()),
    }
}

impl fmt::Display for SourceConfig {
    /// One line for `tallycast check`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, can) = self.kind.describe();
        let name = self.name.as_deref().unwrap_or("(default)");
        let can: Vec<String> = can.into_iter().map(|(what, can)| format!("{what}: {can}")).collect();
        write!(formatter, "source {name} {address}: {}", can.join("; "))
    }
}

/// The values of `--source` together.
pub(super) struct Sources {
    /// The default source, unless it is the server of `--redis-url`.
    pub(super) default: Option<SourceKind>,
    /// All patterns of routes for the default source are keys of streams.
    pub(super) all_streams: bool,
    /// The other ones.
    pub(super) named: Vec<SourceConfig>,
}

/// Puts the values of `--source` together.
pub(super) fn sources(broker: &BrokerOptions) -> Result<Sources, ConfigError> {
    let mut sources = Sources { default: None, all_streams: false, named: Vec::new() };
    for value in &broker.sources {
        let value = SourceValue::parse(value.expose()).map_err(|error| invalid("--source", &error))?;
        match value {
            SourceValue::Redis => sources.all_streams = false,
            SourceValue::RedisStreams => sources.all_streams = true,
            SourceValue::Url { name: None, .. } if sources.default.is_some() => {
                let expected = "expected one URL without a name; give the others one, as in NAME=URL";
                return Err(ConfigError::Usage(format!("invalid value for --source: two default sources; {expected}")));
            }
            SourceValue::Url { name: None, url: SourceUrl::Push(_) } => {
                let expected = "expected a name, which its paths have: NAME=webhook:?…";
                return Err(ConfigError::Usage(format!(
                    "invalid value for --source: a push source without a name; {expected}"
                )));
            }
            SourceValue::Url { name: None, url } => sources.default = Some(url.configure("--source", broker)?),
            SourceValue::Url { name: Some(name), url } => {
                if sources.named.iter().any(|known| known.name.as_ref() == Some(&name)) {
                    return Err(ConfigError::Usage(format!(
                        "invalid value for --source: two sources have the name {name}; expected another one"
                    )));
                }
                if sources.named.len() == MAX_SOURCES {
                    return Err(ConfigError::Usage(format!(
                        "invalid value for --source: expected at most {MAX_SOURCES} sources with names"
                    )));
                }
                let kind = url.configure("--source", broker)?;
                sources.named.push(SourceConfig { name: Some(name), kind });
            }
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::testing::config;
    use crate::source::SourceId;

    #[test]
    fn routes_name_their_sources() {
        let config = config(&[
            "--source",
            "other=redis://:secret@elsewhere",
            "--source",
            "third=redis://third/2",
            "--route",
            "a:*=/a/*",
            "--route",
            "other:a:*=/b/*",
            "--route",
            "other:stream:s=/s,history=5",
            "--route",
            "stream:s=/t,history=5",
            "--route",
            "others:x=/x",
        ])
        .unwrap();
        let selected = |source: u8| {
            let selectors = config.routes.selectors(SourceId(source));
            let mut selectors: Vec<_> = selectors.iter().map(ToString::to_string).collect();
            selectors.sort();
            selectors.join(" ")
        };
        assert_eq!([selected(0), selected(1), selected(2)], ["a:* others:x", "a:*", ""]);
        let streams = |source: u8| {
            let streams = config.routes.streams(SourceId(source));
            streams.iter().map(|stream| format!("{} {}", stream.key, stream.sequence)).collect::<Vec<_>>().join(",")
        };
        assert_eq!([streams(0), streams(1)], ["s s", "s other:s"]);
        let names: Vec<_> = config.broker.sources.iter().map(|source| source.name.as_deref()).collect();
        assert_eq!(names, [None, Some("other"), Some("third")]);
        assert!(
            config.options.iter().any(|option| option.value == "other=redis://:***@elsewhere;third=redis://third/2")
        );
    }

    #[cfg(feature = "nats")]
    #[test]
    fn routes_of_nats_need_subjects_and_names_of_streams() {
        let flags = |route| ["--source", "hub=tls://ann:secret@h?ca=/ca.pem", "--route", route];
        let found = config(&flags("hub:a.*=/a/*")).unwrap();
        assert!(found.options.iter().any(|option| option.value == "hub=tls://ann:***@h:4222"));
        assert_eq!(
            found.broker.sources[1].to_string(),
            "source hub tls://ann:***@h:4222: subjects: ordered; streams: durable, ordered, positions"
        );
        for (route, expected) in [
            ("hub:a b=/a", "invalid value for --route: \"a b\" is not a NATS subject"),
            ("hub:a..*=/a", "\"a..*\" is not a NATS subject"),
            ("hub:stream:a.b=/a", "\"a.b\" is not the name of a JetStream stream"),
        ] {
            let error = config(&flags(route)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let error = config(&["--source", "nats://ann:secret@h?what=1"]).unwrap_err();
        assert!(error.contains("unknown option \"what\"") && !error.contains("secret"), "{error}");
    }

    #[cfg(feature = "amqp")]
    #[test]
    fn durable_queues_are_not_handed_over() {
        let with = |source| config(&["--source", source, "--route", "mq:a.*=/a/*", "--handover", "/run/handover"]);
        assert!(with("mq=amqp://h").is_ok());
        assert_eq!(
            with("mq=amqp://h?queue=n").unwrap_err(),
            "--handover needs sources that two processes can read at the same time; remove queue= from mq"
        );
        assert!(config(&["--source", "mq=amqp://h?queue=n", "--route", "mq:a.*=/a/*"]).is_ok());
    }

    #[test]
    fn url_without_a_name_is_the_default_source() {
        let config = config(&["--source", "redis://elsewhere/3", "--redis-url", "redis://here"]).unwrap();
        let SourceKind::Redis(redis) = &config.broker.sources[0].kind else { panic!("it is Redis") };
        assert_eq!(redis.url.to_string(), "redis://elsewhere/3");
    }

    #[test]
    fn invalid_sources_are_refused_without_their_secrets() {
        let error = |flags: &[&str]| config(flags).unwrap_err();
        let source = |value: &str| error(&["--source", value]);
        assert!(source("gopher://:secret@x").ends_with(&SourceValueError::Malformed.to_string()));
        assert!(!source("gopher://:secret@x").contains("secret"));
        assert!(source("Big=redis://x").contains("the name \"Big\": expected a lower-case letter"));
        assert!(source("stream=redis://x").contains("and not \"stream\""));
        assert!(source("a=redis://:secret@x/y").contains("invalid Redis URL"));
        assert!(error(&["--source", "a=redis://x", "--source", "a=redis://y"]).contains("two sources have the name a"));
        assert!(error(&["--source", "redis://x", "--source", "redis://y"]).contains("two default sources"));
        assert!(source("webhook:?auth=none").contains("a push source without a name; expected a name"));
        let hooks = source("a=webhook:?secret=hunter2");
        assert!(hooks.contains("the value of secret= has 7 bytes") && !hooks.contains("hunter2"), "{hooks}");
        assert!(source("a=webhook:?secret=@/nowhere/at/all").contains("cannot read /nowhere/at/all"));
        assert!(error(&["--source", "a=redis://x", "--route", "a:b*c=/x"]).contains("in the pattern \"a:b*c\""));
    }

    proptest! {
        #[test]
        fn values_never_show_what_follows_a_colon_before_the_host(name in "([a-z]{1,4}=)?", secret in "[A-Z]{4,8}") {
            let value = format!("{name}redis://user:{secret}@host/1");
            let shown = source(&value).unwrap().to_string();
            prop_assert!(!shown.contains(&secret), "{}", shown);
        }
    }
}
