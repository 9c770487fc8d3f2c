//! The URL of RabbitMQ: where it is, and what the source and the publisher use there.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::size::Size;
use crate::source::redis::DEFAULT_TIMEOUT;

/// The exchange, unless the URL names another one.
const DEFAULT_EXCHANGE: &str = "tallycast";
/// The default of `Config::heartbeat`, in seconds.
const DEFAULT_HEARTBEAT: u16 = 10;
/// The default of `Config::prefetch`.
const DEFAULT_PREFETCH: u16 = 1000;
/// The default of `Bounds::events`.
const DEFAULT_QUEUE_EVENTS: u32 = 100_000;
/// The default of `Bounds::bytes`: 64 MiB.
const DEFAULT_QUEUE_BYTES: u32 = 64 << 20;
/// The default of `Queue::expires`.
const DEFAULT_EXPIRES: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest name, in bytes: a short string of AMQP (0-9-1, §4.2.5.3).
pub(crate) const MAX_NAME_BYTES: usize = 255;
/// What is kept as it is in a displayed URL.
const DISPLAYED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const OPTIONS: &str = "exchange, declare, queue, expires, max-length, max-length-bytes, prefetch, heartbeat, timeout, persistent, \
                       ca, cert and key";

/// A server, and what is used there. Neither [`Display`](fmt::Display) nor [`Debug`](fmt::Debug) shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// A name or an address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What TLS needs, if the connection uses it.
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) vhost: String,
    /// Events are published to this topic exchange.
    pub(crate) exchange: String,
    /// Whether the exchange is created if there is none.
    pub(crate) declares_exchange: bool,
    /// The queue that outlives connections, if there is one. Otherwise each connection has a queue of its own.
    pub(crate) queue: Option<Queue>,
    /// What a queue may hold.
    pub(crate) bounds: Bounds,
    /// Events that the server sends before the first of them is acknowledged.
    pub(crate) prefetch: u16,
    /// Seconds between signs of life. After twice as long without one, the connection ends.
    pub(crate) heartbeat: u16,
    /// How long connecting, and each response, may take.
    pub(crate) timeout: Duration,
    /// Whether what is published survives a restart of the server in durable queues.
    pub(crate) is_persistent: bool,
}

/// A durable queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) name: String,
    /// After this time without a consumer, the server deletes the queue.
    pub(crate) expires: Duration,
}

/// The bounds of a queue. The server drops the oldest events beyond them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) events: u32,
    pub(crate) bytes: u32,
}

/// The files of a TLS connection, in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The authorities to trust instead of the system's.
    pub(crate) ca: Option<PathBuf>,
    /// The certificate chain of this client, and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// Why a text is not a URL of RabbitMQ. Never repeats the text, which may contain a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The scheme is missing or unknown.
    #[error("expected a URL that starts with amqp:// or amqps://")]
    Scheme,
    /// What follows the scheme is malformed.
    #[error("invalid AMQP URL ({0}): expected amqp://[user:password@]host[:port][/vhost][?option=value&...]")]
    Malformed(&'static str),
    /// There is no such option.
    #[error("unknown or repeated option in an AMQP URL: expected {OPTIONS}, each once")]
    Option,
    /// An option has an invalid value.
    #[error("invalid value of the option {0} in an AMQP URL: expected {1}")]
    Value(&'static str, String),
    /// An option has no effect.
    #[error("the option {0} in an AMQP URL needs {1}")]
    Requires(&'static str, &'static str),
}

impl Config {
    /// The URL of a server, with options.
    ///
    /// # Errors
    /// It is not one.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        let tls = match scheme {
            "amqp" => None,
            "amqps" => Some(TlsFiles::default()),
            _ => return Err(UrlError::Scheme),
        };
        if rest.contains('#') {
            return Err(UrlError::Malformed("\"#\" must be written as %23"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        if vhost.contains('/') {
            return Err(UrlError::Malformed("\"/\" in the name of a virtual host must be written as %2F"));
        }
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (credentials.split_once(':').unwrap_or((credentials, "")), address),
            // The user that each server has for clients on the same machine.
            None => (("guest", "guest"), authority),
        };
        let (host, port) = self::address(address, if tls.is_some() { 5671 } else { 5672 })?;
        let vhost = if vhost.is_empty() { "/".to_owned() } else { name("virtual host", &decoded(vhost)?)? };
        let mut config = Self {
            host,
            port,
            tls,
            user: decoded(credentials.0)?,
            password: decoded(credentials.1)?,
            vhost,
            exchange: DEFAULT_EXCHANGE.to_owned(),
            declares_exchange: true,
            queue: None,
            bounds: Bounds { events: DEFAULT_QUEUE_EVENTS, bytes: DEFAULT_QUEUE_BYTES },
            prefetch: DEFAULT_PREFETCH,
            heartbeat: DEFAULT_HEARTBEAT,
            timeout: DEFAULT_TIMEOUT,
            is_persistent: true,
        };
        config.set_options(query)?;
        Ok(config)
    }

    fn set_options(&mut self, query: &str) -> Result<(), UrlError> {
        let (mut expires, mut certificate, mut key) = (None, None, None);
        let mut seen = Vec::new();
        for (option, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = &*value;
            if seen.contains(&option) {
                return Err(UrlError::Option);
            }
            match &*option {
                "exchange" => self.exchange = name("exchange", value)?,
                "declare" => self.declares_exchange = on("declare", value)?,
                "queue" => self.queue = Some(Queue { name: name("queue", value)?, expires: DEFAULT_EXPIRES }),
                "expires" => expires = Some(duration("expires", value, Duration::from_secs(1))?),
                "max-length" => self.bounds.events = number("max-length", value, u32::MAX)?,
                "max-length-bytes" => {
                    let size: Option<Size> = value.parse().ok();
                    let bytes = size.and_then(|Size(bytes)| u32::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
                    let expected = || "bytes, such as 65536 or 64MiB, less than 4GiB".to_owned();
                    self.bounds.bytes = bytes.ok_or_else(|| UrlError::Value("max-length-bytes", expected()))?;
                }
                "prefetch" => self.prefetch = number("prefetch", value, u16::MAX)?,
                "heartbeat" => {
                    let heartbeat = duration("heartbeat", value, Duration::from_secs(1))?;
                    let seconds = u16::try_from(heartbeat.as_secs()).ok().filter(|_| heartbeat.subsec_nanos() == 0);
                    let expected = || "whole seconds, such as 10s, or minutes".to_owned();
                    self.heartbeat = seconds.ok_or_else(|| UrlError::Value("heartbeat", expected()))?;
                }
                "timeout" => self.timeout = duration("timeout", value, Duration::from_millis(1))?,
                "persistent" => self.is_persistent = on("persistent", value)?,
                "ca" => self.tls.as_mut().ok_or(UrlError::Requires("ca", "amqps://"))?.ca = Some(value.into()),
                "cert" => certificate = Some(value.into()),
                "key" => key = Some(value.into()),
                _ => return Err(UrlError::Option),
            }
            seen.push(option);
        }
        if let Some(expires) = expires {
            self.queue.as_mut().ok_or(UrlError::Requires("expires", "the option queue"))?.expires = expires;
        }
        let identity = match (certificate, key) {
            (None, None) => return Ok(()),
            (Some(_), None) => return Err(UrlError::Requires("cert", "the option key")),
            (None, Some(_)) => return Err(UrlError::Requires("key", "the option cert")),
            (Some(certificate), Some(key)) => (certificate, key),
        };
        self.tls.as_mut().ok_or(UrlError::Requires("cert", "amqps://"))?.identity = Some(identity);
        Ok(())
    }
}

/// A host and its port.
fn address(text: &str, default_port: u16) -> Result<(String, u16), UrlError> {
    // An address of IPv6 is in brackets.
    let (host, rest) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or(UrlError::Malformed("a bracket is not closed"))?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse().map_err(|_| UrlError::Malformed("the port is not a number from 0 to 65535"))?,
        None if rest.is_empty() => default_port,
        None => return Err(UrlError::Malformed("a port must follow a colon")),
    };
    if host.is_empty() {
        return Err(UrlError::Malformed("there is no host"));
    }
    Ok((host.to_owned(), port))
}

fn decoded(text: &str) -> Result<String, UrlError> {
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded.map_err(|_| UrlError::Malformed("what is percent-encoded is not UTF-8"))?.into_owned())
}

fn name(option: &'static str, text: &str) -> Result<String, UrlError> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES || text.contains(char::is_control) {
        let expected = format!("a name of 1 to {MAX_NAME_BYTES} bytes without control characters");
        return Err(UrlError::Value(option, expected));
    }
    Ok(text.to_owned())
}

fn on(option: &'static str, text: &str) -> Result<bool, UrlError> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(UrlError::Value(option, "on or off".to_owned())),
    }
}

fn number<T: FromStr + From<u8> + PartialOrd + fmt::Display>(
    option: &'static str,
    text: &str,
    max: T,
) -> Result<T, UrlError> {
    let number = text.parse().ok().filter(|number| *number >= T::from(1));
    number.ok_or_else(|| UrlError::Value(option, format!("a whole number from 1 to {max}")))
}

fn duration(option: &'static str, text: &str, min: Duration) -> Result<Duration, UrlError> {
    let duration = humantime::parse_duration(text).ok().filter(|duration| *duration >= min);
    duration.ok_or_else(|| {
        UrlError::Value(
            option,
            format!("a number with a unit, such as 10s or 2m, at least {}", humantime::format_duration(min)),
        )
    })
}

impl fmt::Display for Config {
    /// The URL with what identifies the source, without the password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, user, vhost, exchange, queue, .. } = self;
        let scheme = if self.tls.is_some() { "amqps" } else { "amqp" };
        let encoded = |text| utf8_percent_encode(text, DISPLAYED);
        let bracketed = if host.contains(':') { ["[", "]"] } else { ["", ""] };
        write!(formatter, "{scheme}://{}:***@{}{host}{}:{port}", encoded(user), bracketed[0], bracketed[1])?;
        write!(formatter, "/{}?exchange={}", encoded(vhost), encoded(exchange))?;
        match queue {
            Some(queue) => write!(formatter, "&queue={}", encoded(&queue.name)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(url: &str) -> Config {
        Config::parse(url).unwrap()
    }

    #[test]
    fn url_has_defaults() {
        let config = parse("amqp://localhost");
        assert_eq!(config.to_string(), "amqp://guest:***@localhost:5672/%2F?exchange=tallycast");
        assert_eq!((&*config.password, &*config.vhost, config.queue.clone()), ("guest", "/", None));
        assert_eq!(parse("amqp://localhost/"), config);
        assert_eq!(parse("amqp://localhost:5672/%2f?exchange=tallycast&persistent=on"), config);
        assert_eq!((parse("amqps://h").port, parse("amqp://[::1]:7/v").host), (5671, "::1".to_owned()));
    }

    #[test]
    fn options_are_read() {
        let config = parse(
            "amqps://a%40b:p%2Fq@host:1/v?exchange=e&declare=off&queue=node-1&expires=2h&max-length=5&max-length-bytes=1MiB\
             &prefetch=7&heartbeat=3s&timeout=250ms&persistent=off&ca=/ca.pem&cert=/c.pem&key=/k.pem",
        );
        assert_eq!(config.to_string(), "amqps://a%40b:***@host:1/v?exchange=e&queue=node-1");
        assert_eq!((&*config.user, &*config.password), ("a@b", "p/q"));
        assert_eq!(config.queue, Some(Queue { name: "node-1".to_owned(), expires: Duration::from_secs(7200) }));
        assert_eq!(config.bounds, Bounds { events: 5, bytes: 1 << 20 });
        assert_eq!((config.prefetch, config.heartbeat, config.timeout), (7, 3, Duration::from_millis(250)));
        assert!(!config.declares_exchange && !config.is_persistent);
        let identity = Some(("/c.pem".into(), "/k.pem".into()));
        assert_eq!(config.tls, Some(TlsFiles { ca: Some("/ca.pem".into()), identity }));
    }

    #[test]
    fn error_says_what_was_expected_and_no_secret() {
        for (url, expected) in [
            ("localhost:5672", "starts with amqp://"),
            ("redis://:secret@h", "starts with amqp://"),
            ("amqp://u:secret@", "there is no host"),
            ("amqp://u:secret@h:port", "not a number from 0 to 65535"),
            ("amqp://u:sec#ret@h", "%23"),
            ("amqp://u:secret@h/a/b", "%2F"),
            ("amqp://u:%ffsecret@h", "not UTF-8"),
            ("amqp://u:p?secret@h", "not a number"),
            ("amqp://h?secret=1", "unknown or repeated option"),
            ("amqp://h?queue=a&queue=b", "unknown or repeated option"),
            ("amqp://h?queue=", "1 to 255 bytes"),
            ("amqp://h?expires=1h", "needs the option queue"),
            ("amqp://h?queue=a&expires=1ms", "at least 1s"),
            ("amqp://h?prefetch=0", "from 1 to 65535"),
            ("amqp://h?prefetch=65536", "from 1 to 65535"),
            ("amqp://h?max-length-bytes=4GiB", "less than 4GiB"),
            ("amqp://h?heartbeat=1500ms", "whole seconds"),
            ("amqp://h?declare=yes", "on or off"),
            ("amqp://h?ca=a", "needs amqps://"),
            ("amqp://h?cert=a&key=b", "needs amqps://"),
            ("amqps://h?cert=a", "needs the option key"),
        ] {
            let error = Config::parse(url).unwrap_err().to_string();
            let is_hidden = !error.contains("secret") && !error.contains("sec#");
            assert!(error.contains(expected) && is_hidden, "{url} -> {error}");
            assert_eq!(error.lines().count(), 1);
        }
    }

    proptest! {
        #[test]
        fn password_is_never_shown(text in "[A-Z@:/?#&=%0-9]{1,12}") {
            for url in [format!("amqp://user:x{text}y@host/v"), format!("amqp://user:x{text}y@host?queue=z")] {
                match Config::parse(&url) {
                    Ok(config) => {
                        let shown = format!("{config} {config:?}");
                        // What is no password by its position is something else, such as a host.
                        prop_assert!(!shown.contains(&format!(":{}@", config.password)), "{} -> {}", url, shown);
                    }
                    Err(error) => prop_assert!(!error.to_string().contains(&format!("x{text}y")), "{} -> {}", url, error),
                }
            }
        }
    }
}
