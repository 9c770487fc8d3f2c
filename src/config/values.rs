//! The values of flags other than sizes: what is valid, and what an error says was expected.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::secret::Secret;
use crate::auth::{KeyError, KeyOption};
use crate::connect_hook::{HookUrl, HookUrlError, MAX_RETRIES, MAX_TIMEOUT};
use crate::redis_client::{RedisUrl, UrlError};

/// The shortest duration: below it timers are not exact.
const MIN_DURATION: Duration = Duration::from_millis(1);

pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration >= MIN_DURATION => Ok(duration),
        Ok(_) => Err("expected at least 1ms"),
        Err(_) => Err("expected a number with a unit, such as 17ms, 10s or 2m"),
    }
}

/// A duration, or none of it.
pub(super) fn duration_or_zero(text: &str) -> Result<Duration, &'static str> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Ok(duration),
        _ => duration(text),
    }
}

/// A duration as [`duration`] reads it, in seconds if they are whole.
pub(super) fn duration_text(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => format!("{}s", duration.as_secs()),
        _ => humantime::format_duration(duration).to_string(),
    }
}

pub(super) fn count(text: &str) -> Result<usize, &'static str> {
    text.parse().ok().filter(|&count| count > 0).ok_or("expected a whole number of at least 1")
}

pub(super) fn topic_count(text: &str) -> Result<usize, String> {
    let max = tallycast_fanout::MAX_TOPICS;
    text.parse()
        .ok()
        .filter(|count| (1..=max).contains(count))
        .ok_or(format!("expected a whole number from 1 to {max}"))
}

pub(super) fn rate(text: &str) -> Result<NonZeroU32, &'static str> {
    text.parse().map_err(|_| "expected a whole number of at least 1")
}

pub(super) fn seed(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "expected a whole number")
}

pub(super) fn port(text: &str) -> Result<u16, &'static str> {
    text.parse().map_err(|_| "expected a port number from 0 to 65535")
}

pub(super) fn ip_address(text: &str) -> Result<IpAddr, &'static str> {
    text.parse().map_err(|_| "expected an IP address, such as 127.0.0.1 or ::1")
}

/// A network, or a single address.
pub(super) fn network(text: &str) -> Result<IpNet, &'static str> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| "expected an address or a network, such as 10.0.0.0/8")
}

/// What client libraries log of their own accord, which the sources log in their words. A directive of the user's overrides it.
const QUIET: &str = "async_nats=off";
/// What they log with secrets, which nothing overrides: the frames of RabbitMQ have the password.
const SECRET: &str = "lapin=off";

pub(super) fn log_filter(text: &str) -> Result<EnvFilter, &'static str> {
    let filter: EnvFilter = format!("{QUIET},{text}").parse().map_err(
        |_| "expected error, warn, info, debug or trace, or directives such as info,tallycast::source=debug",
    )?;
    Ok(SECRET.parse().into_iter().fold(filter, EnvFilter::add_directive))
}

/// A Redis URL, shown without its password.
pub(super) fn redis_url(text: &str) -> Result<Secret, UrlError> {
    let url: RedisUrl = text.parse()?;
    Ok(Secret::shown_as(text, &url.to_string()))
}

/// The URL of the connect hook, shown without its user, password and query.
pub(super) fn connect_url(text: &str) -> Result<Secret, HookUrlError> {
    let url: HookUrl = text.parse()?;
    Ok(Secret::shown_as(text, &url.to_string()))
}

pub(super) fn connect_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    if timeout > MAX_TIMEOUT { Err(format!("expected at most {}", duration_text(MAX_TIMEOUT))) } else { Ok(timeout) }
}

pub(super) fn connect_retries(text: &str) -> Result<usize, String> {
    let retries = text.parse().ok().filter(|count| *count <= MAX_RETRIES);
    retries.ok_or_else(|| format!("expected a whole number from 0 to {MAX_RETRIES}"))
}

pub(super) fn admin_token(text: &str) -> Result<Secret, &'static str> {
    if text.is_empty() {
        return Err("expected a secret of at least one character; leave the option out to open /admin to everyone");
    }
    Ok(Secret::new(text))
}

pub(super) fn publish_key(text: &str) -> Result<Secret, &'static str> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("expected a secret of visible ASCII characters without spaces");
    }
    Ok(Secret::new(text))
}

/// A key of tokens, shown without its secret.
pub(super) fn token_key(text: &str) -> Result<Secret, KeyError> {
    let shown = KeyOption::parse(text)?.shown(text);
    Ok(Secret::shown_as(text, &shown))
}

/// A token, which nothing shows.
pub(super) fn token(text: &str) -> Result<Secret, &'static str> {
    if text.is_empty() { Err("expected a token") } else { Ok(Secret::new(text)) }
}

/// A claim: its name, and its value as JSON or else as text.
pub(super) fn claim(text: &str) -> Result<(String, Value), &'static str> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as name=Ann or admin=true")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

pub(super) fn json_value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("expected JSON: {error}"))
}

/// The name of a cookie (RFC 6265, §4.1.1).
pub(super) fn cookie_name(text: &str) -> Result<String, &'static str> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_token) {
        return Err("expected letters, digits, - and _");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_text_is_read_back() {
        for (duration, text) in [(17, "17ms"), (1_000, "1s"), (60_000, "60s"), (1_500, "1s 500ms")] {
            let duration = Duration::from_millis(duration);
            assert_eq!(duration_text(duration), text);
            assert_eq!(super::duration(text), Ok(duration));
            assert_eq!(duration_or_zero(text), Ok(duration));
        }
        assert_eq!(duration_or_zero(&duration_text(Duration::ZERO)), Ok(Duration::ZERO));
        assert!(duration("0s").is_err() && duration_or_zero("1ns").is_err() && duration_or_zero("0").is_ok());
    }
}
