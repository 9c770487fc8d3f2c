//! The contracts that are switched on: their streams, and their routes that are no streams.

use std::sync::Arc;

use axum::Router;
use tallycast_server::Server;
use tokio::sync::watch;

use super::native::{self, Publishing, SessionContract};
use super::send_multiple::{self, SendMultiple};
use super::session_streams::SessionStreams;
use super::unifrost::{self, Unifrost};
use super::ws_hub::{self, WsHub};
use crate::auth::Auth;

/// The contracts, and what they are made of.
#[derive(Debug, Clone)]
pub struct Contracts {
    /// Sessions, if they are served or a contract needs them.
    pub sessions: Option<SessionStreams>,
    /// How the contract of gochan and unifrost is served, if it is. Needs sessions.
    pub unifrost: Option<Arc<unifrost::Config>>,
    /// The contract of ws-hub, if it is served.
    pub ws_hub: Option<Arc<WsHub>>,
    /// The contract of send-multiple, if it is served.
    pub send_multiple: Option<Arc<SendMultiple>>,
    /// The tokens of clients, if there are tokens.
    pub auth: Option<Auth>,
    /// The configuration of the server.
    pub server: watch::Receiver<tallycast_server::Config>,
}

impl Contracts {
    /// Adds the streams to `server`.
    pub fn add_to(&self, mut server: Server) -> Server {
        if let Some(streams) = self.native_sessions() {
            let (streams, auth, config) = (streams.clone(), self.auth.clone(), self.server.clone());
            server = server.contract(SessionContract { streams, auth, server: config });
        }
        if let Some(unifrost) = self.unifrost() {
            server = server.contract(unifrost::Consumers(unifrost));
        }
        if let Some(hub) = &self.ws_hub {
            server = server.contract(ws_hub::Streams(Arc::clone(hub)));
        }
        // After the others: its paths may be at the root.
        if let Some(send_multiple) = &self.send_multiple {
            let (events, websockets) = SendMultiple::contracts(send_multiple);
            server = server.contract(events).contract(websockets);
        }
        server
    }

    /// Sessions, if they have native streams.
    fn native_sessions(&self) -> Option<&SessionStreams> {
        self.sessions.as_ref().filter(|streams| streams.sessions.config().has_streams)
    }

    fn unifrost(&self) -> Option<Unifrost> {
        let (config, streams) = self.unifrost.clone().zip(self.sessions.clone())?;
        Some(Unifrost { config, streams, auth: self.auth.clone() })
    }

    /// The routes that are no streams and that pages of every origin may read.
    pub(crate) fn public_router(&self) -> Router {
        self.send_multiple.clone().map(send_multiple::router).unwrap_or_default()
    }

    /// The routes by which programs and pages with keys or tokens control and publish, beside [those for operators](Self::admin_router)
    /// if there are any.
    pub(crate) fn router(&self, publishing: &Arc<Publishing>, has_admin: bool) -> Router {
        let mut router = Router::new();
        if let Some(SessionStreams { sessions, .. }) = &self.sessions {
            // In its place, ws-hub has a page.
            let has_list = !has_admin || self.ws_hub.as_ref().is_none_or(|hub| !hub.config().pages.is_empty());
            router = router.merge(native::sessions_router(sessions.clone(), Arc::clone(publishing), has_list));
        }
        if let Some(unifrost) = self.unifrost() {
            router = router.merge(unifrost::router(unifrost));
        }
        router
    }

    /// The routes for operators.
    pub(crate) fn admin_router(&self) -> Router {
        self.ws_hub.clone().map_or_else(Router::new, ws_hub::router)
    }

    /// The documented paths.
    pub(crate) fn paths(&self) -> Vec<String> {
        let streams = self.native_sessions().map(|_| native::SESSION_PATH);
        let control = self.sessions.as_ref().map(|_| native::SESSIONS_PATH);
        let sessions = streams.into_iter().chain(control).map(|path| format!("{path}/<name>"));
        let unifrost = self.unifrost.iter().flat_map(|config| [&config.events_path, &config.update_path]).cloned();
        let hub = self.ws_hub.iter().map(|hub| format!("{}?{}=<key>", hub.config().path, hub.config().key));
        let send_multiple = self.send_multiple.iter().flat_map(|contract| contract.config.paths.listed());
        sessions.chain(unifrost).chain(hub).chain(send_multiple).collect()
    }

    /// The documented paths for operators.
    pub(crate) fn admin_paths(&self) -> Vec<String> {
        let hub = self.ws_hub.iter();
        hub.flat_map(|hub| ws_hub::PATHS.map(|path| format!("{}{path}", hub.config().pages))).collect()
    }
}
