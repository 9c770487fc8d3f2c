//! The flags of the contract of send-multiple, and the route that its channels have.

use clap::{Args, ValueEnum};

use super::errors::ConfigError;
use crate::api::send_multiple::{self, Paths};
use crate::decode::Route;

/// The namespaces of its channels if no route has them.
const NAMESPACES: &str = "/send-multiple/**";

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "send-multiple")]
pub(super) struct SendMultipleOptions {
    /// Serve the clients of send-multiple: streams whose paths are the names of Redis channels. Unless a route has all these channels,
    /// PREFIX:*=/send-multiple/** is added
    #[arg(long, env = "TALLYCAST_SEND_MULTIPLE")]
    pub(super) send_multiple: bool,
    /// Path that its paths are below. At /, they leave those of other features alone, but paths of two to six segments after /ws/ are
    /// its WebSockets
    #[arg(long, env = "TALLYCAST_SEND_MULTIPLE_PATH", default_value = "/", value_name = "PATH")]
    pub(super) send_multiple_path: Paths,
    /// What the names of its Redis channels start with, before a colon: prefix_channel of its configuration [default: none]
    #[arg(
        long,
        env = "TALLYCAST_SEND_MULTIPLE_PREFIX_CHANNEL",
        value_name = "PREFIX",
        value_parser = channel_prefix
    )]
    pub(super) send_multiple_prefix_channel: Option<String>,
    /// Whether its clients need a token: check_jwt of its configuration [default: on if there is a key of tokens]
    #[arg(long, env = "TALLYCAST_SEND_MULTIPLE_CHECK_JWT", value_enum, value_name = "WHICH")]
    pub(super) send_multiple_check_jwt: Option<Switch>,
}

/// Whether something is on that is by default where it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    /// They do.
    On,
    /// Everyone reads all of its channels, and tokens are not looked at.
    Off,
}

/// A prefix that the pattern of a route can have; an empty one is none.
fn channel_prefix(text: &str) -> Result<String, &'static str> {
    if text.contains(|character: char| character.is_control() || "*,=".contains(character)) {
        return Err("expected a text without *, comma and =");
    }
    if text.split(':').next() == Some("stream") {
        return Err("expected another one: a route whose pattern starts with stream: is for a Redis stream");
    }
    Ok(text.to_owned())
}

impl SendMultipleOptions {
    /// The configuration of the contract, if it is on.
    pub(super) fn config(&self, has_tokens: bool) -> Result<Option<send_multiple::Config>, ConfigError> {
        if !self.send_multiple {
            return Ok(None);
        }
        let check_jwt = self.send_multiple_check_jwt.map_or(has_tokens, |switch| switch == Switch::On);
        if check_jwt && !has_tokens {
            return Err(ConfigError::Usage(
                "--send-multiple-check-jwt on needs --token-key or --token-jwks: expected the key that verifies tokens"
                    .to_owned(),
            ));
        }
        let mut config = send_multiple::Config::new(self.send_multiple_path.clone());
        config.channel_prefix = self.prefix();
        config.check_jwt = check_jwt;
        Ok(Some(config))
    }

    /// Adds the route of its channels, if no route has all of them.
    pub(super) fn add_route(&self, routes: &mut Vec<Route>) {
        let prefix = self.prefix();
        if self.send_multiple && !routes.iter().any(|route| route.covers_channels(&prefix)) {
            routes.extend(format!("{prefix}*={NAMESPACES}").parse::<Route>());
        }
    }

    /// The prefix with the colon, or nothing.
    fn prefix(&self) -> String {
        let prefix = self.send_multiple_prefix_channel.as_deref().filter(|prefix| !prefix.is_empty());
        prefix.map(|prefix| format!("{prefix}:")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::testing::config;

    /// The namespace of a channel, with flags.
    fn namespace(flags: &[&str], channel: &str) -> Option<String> {
        let routes = config(flags).unwrap().routes;
        routes.namespace_of(channel, "").ok().map(|(namespace, _)| namespace.to_string())
    }

    #[test]
    fn route_of_all_channels_is_added_unless_there_is_one() {
        assert_eq!(namespace(&[], "a:b"), None);
        let own = Some("/send-multiple/a/b".to_owned());
        assert_eq!(namespace(&["--send-multiple"], "a:b"), own);
        assert_eq!(namespace(&["--send-multiple", "--send-multiple-prefix-channel", ""], "a:b"), own);
        let prefixed = ["--send-multiple", "--send-multiple-prefix-channel", "dev"];
        assert_eq!((namespace(&prefixed, "dev:a:b"), namespace(&prefixed, "a:b")), (own, None));
        for route in ["dev:*=/x/*", "*=/x/*"] {
            let rest = if route.starts_with('*') { "dev:a:b" } else { "a:b" };
            assert_eq!(
                namespace(&[&prefixed[..], &["--route", route]].concat(), "dev:a:b"),
                Some(format!("/x/{rest}"))
            );
        }
    }

    #[test]
    fn tokens_are_checked_where_there_are_keys() {
        let key = "HS256=0123456789abcdef0123456789abcdef";
        let check = |flags: &[&str]| config(flags).unwrap().contracts.send_multiple.map(|config| config.check_jwt);
        assert_eq!(check(&["--token-key", key]), None);
        assert_eq!(check(&["--send-multiple"]), Some(false));
        assert_eq!(check(&["--send-multiple", "--token-key", key]), Some(true));
        assert_eq!(check(&["--send-multiple", "--token-key", key, "--send-multiple-check-jwt", "off"]), Some(false));
        assert_eq!(
            config(&["--send-multiple", "--send-multiple-check-jwt", "on"]).unwrap_err(),
            "--send-multiple-check-jwt on needs --token-key or --token-jwks: expected the key that verifies tokens"
        );
    }

    #[test]
    fn error_says_what_was_expected() {
        let error = |flags: &[&str]| config(flags).unwrap_err();
        for prefix in ["a*", "a,b", "a=b", "a\n"] {
            let error = error(&["--send-multiple-prefix-channel", prefix]);
            assert!(error.ends_with("expected a text without *, comma and ="), "{error}");
        }
        assert!(error(&["--send-multiple-prefix-channel", "stream"]).contains("is for a Redis stream"));
        assert!(error(&["--send-multiple-path", "/admin"]).contains("/admin belongs to another feature"));
    }
}
