//! What a Redis Cluster cannot do, refused at start.

use super::errors::ConfigError;
use crate::redis_client::{RedisUrl, slot};
use crate::totals::TotalsKey;

/// Checks what is asked of the servers of `url`.
pub(super) fn check(url: &RedisUrl, has_sessions: bool, totals: &[TotalsKey]) -> Result<(), ConfigError> {
    if !url.is_cluster() {
        return Ok(());
    }
    if has_sessions {
        return Err(ConfigError::Usage(
            "sessions (--sessions, --unifrost, --ws-hub, --connect-url, --realtime-channel, --realtime-create) need one Redis server or \
             Sentinels, because their scripts use many keys: expected a --redis-url that does not start with redis+cluster://"
                .to_owned(),
        ));
    }
    let slot = |totals: &TotalsKey| slot::slot(totals.key.as_bytes());
    if let [first, others @ ..] = totals
        && let Some(other) = others.iter().find(|other| slot(other) != slot(first))
    {
        return Err(ConfigError::Usage(format!(
            "invalid value for --totals: the sorted sets {:?} and {:?} are in different slots of the Redis Cluster, where their \
             order among events is unknown; expected keys with a common hash tag, such as {{totals}}:a and {{totals}}:b",
            first.key, other.key
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::testing::config;

    #[test]
    fn what_a_cluster_cannot_do_is_refused() {
        let cluster = ["--redis-url", "redis+cluster://:secret@localhost"];
        let error = |flags: &[&str]| config(&[&cluster[..], flags].concat()).unwrap_err();
        assert!(error(&["--sessions"]).starts_with("sessions (--sessions, "), "{}", error(&["--sessions"]));
        assert!(error(&["--ws-hub"]).starts_with("sessions (--sessions, "));
        let totals = error(&["--totals", "/a=one", "--totals", "/b=two"]);
        assert!(totals.contains("\"one\" and \"two\" are in different slots"), "{totals}");
        for flags in [&[][..], &["--totals", "/a={x}:one", "--totals", "/b={x}:two"]] {
            config(&[&cluster[..], flags].concat()).unwrap();
        }
        config(&["--redis-url", "redis+sentinel://localhost/name", "--sessions"]).unwrap();
    }
}
