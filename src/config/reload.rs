//! What SIGHUP changes without a restart, and what differs between two configurations.

use super::effective::EffectiveOption;

/// The options that SIGHUP changes without closing a connection.
pub(super) const RELOADABLE: [&str; 36] = [
    "route",
    "log",
    "max-connections",
    "max-per-address",
    "rate-per-address",
    "namespace-limit",
    "max-topics",
    "max-topic-bytes-per-address",
    "max-topic-bytes",
    "trusted-proxy",
    "client-address-header",
    "compression",
    "allowed-origin",
    "message-rate",
    "max-message-bytes",
    "head-timeout",
    "idle-timeout",
    "max-head-bytes",
    "max-target-bytes",
    "tls-cert",
    "tls-key",
    "admin-token",
    "publish-key",
    "publish-rate",
    "retry",
    "token-key",
    "token-jwks",
    "token-jwks-ca",
    "token-issuer",
    "token-audience",
    "token-leeway",
    "token-cookie",
    "token-in-query",
    "token-read",
    "token-publish",
    "public",
];

/// The names of the options that differ between two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Those that apply at once.
    pub applied: Vec<String>,
    /// Those that need a restart.
    pub need_restart: Vec<String>,
}

impl Changes {
    /// What differs between `before` and `after`, secrets included. The names are sorted.
    pub fn between(before: &[EffectiveOption], after: &[EffectiveOption]) -> Self {
        let value = |options: &[EffectiveOption], name: &str| {
            options
                .iter()
                .find(|option| option.name == name)
                .map(|option| (option.value.clone(), option.secret.clone()))
        };
        let mut names: Vec<String> = before.iter().chain(after).map(|option| option.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| value(before, name) != value(after, name));
        let (applied, need_restart) = names.into_iter().partition(|name| RELOADABLE.contains(&name.as_str()));
        Self { applied, need_restart }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Secret;

    fn option(name: &str, value: &str, secret: Option<&str>) -> EffectiveOption {
        let (name, value, origin) = (name.to_owned(), value.to_owned(), "flag".to_owned());
        EffectiveOption { name, value, origin, secret: secret.map(Secret::new) }
    }

    #[test]
    fn secrets_that_look_the_same_may_differ() {
        let before =
            [option("port", "1", None), option("admin-token", "***", Some("old")), option("log", "info", None)];
        let after = [option("port", "1", None), option("admin-token", "***", Some("new")), option("log", "warn", None)];
        let changes = Changes::between(&before, &after);
        assert_eq!((changes.applied, changes.need_restart), (vec!["admin-token".to_owned(), "log".to_owned()], vec![]));
        assert_eq!(Changes::between(&before, &before), Changes { applied: vec![], need_restart: vec![] });
    }
}
