//! The flags of the Mercure protocol, and the stream that its updates are in.

use std::time::Duration;

use clap::Args;

use super::errors::ConfigError;
use super::values::{duration_or_zero, duration_text};
use crate::api::mercure;
use crate::decode::Route;

/// The stream of updates if no route names one.
const STREAM: &str = "mercure";
/// Its route.
const ROUTE: &str = "stream:mercure=*,history=10000,history=64MiB";
/// The number of entries that it is trimmed to.
const STREAM_LENGTH: usize = 100_000;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Mercure")]
pub(super) struct MercureOptions {
    /// Serve the Mercure protocol at /.well-known/mercure. Updates are in the Redis stream of the route whose namespace is *; without
    /// one, stream:mercure=*,history=10000,history=64MiB is added
    #[arg(long, env = "TALLYCAST_MERCURE")]
    pub(super) mercure: bool,
    /// Let Mercure clients subscribe without a token. They receive public updates
    #[arg(long, env = "TALLYCAST_MERCURE_ANONYMOUS")]
    pub(super) mercure_anonymous: bool,
    /// Time after which a Mercure stream ends, at most: each ends after 80 to 100 percent of it. 0s is for ever
    #[arg(
        long,
        env = "TALLYCAST_MERCURE_LIFETIME",
        default_value = duration_text(mercure::DEFAULT_LIFETIME),
        value_name = "DURATION",
        value_parser = duration_or_zero
    )]
    pub(super) mercure_lifetime: Duration,
}

impl MercureOptions {
    /// The configuration of the hub, if it is on.
    pub(super) fn config(&self, has_tokens: bool, max_body: usize) -> Result<Option<mercure::Config>, ConfigError> {
        if !self.mercure {
            return Ok(None);
        }
        if !has_tokens {
            return Err(ConfigError::Usage(
                "--mercure needs --token-key or --token-jwks: expected the key of those who publish".to_owned(),
            ));
        }
        let mut config = mercure::Config::new(max_body);
        config.anonymous = self.mercure_anonymous;
        config.lifetime = Some(self.mercure_lifetime).filter(|lifetime| !lifetime.is_zero());
        Ok(Some(config))
    }

    /// Adds the route of the updates, if there is none.
    pub(super) fn add_route(&self, routes: &mut Vec<Route>) {
        if self.mercure && !routes.iter().any(Route::has_topics) {
            routes.extend(ROUTE.parse::<Route>());
        }
    }

    /// The stream that this process fills, and the length that it is trimmed to.
    pub(super) fn own_stream(&self) -> Option<(std::sync::Arc<str>, usize)> {
        self.mercure.then(|| (STREAM.into(), STREAM_LENGTH))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_route_is_of_the_stream_that_is_trimmed() {
        let route: Route = ROUTE.parse().unwrap();
        assert!(route.has_topics() && ROUTE.starts_with(&format!("stream:{STREAM}=")));
    }
}
