//! The contracts that are switched on: their streams, and their routes that are no streams.

use std::sync::Arc;

use axum::Router;
use tallycast_server::Server;
use tokio::sync::watch;

use super::native::{self, Publishing, SessionContract};
use super::session_streams::SessionStreams;
use crate::auth::Auth;

/// What contracts on top of sessions are made of.
#[derive(Debug, Clone)]
pub struct Contracts {
    /// Sessions, if they are served.
    pub sessions: Option<SessionStreams>,
    /// The tokens of clients, if there are tokens.
    pub auth: Option<Auth>,
    /// The configuration of the server.
    pub server: watch::Receiver<tallycast_server::Config>,
}

impl Contracts {
    /// Adds the streams to `server`.
    pub fn add_to(&self, mut server: Server) -> Server {
        if let Some(streams) = &self.sessions {
            let (streams, auth, config) = (streams.clone(), self.auth.clone(), self.server.clone());
            server = server.contract(SessionContract { streams, auth, server: config });
        }
        server
    }

    /// The routes that are no streams.
    pub(crate) fn router(&self, publishing: &Arc<Publishing>) -> Router {
        let mut router = Router::new();
        if let Some(SessionStreams { sessions, .. }) = &self.sessions {
            router = router.merge(native::sessions_router(sessions.clone(), Arc::clone(publishing)));
        }
        router
    }

    /// The documented paths.
    pub(crate) fn paths(&self) -> Vec<String> {
        let sessions = self.sessions.iter().flat_map(|_| [native::SESSION_PATH, native::SESSIONS_PATH]);
        sessions.map(|path| format!("{path}/<name>")).collect()
    }
}
