//! What the pages say of this server: attributes of its root element, so that links and instructions are true without a request.
//!
//! | attribute | values |
//! |---|---|
//! | `data-admin` | `open`, `token` (the admin page asks for it), `off` |
//! | `data-store` | `redis`, `memory` (of the demo), `none` |
//! | `data-count` | `key` (`POST /count/eps` takes keys or tokens), `off` |
//! | `data-routes` | `default` (those of Emojitracker lead to `/eps`), `custom` |

use std::sync::Arc;

use tallycast_fanout::Namespace;
use tokio::sync::watch;

use crate::admin::Token;
use crate::api::emojitracker::Store;
use crate::api::native::Publishing;

/// The namespace of the board.
const NAMESPACE: &str = "/eps";
/// Where a feeder of Emojitracker counts, and what it publishes: the commands that an empty board shows.
const DEFAULTS: (&str, &str) = ("emojitrack_score", "stream.score_updates");

/// What is switched on. Keys, tokens and routes may change while the process runs.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    store: &'static str,
    admin: Option<watch::Receiver<Option<Token>>>,
    publishing: Arc<Publishing>,
}

impl Site {
    /// A server with `store`, the admin page behind the token of `admin`, if it is served, and `publishing`.
    pub(crate) fn new(
        store: &Store,
        admin: Option<watch::Receiver<Option<Token>>>,
        publishing: Arc<Publishing>,
    ) -> Self {
        let store = match store {
            Store::Redis { .. } => "redis",
            Store::Memory(_) => "memory",
            Store::Absent => "none",
        };
        Self { store, admin, publishing }
    }

    /// A page with the attributes of this moment.
    pub(crate) fn describe(&self, page: &str) -> String {
        let admin = match &self.admin {
            None => "off",
            Some(token) if token.borrow().is_some() => "token",
            Some(_) => "open",
        };
        let (count, routes) = self.counting();
        let store = self.store;
        let attributes =
            format!("data-admin=\"{admin}\" data-store=\"{store}\" data-count=\"{count}\" data-routes=\"{routes}\"");
        page.replacen("<html ", &format!("<html {attributes} "), 1)
    }

    /// The values of `data-count` and `data-routes`.
    fn counting(&self) -> (&'static str, &'static str) {
        let Publishing { keys, auth, routes, totals, .. } = &*self.publishing;
        let key = totals.iter().find(|totals| totals.namespace.as_str() == NAMESPACE).map(|totals| &*totals.key);
        let routes = routes.borrow();
        let channel = NAMESPACE.parse().ok().and_then(|namespace: Namespace| routes.count_channel(&namespace));
        let takes_counts = key.is_some() && channel.is_some() && (auth.is_some() || !keys.borrow().is_empty());
        let is_default = key.zip(channel) == Some(DEFAULTS);
        (if takes_counts { "key" } else { "off" }, if is_default { "default" } else { "custom" })
    }
}
