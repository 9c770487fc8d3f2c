//! The URL of a Kafka cluster, and what it means to librdkafka.

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use rdkafka::ClientConfig;

/// The port of a broker whose URL has none.
const DEFAULT_PORT: u16 = 9092;
/// The default of `client_id`.
const DEFAULT_CLIENT_ID: &str = "tallycast";
/// The default of `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The shortest `timeout` that librdkafka accepts.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a broker waits for records before it answers a request for some. Other requests wait behind it.
const FETCH_WAIT: Duration = Duration::from_millis(200);
/// What librdkafka wants beside [`FETCH_WAIT`] until it takes a broker for frozen.
const FETCH_MARGIN: Duration = Duration::from_secs(1);

/// What a URL says: `kafka://[user:password@]host[:port][,host[:port]…][?option=value&…]`, with `kafkas` for TLS. Its `Display` and
/// `Debug` hide the password and the options.
#[derive(Clone)]
pub struct Config {
    brokers: Vec<String>,
    tls: Option<Tls>,
    sasl: Option<Sasl>,
    client_id: String,
    compression: String,
    timeout: Duration,
    shown: String,
}

#[derive(Clone, Default)]
struct Tls {
    /// The certificates of authorities; those of the system if there are none here.
    ca: Option<String>,
    /// The certificate of this client, and its key.
    certificate: Option<(String, String)>,
    /// The certificate of a broker is not verified.
    is_insecure: bool,
}

#[derive(Clone)]
struct Sasl {
    user: String,
    password: String,
    mechanism: String,
}

/// Why a text is not the URL of a cluster. Never repeats what may contain a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The scheme is missing or unknown.
    #[error("expected a URL that starts with kafka:// or kafkas://")]
    Scheme,
    /// It has no hosts, or a path, or characters at wrong places.
    #[error(
        "invalid Kafka URL: expected kafka://[user:password@]host[:port][,host[:port]...][?option=value&...], with other characters \
         percent-encoded in user and password"
    )]
    Malformed,
    /// There is no such option.
    #[error(
        "invalid Kafka URL: unknown option {0:?}; expected client_id, sasl, timeout, compression, and for kafkas:// ca, cert and key"
    )]
    Option(String),
    /// An option has an invalid value.
    #[error("invalid Kafka URL: {option}: expected {expected}")]
    Value {
        /// The name of the option.
        option: &'static str,
        /// What would be valid.
        expected: &'static str,
    },
    /// TLS is asked for.
    #[error("kafkas:// needs TLS for Kafka, which is not part of this build: build it with the feature kafka-tls")]
    NoTls,
}

impl Config {
    /// Reads a URL. Opens nothing.
    ///
    /// # Errors
    /// It is invalid, or needs TLS and this build has none for Kafka.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let (is_tls, rest) = match url.split_once("://").ok_or(UrlError::Scheme)? {
            ("kafka", rest) => (false, rest),
            ("kafkas", rest) => (true, rest),
            _ => return Err(UrlError::Scheme),
        };
        if is_tls && !cfg!(feature = "kafka-tls") {
            return Err(UrlError::NoTls);
        }
        let (rest, fragment) = rest.split_once('#').map_or((rest, None), |(rest, fragment)| (rest, Some(fragment)));
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        // A password that is not encoded would end up in the query or in the fragment.
        if [query, fragment.unwrap_or_default()].iter().any(|text| text.contains('@')) {
            return Err(UrlError::Malformed);
        }
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None => (None, authority),
        };
        let brokers = hosts.split(',').map(broker).collect::<Option<Vec<String>>>().ok_or(UrlError::Malformed)?;
        let mut tls = is_tls.then(Tls::default);
        match (fragment, &mut tls) {
            (None, _) => {}
            (Some("insecure"), Some(tls)) => tls.is_insecure = true,
            _ => return Err(UrlError::Malformed),
        }
        let mut sasl = credentials.map(sasl).transpose()?;
        let scheme = if is_tls { "kafkas" } else { "kafka" };
        let user = sasl.as_ref().map(|sasl| format!("{}:***@", sasl.user.escape_default())).unwrap_or_default();
        let shown = format!("{scheme}://{user}{}", brokers.join(","));
        let (mut client_id, mut compression, mut timeout) =
            (DEFAULT_CLIENT_ID.to_owned(), "none".to_owned(), DEFAULT_TIMEOUT);
        let (mut certificate, mut key) = (None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            let invalid = |option, expected| Err(UrlError::Value { option, expected });
            match (&*name, &mut tls) {
                ("client_id", _) if is_client_id(&value) => client_id = value,
                ("client_id", _) => return invalid("client_id", "1 to 255 letters, digits, ., _ or -"),
                ("sasl", _) => match &mut sasl {
                    Some(sasl) if ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&&*value) => {
                        sasl.mechanism = value;
                    }
                    Some(_) => return invalid("sasl", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
                    None => return invalid("sasl", "user and password before the host"),
                },
                ("compression", _) if ["none", "gzip", "snappy", "lz4", "zstd"].contains(&&*value) => {
                    compression = value;
                }
                ("compression", _) => return invalid("compression", "none, gzip, snappy, lz4 or zstd"),
                ("timeout", _) => match humantime::parse_duration(&value) {
                    Ok(limit) if limit >= MIN_TIMEOUT && limit <= Duration::from_secs(60) => timeout = limit,
                    _ => return invalid("timeout", "a duration from 1s to 1m, such as 5s"),
                },
                ("ca", Some(tls)) => tls.ca = Some(value),
                ("cert", Some(_)) => certificate = Some(value),
                ("key", Some(_)) => key = Some(value),
                ("ca" | "cert" | "key", None) => return invalid("ca, cert and key", "kafkas://"),
                _ => return Err(UrlError::Option(name.chars().take(32).collect())),
            }
        }
        if let Some(sasl) = &sasl
            && sasl.mechanism != "PLAIN"
            && !cfg!(feature = "kafka-tls")
        {
            // librdkafka has it from OpenSSL.
            let expected = "PLAIN: others need a build with the feature kafka-tls";
            return Err(UrlError::Value { option: "sasl", expected });
        }
        match (certificate, key, &mut tls) {
            (Some(certificate), Some(key), Some(tls)) => tls.certificate = Some((certificate, key)),
            (None, None, _) => {}
            _ => return Err(UrlError::Value { option: "cert and key", expected: "both, or none" }),
        }
        Ok(Self { brokers, tls, sasl, client_id, compression, timeout, shown })
    }

    /// How long connecting, and each answer, may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long a look may take: three questions, each behind a request for records.
    pub(super) fn look_limit(&self) -> Duration {
        self.timeout + FETCH_WAIT * 3
    }

    /// What consumers and producers have in common.
    fn common(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        let milliseconds = |time: Duration| time.as_millis().to_string();
        config
            .set("bootstrap.servers", self.brokers.join(","))
            .set("client.id", &self.client_id)
            .set("socket.keepalive.enable", "true")
            .set("socket.timeout.ms", milliseconds(self.timeout + FETCH_WAIT + FETCH_MARGIN))
            .set("socket.connection.setup.timeout.ms", milliseconds(self.timeout))
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("retry.backoff.ms", "50")
            .set("log.connection.close", "false");
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), None) => "ssl",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(Sasl { user, password, mechanism }) = &self.sasl {
            config.set("sasl.mechanism", mechanism).set("sasl.username", user).set("sasl.password", password);
        }
        if let Some(Tls { ca, certificate, is_insecure }) = &self.tls {
            if let Some(ca) = ca {
                config.set("ssl.ca.location", ca);
            }
            if let Some((certificate, key)) = certificate {
                config.set("ssl.certificate.location", certificate).set("ssl.key.location", key);
            }
            if *is_insecure {
                config.set("enable.ssl.certificate.verification", "false");
            }
        }
        config
    }

    /// A consumer that is told what to read and from where: it commits nothing, and joins no group. Its group has the name of the client
    /// because librdkafka wants one.
    pub(crate) fn consumer(&self) -> ClientConfig {
        let mut config = self.common();
        config
            .set("group.id", &self.client_id)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Where records are missing is for the source to decide.
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            // The bounds of what is received and not yet passed on: for all partitions together, and for each request.
            .set("queued.max.messages.kbytes", "16384")
            .set("queued.min.messages", "10000")
            .set("fetch.max.bytes", "8388608")
            .set("fetch.wait.max.ms", FETCH_WAIT.as_millis().to_string())
            .set("fetch.error.backoff.ms", "100")
            .set("fetch.queue.backoff.ms", "50")
            // Says where partitions end.
            .set("statistics.interval.ms", "500")
            // Nothing is wrong with a consumer that waits for the stages behind it.
            .set("max.poll.interval.ms", "86400000");
        config
    }

    /// A producer whose records are written once and in order by all replicas, or not at all.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut config = self.common();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", self.timeout.as_millis().to_string())
            .set("compression.type", &self.compression)
            // As Java clients do, so that a key is in the same partition whoever publishes it.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "1")
            .set("queue.buffering.max.kbytes", "65536");
        config
    }
}

/// `host:port` of a broker.
fn broker(text: &str) -> Option<String> {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (&text[..address.len() + 2], port.strip_prefix(':').or(port.is_empty().then_some(""))?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let is_host = |character: char| character.is_ascii_alphanumeric() || ".-_[]:".contains(character);
    let is_valid = !host.is_empty() && host.chars().all(is_host) && !(port.is_empty() && text.ends_with(':'));
    match port {
        _ if !is_valid => None,
        "" => Some(format!("{host}:{DEFAULT_PORT}")),
        port => is_port(port).then(|| format!("{host}:{port}")),
    }
}

fn sasl(credentials: &str) -> Result<Sasl, UrlError> {
    let (user, password) = credentials.split_once(':').ok_or(UrlError::Malformed)?;
    let decode = |text: &str| match percent_decode_str(text).decode_utf8() {
        Ok(text) if !text.is_empty() && !text.contains(char::is_control) => Ok(text.into_owned()),
        _ => Err(UrlError::Malformed),
    };
    if user.contains(['/', '@']) || password.contains(['/', '@']) {
        return Err(UrlError::Malformed);
    }
    Ok(Sasl { user: decode(user)?, password: decode(password)?, mechanism: "PLAIN".to_owned() })
}

fn is_client_id(text: &str) -> bool {
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    (1..=255).contains(&text.len()) && text.chars().all(is_allowed)
}

impl fmt::Display for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn consumer(url: &str) -> ClientConfig {
        Config::parse(url).unwrap().consumer()
    }

    #[test]
    fn url_becomes_the_configuration_of_a_client() {
        let config = consumer("kafka://a,b.example:9093,[::1]:1?client_id=edge-1&timeout=2s");
        let get = |key: &str| config.get(key).unwrap_or_default().to_owned();
        assert_eq!(get("bootstrap.servers"), "a:9092,b.example:9093,[::1]:1");
        assert_eq!((get("client.id"), get("group.id")), ("edge-1".to_owned(), "edge-1".to_owned()));
        assert_eq!((get("security.protocol"), get("socket.timeout.ms")), ("plaintext".to_owned(), "3200".to_owned()));
        let config = consumer("kafka://me:p%40ss%2F@a/");
        assert_eq!((config.get("sasl.username"), config.get("sasl.password")), (Some("me"), Some("p@ss/")));
        assert_eq!(
            (config.get("sasl.mechanism"), config.get("security.protocol")),
            (Some("PLAIN"), Some("sasl_plaintext"))
        );
        let producer = Config::parse("kafka://a?compression=lz4").unwrap().producer();
        assert_eq!((producer.get("compression.type"), producer.get("acks")), (Some("lz4"), Some("all")));
        for config in [config, producer] {
            config.create_native_config().unwrap();
        }
    }

    #[test]
    #[cfg(feature = "kafka-tls")]
    fn tls_has_certificates_and_every_mechanism() {
        let config = consumer("kafkas://me:secret@a?sasl=SCRAM-SHA-512&ca=/ca.pem&cert=/c.pem&key=/k.pem#insecure");
        let get = |key: &str| config.get(key);
        assert_eq!((get("security.protocol"), get("sasl.mechanism")), (Some("sasl_ssl"), Some("SCRAM-SHA-512")));
        assert_eq!((get("ssl.ca.location"), get("ssl.key.location")), (Some("/ca.pem"), Some("/k.pem")));
        assert_eq!(get("enable.ssl.certificate.verification"), Some("false"));
    }

    #[test]
    #[cfg(not(feature = "kafka-tls"))]
    fn tls_is_refused_by_a_build_without_it() {
        assert_eq!(Config::parse("kafkas://a").unwrap_err(), UrlError::NoTls);
    }

    #[test]
    fn invalid_urls_are_refused_without_their_secrets() {
        let error = |url: &str| Config::parse(url).unwrap_err().to_string();
        assert_eq!(error("http://:secret@host"), "expected a URL that starts with kafka:// or kafkas://");
        for url in [
            "kafka://",
            "kafka://u:secret@",
            "kafka://u:secret@host:port",
            "kafka://u:secret@host/topic",
            "kafka://u:sec/ret@host",
            "kafka://u:secret?x@host",
            "kafka://u:secret#x@host",
            "kafka://u:secret@host#insecure",
            "kafka://:secret@host",
            "kafka://secret@host",
            "kafka://u:se%ffcret@host",
            "kafka://u:secret@a,,b",
            "kafka://u:secret@[::1",
        ] {
            let error = error(url);
            assert!(
                error.starts_with("invalid Kafka URL: expected kafka://") && !error.contains("secret"),
                "{url}: {error}"
            );
        }
        assert!(error("kafka://a?ca=/x").ends_with("ca, cert and key: expected kafkas://"));
        assert!(error("kafka://a?sasl=PLAIN").ends_with("sasl: expected user and password before the host"));
        assert!(error("kafka://u:p@a?sasl=GSSAPI").ends_with("sasl: expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"));
        assert!(error("kafka://a?timeout=1ms").ends_with("timeout: expected a duration from 1s to 1m, such as 5s"));
        assert!(error("kafka://a?compression=x").ends_with("expected none, gzip, snappy, lz4 or zstd"));
        assert!(error("kafka://a?client_id=").ends_with("expected 1 to 255 letters, digits, ., _ or -"));
        assert!(error("kafka://a?acks=0").contains("unknown option \"acks\"; expected client_id"));
    }

    proptest! {
        #[test]
        fn no_url_shows_its_password(user in "[a-z%:@/?#]{0,4}", password in "[A-Z]{4}[:@/?#&=%a-z]{0,4}[A-Z]{4}", rest in "@[a-z:,?#=]{0,8}") {
            let shown = match Config::parse(&format!("kafka://{user}:{password}{rest}")) {
                Ok(config) => format!("{config} {config:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!shown.contains(&password[..4]) && !shown.contains(&password[password.len() - 4..]), "{}", shown);
        }
    }
}
