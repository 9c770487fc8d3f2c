//! The URL of an origin: what is read there, over which transport, and by which token.

use std::fmt;
use std::path::PathBuf;

use form_urlencoded::Serializer;
use hyper::Uri;
use hyper::http::uri::Authority;
use percent_encoding::percent_decode_str;

use crate::config::Secret;

/// The path of everything that an origin has.
const EVERYTHING: &str = "/subscribe";
/// The names that servers know for the parameter with the token, which is not sent as one.
const TOKENS: [&str; 3] = ["token", "access_token", "authorization"];
/// The parameter with a topic. No other one is sent: it could be a secret with a name that is not known here.
const TOPIC: &str = "topic";
/// Parameters that say what another server must decide for itself, or that would leave something out.
const OWN: [&str; 12] = [
    "relay",
    "snapshot",
    "envelope",
    "notices",
    "max-rate",
    "last",
    "since",
    "lastEventID",
    "lastEventId",
    "last_event_id",
    "Last-Event-ID",
    "ticket",
];
/// The fragment by which any certificate is accepted.
const INSECURE: &str = "insecure";

/// Where an origin is, and what is read there. Its `Debug` output has no secrets.
#[derive(Debug, Clone)]
pub struct Config {
    pub(super) transport: Transport,
    pub(super) authority: Authority,
    /// Path and query, with everything that asks for the format of relays.
    pub(super) target: String,
    pub(super) token: Option<Token>,
    /// Whether any certificate is accepted.
    pub(super) is_insecure: bool,
}

/// How the stream comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// As an event stream, over HTTP/2 or HTTP/1.1 with TLS, and over HTTP/1.1 without.
    Http {
        is_tls: bool,
    },
    WebSocket {
        is_tls: bool,
    },
}

/// The token of this server.
#[derive(Debug, Clone)]
pub(super) enum Token {
    Text(Secret),
    /// In a file, which is read for each session.
    File(PathBuf),
}

/// Why a text is not the URL of an origin. Never repeats what may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The scheme is missing or unknown, or something else cannot be read.
    #[error("expected the URL of another tallycast, such as https://origin.example.org/subscribe/orders")]
    Malformed,
    /// The path is not one of streams.
    #[error("expected a path below /subscribe or /ws, or none for everything, found {0:?}")]
    Path(String),
    /// A parameter is one that the server decides itself.
    #[error("the parameter {0} is not possible in the URL of an origin; expected topic and token alone")]
    Parameter(&'static str),
    /// A parameter is unknown. Its name may be a secret: that of a value with a character that was not escaped.
    #[error("a parameter in the URL of an origin is unknown; expected topic and token alone")]
    UnknownParameter,
    /// The fragment is unknown, or means nothing without TLS.
    #[error("expected no fragment, or with https and wss #insecure, which accepts any certificate")]
    Fragment,
    /// There are two tokens.
    #[error("expected one token: before the host, or as token=@FILE")]
    Tokens,
}

impl Transport {
    pub(super) fn is_tls(self) -> bool {
        match self {
            Self::Http { is_tls } | Self::WebSocket { is_tls } => is_tls,
        }
    }
}

impl Config {
    /// Reads `http`, `https`, `ws` or `wss`, a host, topics as a client would name them, and perhaps a token.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let (url, fragment) = url.split_once('#').map_or((url, None), |(url, fragment)| (url, Some(fragment)));
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Malformed)?;
        let transport = match scheme {
            "http" => Transport::Http { is_tls: false },
            "https" => Transport::Http { is_tls: true },
            "ws" => Transport::WebSocket { is_tls: false },
            "wss" => Transport::WebSocket { is_tls: true },
            _ => return Err(UrlError::Malformed),
        };
        let is_insecure = match fragment {
            None => false,
            Some(INSECURE) if transport.is_tls() => true,
            Some(_) => return Err(UrlError::Fragment),
        };
        let (host, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (credentials, host) = host.rsplit_once('@').map_or((None, host), |(user, host)| (Some(user), host));
        let authority: Authority = host.parse().map_err(|_| UrlError::Malformed)?;
        let before_host = match credentials {
            None => None,
            Some(credentials) => {
                // As a password, or alone.
                let token = credentials.rsplit_once(':').map_or(credentials, |(_, password)| password);
                let token = percent_decode_str(token).decode_utf8().map_err(|_| UrlError::Malformed)?;
                Some(token.into_owned())
            }
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = match path {
            "" | "/" => EVERYTHING,
            path if ["/subscribe", "/ws"].iter().any(|prefix| {
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }) =>
            {
                path
            }
            path => return Err(UrlError::Path(path.to_owned())),
        };
        // An event stream has no path of its own below /ws.
        let path = match transport {
            Transport::Http { .. } if path == "/ws" || path.starts_with("/ws/") => {
                return Err(UrlError::Path(path.to_owned()));
            }
            _ => path,
        };
        let mut parameters = Serializer::new(String::new());
        let mut tokens: Vec<String> = before_host.into_iter().collect();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if TOKENS.contains(&&*name) {
                tokens.push(value.into_owned());
            } else if name == TOPIC {
                parameters.append_pair(&name, &value);
            } else {
                let own = OWN.into_iter().find(|own| *own == name);
                return Err(own.map_or(UrlError::UnknownParameter, UrlError::Parameter));
            }
        }
        parameters.append_pair("relay", "1");
        let token = match &*tokens {
            [] => None,
            [token] if token.is_empty() => return Err(UrlError::Malformed),
            [token] => Some(match token.strip_prefix('@') {
                Some(path) => Token::File(path.into()),
                None => Token::Text(Secret::new(token)),
            }),
            _ => return Err(UrlError::Tokens),
        };
        let target = format!("{path}?{}", parameters.finish());
        if target.parse::<Uri>().is_err() {
            return Err(UrlError::Malformed);
        }
        Ok(Self { transport, authority, target, token, is_insecure })
    }
}

impl fmt::Display for Config {
    /// Without the token.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Http { is_tls: false } => "http",
            Transport::Http { is_tls: true } => "https",
            Transport::WebSocket { is_tls: false } => "ws",
            Transport::WebSocket { is_tls: true } => "wss",
        };
        let target = self.target.strip_suffix("?relay=1").or_else(|| self.target.strip_suffix("&relay=1"));
        write!(formatter, "{scheme}://{}{}", self.authority, target.unwrap_or(&self.target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_sent_as_they_are_and_everything_is_the_default() {
        let of = |url: &str| {
            let config = Config::parse(url).unwrap();
            (config.target.clone(), config.to_string())
        };
        let both = |target: &str, shown: &str| (target.to_owned(), shown.to_owned());
        assert_eq!(of("https://a"), both("/subscribe?relay=1", "https://a/subscribe"));
        assert_eq!(of("http://a:1/"), both("/subscribe?relay=1", "http://a:1/subscribe"));
        assert_eq!(of("ws://[::1]:1/ws/x"), both("/ws/x?relay=1", "ws://[::1]:1/ws/x"));
        assert_eq!(
            of("wss://a/subscribe/x,y?topic=/a/*#insecure"),
            both("/subscribe/x,y?topic=%2Fa%2F*&relay=1", "wss://a/subscribe/x,y?topic=%2Fa%2F*")
        );
    }

    #[test]
    fn token_is_a_secret_in_each_place() {
        for url in [
            "https://hunter2@a/subscribe/x",
            "https://u:hunter%32@a/subscribe/x",
            "https://a/subscribe/x?token=hunter2",
            "https://a/subscribe/x?access_token=hunter2",
            "https://a/subscribe/x?topic=y&authorization=hunter2",
        ] {
            let config = Config::parse(url).unwrap();
            assert!(matches!(&config.token, Some(Token::Text(token)) if token.expose() == "hunter2"), "{url}");
            assert!(!format!("{config} {config:?}").contains("hunter"), "{url}");
            assert!(!config.target.contains("hunter"));
        }
        let config = Config::parse("https://a?token=@/run/token").unwrap();
        assert!(matches!(&config.token, Some(Token::File(path)) if path.as_os_str() == "/run/token"));
    }

    #[test]
    fn errors_say_what_was_expected_and_no_secret() {
        for (url, error) in [
            ("https://", UrlError::Malformed),
            ("a/b", UrlError::Malformed),
            ("ftp://a", UrlError::Malformed),
            ("https://hunter2@a b", UrlError::Malformed),
            ("https://a?token=", UrlError::Malformed),
            ("https://a/v1", UrlError::Path("/v1".to_owned())),
            ("https://a/ws/x", UrlError::Path("/ws/x".to_owned())),
            ("https://a/subscribed", UrlError::Path("/subscribed".to_owned())),
            ("https://a?snapshot=1", UrlError::Parameter("snapshot")),
            ("https://a?Token=hunter2", UrlError::UnknownParameter),
            ("https://a?token=x&hunter2", UrlError::UnknownParameter),
            ("https://a?token=x&access_token=hunter2", UrlError::Tokens),
            ("http://a#insecure", UrlError::Fragment),
            ("https://a#hunter2", UrlError::Fragment),
            ("https://hunter2@a?token=hunter2", UrlError::Tokens),
        ] {
            let found = Config::parse(url).unwrap_err();
            assert!(found == error && !found.to_string().contains("hunter2"), "{url}: {found}");
        }
    }
}
