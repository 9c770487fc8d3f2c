//! Validation of the Redis server that the feeder writes to.

use std::fmt;
use std::net::IpAddr;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// Supported URL schemes.
const SCHEMES: [&str; 3] = ["redis://", "redis+unix://", "unix://"];

/// A Redis server that the feeder may write to. `Display` omits user and password.
#[derive(Clone, Debug)]
pub(crate) struct Target(ConnectionInfo);

/// Why a URL is rejected. The messages never repeat the URL, which may contain a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    /// An unsupported or missing scheme.
    #[error("--redis (REDIS_URL): expected a URL that starts with redis:// or redis+unix:// (TLS is not supported)")]
    Scheme,
    /// An invalid URL.
    #[error("--redis (REDIS_URL): not a Redis URL ({0}); expected redis://[user:password@]host[:port][/database]")]
    Malformed(String),
    /// A remote server.
    #[error(
        "--redis (REDIS_URL): {0} is neither on this machine nor a Compose service; publishing synthetic data there requires \
         --yes-really"
    )]
    Remote(String),
}

impl Target {
    /// The server at `url`. Remote servers are rejected unless `allow_remote` is set.
    pub(crate) fn new(url: &str, allow_remote: bool) -> Result<Self, TargetError> {
        if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
            return Err(TargetError::Scheme);
        }
        let info = url.into_connection_info().map_err(|error| {
            TargetError::Malformed(error.detail().map_or_else(|| error.category().to_owned(), str::to_owned))
        })?;
        if allow_remote || is_local(info.addr()) {
            Ok(Self(info))
        } else {
            Err(TargetError::Remote(info.addr().to_string()))
        }
    }

    pub(crate) fn connection_info(&self) -> &ConnectionInfo {
        &self.0
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.addr().fmt(formatter)
    }
}

/// Whether the address belongs to this machine or looks like a Compose service name.
fn is_local(address: &ConnectionAddr) -> bool {
    match address {
        ConnectionAddr::Unix(_) => true,
        ConnectionAddr::Tcp(host, _) => match host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => is_service_name(host),
        },
        _ => false,
    }
}

/// Whether `host` is a name without dots, such as `localhost`. A name that begins with a digit could be an address in an
/// unusual form, such as 134744072.
fn is_service_name(host: &str) -> bool {
    host.starts_with(|first: char| first.is_ascii_alphabetic())
        && host.chars().all(|char| char.is_ascii_alphanumeric() || char == '-' || char == '_')
}

/// Replaces everything between `://` and the last `@` after it with `***`.
pub(crate) fn redact_credentials(line: &str) -> String {
    match (line.find("://"), line.rfind('@')) {
        (Some(scheme), Some(host)) if scheme < host => format!("{}://***{}", &line[..scheme], &line[host..]),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_machine_and_compose_services_are_local() {
        for url in [
            "redis://localhost",
            "redis://localhost:6380/2",
            "redis://127.0.0.1:6379",
            "redis://127.9.9.9",
            "redis://user:secret@[::1]:6379",
            "redis://[::ffff:127.0.0.1]",
            "redis://redis:6379",
            "redis://:secret@my-redis_1",
            "unix:///tmp/redis.sock",
            "redis+unix:///tmp/redis.sock?db=1",
        ] {
            assert!(Target::new(url, false).is_ok(), "{url}");
        }
    }

    #[test]
    fn remote_servers_require_confirmation() {
        for host in [
            "example.org",
            "10.0.0.1",
            "192.168.1.2:6379",
            "128.0.0.1",
            "[2001:db8::1]:6379",
            "[::ffff:10.0.0.1]",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "redis.",
            // Names that getaddrinfo resolves as numbers, and an encoded one.
            "134744072",
            "0x08080808",
            "127.1",
            "redis%2Eexample",
        ] {
            let url = format!("redis://user:secret@{host}/1");
            let error = Target::new(&url, false).map(|target| target.to_string()).unwrap_err();
            assert!(matches!(error, TargetError::Remote(_)), "{url}: {error}");
            assert!(!error.to_string().contains("secret") && error.to_string().contains("--yes-really"), "{error}");
            assert!(Target::new(&url, true).is_ok(), "{url}");
        }
    }

    #[test]
    fn invalid_urls_are_rejected_without_repeating_them() {
        for url in ["", "localhost:6379", "http://:secret@localhost", "rediss://:secret@localhost"] {
            assert_eq!(Target::new(url, true).map(|target| target.to_string()), Err(TargetError::Scheme), "{url}");
        }
        for url in ["redis://", "redis://:secret@host:port", "redis://:secret@localhost/no-number", "redis://u:secret"]
        {
            let error = Target::new(url, true).map(|target| target.to_string()).unwrap_err();
            assert!(matches!(error, TargetError::Malformed(_)), "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn target_hides_password() {
        let target = Target::new("redis://user:secret@localhost:7000/3", false).unwrap();
        assert_eq!(target.to_string(), "localhost:7000");
        assert!(!format!("{target:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn passwords_are_never_shown(
            scheme in "(redis|rediss|http|unix|redis\\+unix)", host in "[a-z0-9.%:\\[\\]]{0,12}", rest in "(/[a-z0-9]{0,3})?"
        ) {
            let url = format!("{scheme}://user:SECRET@{host}{rest}");
            let shown = match Target::new(&url, false) {
                Ok(target) => format!("{target} {target:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!shown.contains("SECRET"), "{}", shown);
            let line = redact_credentials(&format!("unexpected argument '{url}' found"));
            prop_assert!(!line.contains("SECRET"), "{}", line);
        }
    }
}
