//! The URL of a Redis server, or of several that belong together, displayed without its passwords.

use std::fmt;
use std::str::FromStr;

use redis::{ConnectionInfo, IntoConnectionInfo};

use super::group_url;

/// A valid Redis URL. Its [`Display`](fmt::Display) hides the passwords.
#[derive(Clone)]
pub struct RedisUrl {
    pub(super) topology: Topology,
    /// Whether replicas are read where that is exact enough.
    pub(super) reads_replicas: bool,
    masked: String,
}

/// How to find the server that a command or a subscription is for.
#[derive(Clone)]
pub(super) enum Topology {
    /// One server.
    Single(ConnectionInfo),
    /// The primary that Sentinels name.
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        /// The name of the primary.
        name: String,
        /// How to connect to servers, whose addresses replace the one here.
        server: ConnectionInfo,
    },
    /// A Redis Cluster, of which these nodes are known.
    Cluster(Vec<ConnectionInfo>),
}

impl RedisUrl {
    /// Whether it is the URL of a Redis Cluster.
    pub fn is_cluster(&self) -> bool {
        matches!(self.topology, Topology::Cluster(_))
    }
}

/// Why a text is not a [`RedisUrl`]. Never repeats the text, which may contain a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The scheme is missing or unknown.
    #[error(
        "expected a URL that starts with redis://, rediss://, redis+unix://, redis+sentinel:// or redis+cluster://"
    )]
    Scheme,
    /// The client library rejects it.
    #[error("invalid Redis URL ({0}): expected redis://[user:password@]host[:port][/database]")]
    Malformed(String),
    /// A URL of Sentinels is invalid, for this reason.
    #[error(
        "invalid Redis URL ({0}): expected redis+sentinel://[user:password@]host[:port],.../NAME[/database], and \
         ?read=replica, sentinel-user=, sentinel-password= if needed"
    )]
    Sentinel(&'static str),
    /// A URL of a cluster is invalid, for this reason.
    #[error(
        "invalid Redis URL ({0}): expected redis+cluster://[user:password@]host[:port],..., and ?read=replica if needed"
    )]
    Cluster(&'static str),
}

impl FromStr for RedisUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if let Some((topology, reads_replicas, masked)) = group_url::parse(text)? {
            return Ok(Self { topology, reads_replicas, masked });
        }
        if !["redis://", "rediss://", "redis+unix://", "unix://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(UrlError::Scheme);
        }
        // Without the library's detail, which repeats part of the URL.
        let info = text.into_connection_info().map_err(|error| UrlError::Malformed(error.category().to_owned()))?;
        Ok(Self { topology: Topology::Single(info), reads_replicas: false, masked: mask(text) })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.masked)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.masked)
    }
}

/// The URL with its password and any query replaced by `***`.
fn mask(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "***".to_owned();
    };
    // A socket URL has its password in the query. In other URLs, a '?' may be part of the password.
    let (rest, socket_query) = if scheme.ends_with("unix") { hide_from_query(rest) } else { (rest, "") };
    // Everything before the last '@' may be a password that contains '/'.
    let Some((credentials, host)) = rest.rsplit_once('@') else {
        let (rest, query) = hide_from_query(rest);
        return format!("{scheme}://{rest}{query}{socket_query}");
    };
    let user = credentials.split([':', '/', '?', '#']).next().unwrap_or_default();
    let (host, query) = hide_from_query(host);
    format!("{scheme}://{user}:***@{host}{query}{socket_query}")
}

/// The text before the query, and the replacement for the query.
fn hide_from_query(text: &str) -> (&str, &'static str) {
    text.split_once('?').map_or((text, ""), |(before, _)| (before, "?***"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn passwords_are_hidden() {
        let shown = |url: &str| url.parse::<RedisUrl>().unwrap().to_string();
        assert_eq!(shown("redis://user:secret@host:6379/1"), "redis://user:***@host:6379/1");
        assert_eq!(shown("rediss://:se%2Fcret@host/#insecure"), "rediss://:***@host/#insecure");
        assert_eq!(shown("redis://localhost"), "redis://localhost");
        assert!(!format!("{:?}", "redis://:secret@host".parse::<RedisUrl>().unwrap()).contains("secret"));
    }

    #[test]
    fn passwords_are_hidden_in_every_position() {
        let shown = |url: &str| url.parse::<RedisUrl>().unwrap().to_string();
        assert_eq!(shown("redis+unix:///run/redis.sock"), "redis+unix:///run/redis.sock");
        assert_eq!(shown("unix:///run/redis.sock?db=1&user=u&pass=secret"), "unix:///run/redis.sock?***");
        for url in [
            "redis+unix:///run/redis.sock?user=a&pass=sec@ret",
            "unix://:secret@localhost/run/redis.sock?pass=secret",
            "redis://localhost/?password=secret@there",
            "redis://user:12?secret@host",
        ] {
            let shown = shown(url);
            assert!(!shown.contains("sec") && !shown.contains("ret") && !shown.contains("12"), "{url} -> {shown}");
        }
    }

    proptest! {
        #[test]
        fn no_url_displays_its_password(
            before in "rediss?://[a-z:@/?#&=]{0,12}|(redis\\+)?unix:///[a-z@?&=]{0,4}[?&]pass",
            separator in "[:=]",
            after in "[a-z0-9:@/?#&=]{0,6}",
            end in "(@[a-z]{1,4}(/[0-9])?)?",
        ) {
            // In upper case, unlike every other part.
            let text = format!("{before}{separator}FIRST{after}LAST{end}");
            let Ok(url) = text.parse::<RedisUrl>() else { return Ok(()) };
            for secret in ["FIRST", "LAST"] {
                let Topology::Single(info) = &url.topology else { unreachable!() };
                if info.redis_settings().password().is_some_and(|password| password.contains(secret)) {
                    prop_assert!(!url.to_string().contains(secret), "{} -> {}", text, url);
                }
            }
        }
    }

    #[test]
    fn errors_do_not_contain_the_password() {
        let error = |url: &str| url.parse::<RedisUrl>().unwrap_err().to_string();
        assert_eq!(
            error("http://:secret@host"),
            "expected a URL that starts with redis://, rediss://, redis+unix://, redis+sentinel:// or redis+cluster://"
        );
        for url in [
            "redis://:secret@host:port",
            "redis://:secret@host/notanumber",
            "redis://",
            "redis://a:1?protocol=secret@b",
        ] {
            let error = error(url);
            assert!(error.contains("expected redis://") && !error.contains("secret"), "{error}");
        }
    }
}
