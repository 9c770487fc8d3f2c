//! The URL of NATS servers with its options, displayed without secrets.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::config::Secret;

/// The port of a server whose URL names none.
const DEFAULT_PORT: u16 = 4222;
/// The default of the option `timeout`.
const LIMIT: Duration = Duration::from_secs(5);
/// Its possible values.
const LIMITS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60 * 60);
/// Servers in a URL.
const MAX_SERVERS: usize = 64;

/// Where NATS is and how to log in there. Neither its `Display` nor its `Debug` has secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrl {
    /// Hosts with their ports, such as `localhost:4222`; at least one.
    pub(super) servers: Vec<String>,
    pub(super) login: Login,
    pub(super) tls: Tls,
    /// What the names of the subjects for replies begin with, without the dot at the end.
    pub(super) inbox: Option<String>,
    /// The JetStream domain.
    pub(super) domain: Option<String>,
    /// How long connecting and each answer may take.
    pub(super) limit: Duration,
}

/// How to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Login {
    None,
    Password {
        user: String,
        password: Secret,
    },
    Token(Secret),
    /// A file with a JWT and the seed of its key.
    Credentials(PathBuf),
    /// The seed of a key.
    Seed(Secret),
    /// A file with the seed of a key.
    SeedFile(PathBuf),
}

/// What is said about TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tls {
    /// Nothing is sent without TLS. Otherwise the server decides.
    pub(super) is_required: bool,
    /// TLS begins before the server has greeted.
    pub(super) is_first: bool,
    /// The file of the authorities to trust, instead of those of the system.
    pub(super) authority: Option<PathBuf>,
    /// The files of the client's certificate and its key.
    pub(super) certificate: Option<(PathBuf, PathBuf)>,
}

/// Why a text is not a [`NatsUrl`]. Never repeats what may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The scheme is missing or unknown.
    #[error("expected a URL that starts with nats:// or tls://")]
    Scheme,
    /// There is more than servers and options.
    #[error(
        "invalid NATS URL: expected nats://[user:password@]host[:port][,host[:port]...][?option=value], without a path"
    )]
    Path,
    /// A server is invalid.
    #[error("invalid server in a NATS URL: expected host or host:port, such as localhost:4222")]
    Server,
    /// There are too many servers.
    #[error("too many servers in a NATS URL: expected {MAX_SERVERS} at most")]
    TooManyServers,
    /// The user, password or token has a `?`, with which the options begin.
    #[error("invalid NATS URL: expected %3F instead of ? in a user, password or token, and no @ in names of options")]
    QuestionMark,
    /// User, password or token are not UTF-8.
    #[error("invalid user, password or token in a NATS URL: expected percent-encoded UTF-8")]
    NotText,
    /// There is no such option.
    #[error("unknown option {0:?} in a NATS URL: expected one of {OPTIONS}")]
    UnknownOption(String),
    /// There is no such option, and its name may be a part of a secret.
    #[error("unknown option in a NATS URL: expected one of {OPTIONS}")]
    HiddenOption,
    /// The option has an impossible value.
    #[error("invalid value for the option {0} in a NATS URL: expected {1}")]
    Option(&'static str, &'static str),
    /// There are several ways to log in.
    #[error("more than one way to log in in a NATS URL: expected one of user:password@, token@, creds and nkey")]
    Login,
    /// One of two files is missing.
    #[error("a client certificate needs both options cert and key in a NATS URL")]
    Certificate,
}

const OPTIONS: &str = "creds, nkey, ca, cert, key, tls-first, inbox, domain, timeout";

impl NatsUrl {
    /// Reads a URL. Files that it names are read at each connection.
    ///
    /// # Errors
    /// It is not valid, or has an unknown option.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let is_required = match scheme {
            "nats" => false,
            "tls" => true,
            _ => return Err(UrlError::Scheme),
        };
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        // Then the options are the rest of a password.
        if form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name.contains('@')) {
            return Err(UrlError::QuestionMark);
        }
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (user_info, hosts) = match authority.rsplit_once('@') {
            Some((user_info, hosts)) => (Some(user_info), hosts),
            None => (None, authority),
        };
        if hosts.contains('/') {
            return Err(UrlError::Path);
        }
        let servers: Vec<String> = hosts.split(',').map(server).collect::<Result<_, _>>()?;
        if servers.len() > MAX_SERVERS {
            return Err(UrlError::TooManyServers);
        }
        let login = user_info.map_or(Ok(Login::None), login)?;
        let mut url = Self {
            servers,
            login,
            tls: Tls { is_required, ..Tls::default() },
            inbox: None,
            domain: None,
            limit: LIMIT,
        };
        url.read_options(query)?;
        Ok(url)
    }

    fn read_options(&mut self, query: &str) -> Result<(), UrlError> {
        let (mut certificate, mut key) = (None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "creds" => self.log_in(Login::Credentials(path("creds", &value)?))?,
                "nkey" => self.log_in(match value.strip_prefix('@') {
                    Some(file) => Login::SeedFile(path("nkey", file)?),
                    None if value.starts_with('S') => Login::Seed(Secret::new(&value)),
                    None => {
                        return Err(UrlError::Option(
                            "nkey",
                            "a seed, which begins with S, or @ and the path of a file",
                        ));
                    }
                })?,
                "ca" => self.tls.authority = Some(path("ca", &value)?),
                "cert" => certificate = Some(path("cert", &value)?),
                "key" => key = Some(path("key", &value)?),
                "tls-first" => {
                    self.tls.is_first = match &*value {
                        "true" => true,
                        "false" => false,
                        _ => return Err(UrlError::Option("tls-first", "true or false")),
                    };
                    self.tls.is_required |= self.tls.is_first;
                }
                "inbox" => self.inbox = Some(token_list("inbox", value)?),
                "domain" if value.contains('.') => {
                    return Err(UrlError::Option("domain", "the name of a JetStream domain"));
                }
                "domain" => self.domain = Some(token_list("domain", value)?),
                "timeout" => {
                    let limit = humantime::parse_duration(&value).ok().filter(|limit| LIMITS.contains(limit));
                    self.limit = limit.ok_or(UrlError::Option("timeout", "100ms to 1h, such as 5s"))?;
                }
                // With an `@` after it, it may be a part of a password.
                _ if query.contains('@') || !is_option_name(&name) => return Err(UrlError::HiddenOption),
                _ => return Err(UrlError::UnknownOption(name.into_owned())),
            }
        }
        self.tls.certificate = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err(UrlError::Certificate),
        };
        Ok(())
    }

    fn log_in(&mut self, login: Login) -> Result<(), UrlError> {
        if self.login != Login::None {
            return Err(UrlError::Login);
        }
        self.login = login;
        Ok(())
    }

    /// The JetStream domain.
    pub(crate) fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// The scheme of the URL.
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_required { "tls" } else { "nats" }
    }
}

/// Whether a text looks like the name of an option.
fn is_option_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|character| character.is_ascii_lowercase() || character == '-')
}

/// A host with its port.
fn server(text: &str) -> Result<String, UrlError> {
    // Without the text: it may be a part of a password.
    let error = || UrlError::Server;
    // An IPv6 address is in brackets.
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(error)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(error)?) };
            (&text[..address.len() + 2], port)
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let is_name = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if host.is_empty() || !(host.starts_with('[') || host.chars().all(is_name)) {
        return Err(error());
    }
    let port = port.map_or(Ok(DEFAULT_PORT), str::parse::<u16>).map_err(|_| error())?;
    Ok(format!("{host}:{port}"))
}

fn login(user_info: &str) -> Result<Login, UrlError> {
    let decode = |text| percent_decode_str(text).decode_utf8().map_err(|_| UrlError::NotText);
    Ok(match user_info.split_once(':') {
        Some((user, password)) => {
            Login::Password { user: decode(user)?.into_owned(), password: Secret::new(&decode(password)?) }
        }
        None => Login::Token(Secret::new(&decode(user_info)?)),
    })
}

fn path(option: &'static str, value: &str) -> Result<PathBuf, UrlError> {
    if value.is_empty() {
        return Err(UrlError::Option(option, "the path of a file"));
    }
    Ok(value.into())
}

/// A text that subjects may begin with.
fn token_list(option: &'static str, value: Cow<'_, str>) -> Result<String, UrlError> {
    if super::is_subject(&value) {
        Ok(value.into_owned())
    } else {
        Err(UrlError::Option(option, "words with dots in between"))
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://", self.scheme())?;
        match &self.login {
            Login::None => {}
            Login::Password { user, password } => write!(formatter, "{user}:{password}@")?,
            Login::Token(token) => write!(formatter, "{token}@")?,
            Login::Credentials(_) | Login::Seed(_) | Login::SeedFile(_) => formatter.write_str("***@")?,
        }
        formatter.write_str(&self.servers.join(","))
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        NatsUrl::parse(text).map_or_else(|error| format!("error: {error}"), |url| url.to_string())
    }

    #[test]
    fn servers_have_ports_and_secrets_are_hidden() {
        assert_eq!(shown("nats://localhost"), "nats://localhost:4222");
        assert_eq!(shown("nats://a,b:1,[::1],[::1]:2/"), "nats://a:4222,b:1,[::1]:4222,[::1]:2");
        assert_eq!(shown("tls://ann:se%40cret@host"), "tls://ann:***@host:4222");
        assert_eq!(shown("nats://secret@host"), "nats://***@host:4222");
        assert_eq!(shown("nats://host?nkey=SUAsecret&domain=hub"), "nats://***@host:4222");
        assert_eq!(shown("nats://host?creds=/secret&tls-first=true"), "tls://***@host:4222");
        let Ok(NatsUrl { login: Login::Password { user, password }, .. }) = NatsUrl::parse("nats://a%3Ab:c%2Fd:e@h")
        else {
            panic!("a password")
        };
        assert_eq!((&*user, password.expose()), ("a:b", "c/d:e"));
    }

    #[test]
    fn options_are_read() {
        let url =
            NatsUrl::parse("nats://h?timeout=1m&ca=/ca.pem&cert=/c&key=/k&inbox=_INBOX.ann&domain=hub&nkey=@/seed")
                .unwrap();
        let certificate = Some(("/c".into(), "/k".into()));
        assert_eq!(url.tls, Tls { authority: Some("/ca.pem".into()), certificate, ..Tls::default() });
        assert_eq!((url.inbox.as_deref(), url.domain.as_deref()), (Some("_INBOX.ann"), Some("hub")));
        assert_eq!((url.login, url.limit), (Login::SeedFile("/seed".into()), Duration::from_secs(60)));
    }

    #[test]
    fn invalid_urls_say_what_was_expected() {
        for (url, expected) in [
            ("redis://h", "starts with nats:// or tls://"),
            ("nats://h/path", "without a path"),
            ("nats://h:port", "invalid server in a NATS URL"),
            ("nats://", "invalid server in a NATS URL"),
            ("nats://[::1", "invalid server"),
            ("nats://h?user=ann", "unknown option \"user\""),
            ("nats://h?Hunter2=x", "unknown option in a NATS URL"),
            // An unencoded `?` in a password or token.
            ("nats://ann:hunter2?x@host", "expected %3F instead of ?"),
            ("nats://s3cr?et@host", "expected %3F instead of ?"),
            ("nats://s3cr?a=b&et@host", "expected %3F instead of ?"),
            ("nats://ann:hunter2?et=x@host", "invalid server in a NATS URL"),
            ("nats://s3cr?et=x@host", "unknown option in a NATS URL"),
            ("nats://h?tls-first=1", "expected true or false"),
            ("nats://h?nkey=hunter2", "a seed, which begins with S"),
            ("nats://ann:hunter2@h?creds=/x", "more than one way to log in"),
            ("nats://h?cert=/x", "both options cert and key"),
            ("nats://h?inbox=a..b", "the option inbox"),
            ("nats://h?domain=a.b", "the option domain"),
            ("nats://h?creds=", "the option creds"),
            ("nats://h?timeout=0s", "100ms to 1h"),
            ("nats://h?timeout=5", "100ms to 1h"),
        ] {
            let error = shown(url);
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!["hunter2", "Hunter2", "s3cr", "\"et"].iter().any(|secret| error.contains(secret)), "{error}");
        }
    }

    proptest! {
        #[test]
        fn passwords_are_never_shown(password in "[!-~]{1,8}", rest in "[!-~]{0,20}") {
            let secret = format!("hunter2{}", percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC));
            let url = format!("nats://ann:{secret}@{rest}");
            prop_assert!(!shown(&url).contains("hunter2") || rest.contains('@'), "{}", shown(&url));
        }
    }
}
