//! The contracts that are switched on: their streams, and their routes that are no streams.

use std::sync::Arc;

use axum::Router;
use tallycast_server::Server;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::emojitracker;
use super::native::{self, Publishing, SessionContract};
use super::realtime::{self, ChannelStreams, Channels, Realtime};
use super::send_multiple::{self, SendMultiple};
use super::session_streams::SessionStreams;
use super::unifrost::{self, Unifrost};
use super::ws_hub::{self, WsHub};
use crate::admin::{SessionList, StatusSource};
use crate::assets;
use crate::auth::Auth;
use crate::cluster::Cluster;
use crate::connect_hook::{self, ConnectHook};
use crate::decode::Routes;
use crate::publishing::Publisher;
use crate::redis_client::RedisClient;
use crate::sessions::{self, Sessions};

/// What is switched on.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Configs {
    /// Sessions, if they are served or a contract needs them.
    pub sessions: Option<sessions::Config>,
    /// The application that decides about connections, if there is one.
    pub connect_hook: Option<connect_hook::Config>,
    /// The contract of gochan and unifrost, if it is served.
    pub unifrost: Option<unifrost::Config>,
    /// The contract of ws-hub, if it is served.
    pub ws_hub: Option<ws_hub::Config>,
    /// The contract of open-source-cloud/realtime, if it is served.
    pub realtime: Option<realtime::Config>,
    /// The contract of send-multiple, if it is served.
    pub send_multiple: Option<send_multiple::Config>,
}

impl Configs {
    /// A path that two contracts have, that of Emojitracker included, if there is one.
    pub fn overlap(&self) -> Option<String> {
        let unifrost = self.unifrost.iter().flat_map(|config| [&config.events_path, &config.update_path]).cloned();
        let pages = self.ws_hub.iter().flat_map(ws_hub::Config::page_paths);
        let websockets = self.ws_hub.iter().map(|config| config.path.clone());
        let status = self.send_multiple.iter().map(|config| config.paths.status());
        let fixed = emojitracker::PATHS.map(str::to_owned);
        let mut paths: Vec<_> = unifrost.chain(pages).chain(websockets).chain(status).chain(fixed).collect();
        paths.sort_unstable();
        paths.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone())
    }
}

/// What contracts share with the rest of the program.
#[derive(Debug)]
pub struct Shared {
    /// The engine, and the counters.
    pub status: StatusSource,
    /// Commands to Redis, if there is one.
    pub redis: Option<RedisClient>,
    /// What publishes.
    pub publisher: Publisher,
    /// The tokens of clients, if there are tokens.
    pub auth: Option<Auth>,
    /// The nodes, if they announce themselves.
    pub cluster: Option<Cluster>,
    /// The routes.
    pub routes: watch::Receiver<Routes>,
    /// The configuration of the server.
    pub server: watch::Receiver<tallycast_server::Config>,
    /// Ends the tasks of contracts.
    pub shutdown: CancellationToken,
}

/// The contracts, and what they are made of.
#[derive(Debug, Clone)]
pub struct Contracts {
    /// Sessions, if they are served or a contract needs them.
    sessions: Option<SessionStreams>,
    /// How the contract of gochan and unifrost is served, if it is. Needs sessions.
    unifrost: Option<Arc<unifrost::Config>>,
    /// The contract of ws-hub, if it is served.
    ws_hub: Option<Arc<WsHub>>,
    /// The channels of open-source-cloud/realtime, if they are served.
    realtime: Option<Arc<Realtime>>,
    /// The contract of send-multiple, if it is served.
    send_multiple: Option<Arc<SendMultiple>>,
    /// The tokens of clients, if there are tokens.
    auth: Option<Auth>,
    /// The configuration of the server.
    server: watch::Receiver<tallycast_server::Config>,
}

impl Contracts {
    /// Starts what is switched on.
    pub fn start(configs: Configs, shared: Shared) -> Self {
        let Configs { sessions, connect_hook, unifrost, ws_hub, realtime, send_multiple } = configs;
        let Shared { status, redis, publisher, auth, cluster, routes, server, shutdown } = shared;
        let hook = connect_hook.map(|config| ConnectHook::new(config, Arc::clone(&status.connect_hook)));
        let sessions = sessions.map(|config| {
            let (engine, stats) = (status.handle.clone(), Arc::clone(&status.sessions));
            let sessions = Sessions::start(&status.node, redis.clone(), engine, config, stats);
            SessionStreams { sessions, hook, publisher: publisher.clone(), routes: routes.clone() }
        });
        let ws_hub = sessions.clone().zip(ws_hub).map(|(streams, config)| {
            WsHub::start(config, streams, redis.clone(), Arc::clone(&status.ws_hub), shutdown.clone())
        });
        let realtime = sessions.clone().zip(realtime).map(|(streams, config)| {
            let channels = Channels::new(config.channels.clone(), config.create, redis);
            Arc::new(Realtime { config, channels, streams, auth: auth.clone() })
        });
        let send_multiple = send_multiple.map(|config| {
            let (auth, server) = (auth.clone(), server.clone());
            let contract = Arc::new(SendMultiple { config, auth, routes, server, status, cluster });
            tokio::spawn(send_multiple::publish_count(Arc::clone(&contract), publisher, shutdown));
            contract
        });
        Self { sessions, unifrost: unifrost.map(Arc::new), ws_hub, realtime, send_multiple, auth, server }
    }

    /// Writes the ends of the last connections of sessions. To be called when all streams have ended.
    pub async fn close(&self) {
        if let Some(SessionStreams { sessions, .. }) = &self.sessions {
            sessions.close().await;
        }
    }

    /// Whether there are pages of contracts.
    fn has_pages(&self) -> bool {
        self.realtime.as_ref().is_some_and(|realtime| realtime.config.pages)
    }

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
        if let Some(realtime) = &self.realtime {
            server = server.contract(ChannelStreams(Arc::clone(realtime)));
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
        if let Some(realtime) = &self.realtime {
            router = router.merge(realtime::router(Arc::clone(realtime), Arc::clone(publishing)));
        }
        router
    }

    /// The sessions for operators. Tokens and the connect hook say who may open which.
    pub fn session_list(&self) -> Option<SessionList> {
        let SessionStreams { sessions, hook, .. } = self.sessions.as_ref()?;
        let has_secret_names = hook.is_none() && self.auth.is_none();
        Some(SessionList { sessions: sessions.clone(), has_secret_names })
    }

    /// The pages, which are files like the others.
    pub(crate) fn pages(&self) -> Router {
        if self.has_pages() { assets::realtime_router() } else { Router::new() }
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
        let realtime = self.realtime.iter().flat_map(|realtime| realtime.paths());
        let send_multiple = self.send_multiple.iter().flat_map(|contract| contract.config.paths.listed());
        sessions.chain(unifrost).chain(hub).chain(realtime).chain(send_multiple).collect()
    }

    /// The documented paths for operators.
    pub(crate) fn admin_paths(&self) -> Vec<String> {
        self.ws_hub.iter().flat_map(|hub| hub.config().page_paths()).collect()
    }
}
