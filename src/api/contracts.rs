//! The contracts that are switched on: their streams, and their routes that are no streams.

use std::sync::Arc;

use axum::Router;
use tallycast_server::Server;
use tokio::sync::watch;

use super::native::{self, Publishing, SessionContract};
use super::send_multiple::{self, SendMultiple};
use super::session_streams::SessionStreams;
use super::unifrost::{self, Unifrost};
use crate::auth::Auth;

/// What contracts on top of sessions are made of.
#[derive(Debug, Clone)]
pub struct Contracts {
    /// The contract of send-multiple, if it is served.
    pub send_multiple: Option<Arc<SendMultiple>>,
    /// Sessions, if they are served.
    pub sessions: Option<SessionStreams>,
    /// How the contract of gochan and unifrost is served, if it is. Needs sessions.
    pub unifrost: Option<Arc<unifrost::Config>>,
    /// The tokens of clients, if there are tokens.
    pub auth: Option<Auth>,
    /// The configuration of the server.
    pub server: watch::Receiver<tallycast_server::Config>,
}

impl Contracts {
    /// Adds the streams to `server`.
    pub fn add_to(&self, mut server: Server) -> Server {
        if let Some(streams) = self.sessions.as_ref().filter(|streams| streams.sessions.config().has_streams) {
            let (streams, auth, config) = (streams.clone(), self.auth.clone(), self.server.clone());
            server = server.contract(SessionContract { streams, auth, server: config });
        }
        if let Some(unifrost) = self.unifrost() {
            server = server.contract(unifrost::Consumers(unifrost));
        }
        // After the others: its paths may be at the root.
        if let Some(send_multiple) = &self.send_multiple {
            let (events, websockets) = SendMultiple::contracts(send_multiple);
            server = server.contract(events).contract(websockets);
        }
        server
    }

    fn unifrost(&self) -> Option<Unifrost> {
        let (config, streams) = self.unifrost.clone().zip(self.sessions.clone())?;
        Some(Unifrost { config, streams, auth: self.auth.clone() })
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
        if let Some(unifrost) = self.unifrost() {
            router = router.merge(unifrost::router(unifrost));
        }
        router
    }

    /// The documented paths.
    pub(crate) fn paths(&self) -> Vec<String> {
        let has_streams = |streams: &&SessionStreams| streams.sessions.config().has_streams;
        let streams = self.sessions.iter().filter(has_streams).map(|_| native::SESSION_PATH);
        let control = self.sessions.iter().map(|_| native::SESSIONS_PATH);
        let sessions = streams.chain(control).map(|path| format!("{path}/<name>"));
        let unifrost = self.unifrost.iter().flat_map(|config| [&config.events_path, &config.update_path]);
        let send_multiple = self.send_multiple.iter().flat_map(|contract| contract.config.paths.listed());
        sessions.chain(unifrost.cloned()).chain(send_multiple).collect()
    }
}
