//! The contracts that are switched on: their streams, and their routes that are no streams.

use std::sync::Arc;

use axum::Router;
use tallycast_server::Server;
use tokio::sync::watch;

use super::native::{self, Publishing, SessionContract};
use super::send_multiple::{self, SendMultiple};
use super::session_streams::SessionStreams;
use crate::auth::Auth;

/// What contracts on top of sessions are made of.
#[derive(Debug, Clone)]
pub struct Contracts {
    /// The contract of send-multiple, if it is served.
    pub send_multiple: Option<Arc<SendMultiple>>,
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
        // After the others: its paths may be at the root.
        if let Some(send_multiple) = &self.send_multiple {
            let (events, websockets) = SendMultiple::contracts(send_multiple);
            server = server.contract(events).contract(websockets);
        }
        server
    }

    /// The routes that are no streams and that pages of every origin may read.
    pub(crate) fn public_router(&self) -> Router {
        self.send_multiple.clone().map(send_multiple::router).unwrap_or_default()
    }

    /// The routes by which programs and pages with keys or tokens control and publish.
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
        let sessions = sessions.map(|path| format!("{path}/<name>"));
        let send_multiple = self.send_multiple.iter().flat_map(|contract| contract.config.paths.listed());
        sessions.chain(send_multiple).collect()
    }
}
