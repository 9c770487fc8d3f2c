//! Redis commands outside the subscription: one client, and one connection to each server, for every part of the process.
//!
//! `servers` says which server a command goes to. A connection opens with the first command, and is given up with the first failure,
//! so that the next command finds the server that is right then.

mod cluster;
mod group_url;
mod sentinel;
mod servers;
pub(crate) mod slot;
pub(crate) mod subscription;
#[cfg(test)]
pub(crate) mod tests;
mod url;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind,
};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub(crate) use servers::Access;
pub use servers::{Server, Servers, open};
pub use url::{RedisUrl, UrlError};

use servers::Node;

/// Sends commands to the Redis servers of a URL. Cheap to clone; clones share one connection to each server.
///
/// The connection opens with the first command, so an absent Redis at start does no harm. A broken one is replaced.
/// Subscriptions need a connection of their own: see [`source::redis`](crate::source::redis).
#[derive(Clone)]
pub struct RedisClient(Arc<Shared>);

struct Shared {
    servers: Servers,
    /// Time to connect, and for each answer.
    limit: Duration,
    links: Mutex<HashMap<LinkKey, Link>>,
}

/// Which connection: to a node of a cluster, or to the primary or a replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LinkKey {
    node: Option<Node>,
    access: Access,
}

/// A connection, opened with its first command.
type Link = Arc<OnceCell<Connected>>;

struct Connected {
    connection: MultiplexedConnection,
    /// Gives up a server of Sentinels that is no longer what it was: it would still publish, but reach no subscriber.
    _watch: JoinSet<()>,
}

/// The time between two checks of a server of Sentinels.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// What is sent together.
#[derive(Clone, Copy)]
enum Request<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
}

impl std::fmt::Debug for RedisClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shared { servers, limit, .. } = &*self.0;
        formatter.debug_struct("RedisClient").field("servers", servers).field("limit", limit).finish_non_exhaustive()
    }
}

impl Request<'_> {
    /// The slot of a cluster that it belongs to, if it needs one.
    fn slot(self) -> Option<u16> {
        match self {
            Self::Command(command) => slot::of_command(command),
            Self::Pipeline(pipeline) => slot::of_pipeline(pipeline),
        }
    }

    async fn send<T: FromRedisValue>(self, connection: &mut MultiplexedConnection) -> RedisResult<T> {
        match self {
            Self::Command(command) => command.query_async(connection).await,
            Self::Pipeline(pipeline) => pipeline.query_async(connection).await,
        }
    }

    /// Whether a server obeys all of it or nothing.
    fn is_atomic(self) -> bool {
        match self {
            Self::Command(_) => true,
            Self::Pipeline(pipeline) => pipeline.is_transaction() || pipeline.len() == 1,
        }
    }
}

impl RedisClient {
    /// A client that is not connected yet. Connecting and each response may take up to `limit`.
    pub fn new(servers: Servers, limit: Duration) -> Self {
        Self(Arc::new(Shared { servers, limit, links: Mutex::default() }))
    }

    /// Whether the servers are a Redis Cluster: then the keys of a script, a transaction or a pipeline must be in one slot.
    pub fn is_cluster(&self) -> bool {
        self.0.servers.is_cluster()
    }

    /// Sends a command and waits for the response. Sends it a second time if the connection turns out to be broken, so
    /// only idempotent commands belong here.
    ///
    /// # Errors
    /// Redis is unavailable, does not answer within the time limit, or answers with an error.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let request = Request::Command(command);
        match self.send(Access::Primary, request).await {
            Err(error) if is_broken(&error) => self.send(Access::Primary, request).await,
            result => result,
        }
    }

    /// Like [`query`](Self::query), for a command that only reads, and whose response may be a little older: from a replica, if
    /// the URL asks for that.
    ///
    /// # Errors
    /// As for [`query`](Self::query).
    pub async fn read<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let request = Request::Command(command);
        match self.send(Access::Replica, request).await {
            Err(error) if error.is_io_error() || is_elsewhere(&error) => self.send(Access::Primary, request).await,
            result => result,
        }
    }

    /// Sends commands together, and waits for the responses; once, also if the connection turns out to be broken.
    ///
    /// # Errors
    /// As for [`query`](Self::query).
    pub async fn send_once<T: FromRedisValue>(&self, pipeline: &Pipeline) -> RedisResult<T> {
        self.send(Access::Primary, Request::Pipeline(pipeline)).await
    }

    /// The primary, or any node of a cluster, as it is found now.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn server(&self) -> RedisResult<Server> {
        self.0.servers.locate(None, Access::Primary).await
    }

    /// A connection of its own for a subscription.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn pubsub(&self) -> RedisResult<PubSub> {
        self.server().await?.pubsub().await
    }

    /// A connection of its own, for commands that Redis answers after a while.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn dedicated(&self, config: &AsyncConnectionConfig) -> RedisResult<MultiplexedConnection> {
        self.server().await?.connect(config).await
    }

    /// Has the next command open another connection. For callers that do not wait for the time limit of the client.
    pub(crate) fn give_up(&self) {
        self.links().clear();
        self.0.servers.forget();
    }

    /// Sends a request; another time only if the first server has refused all of it, because another one is in charge.
    async fn send<T: FromRedisValue>(&self, access: Access, request: Request<'_>) -> RedisResult<T> {
        let error = match self.attempt(access, request).await {
            Err(error) if is_elsewhere(&error) && request.is_atomic() => error,
            result => return result,
        };
        match (error.kind(), request) {
            (ErrorKind::Server(ServerErrorKind::Ask), Request::Command(command)) => self.ask(&error, command).await,
            _ => self.attempt(access, request).await,
        }
    }

    async fn attempt<T: FromRedisValue>(&self, access: Access, request: Request<'_>) -> RedisResult<T> {
        let opening = timeout(self.0.limit, self.link(access, request.slot())).await;
        let (key, link, mut connection) =
            opening.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))?;
        let result = request.send(&mut connection).await;
        if result.as_ref().err().is_some_and(|error| !is_answer(error)) {
            // Of no use any more, or it leads to a server that is not in charge: the next command finds out.
            self.drop_link(&key, &link);
        }
        result
    }

    /// Has the next command find a server again, unless another one has done so.
    fn drop_link(&self, key: &LinkKey, link: &Link) {
        let mut links = self.links();
        if links.get(key).is_some_and(|current| Arc::ptr_eq(current, link)) {
            links.remove(key);
        }
        self.0.servers.forget();
    }

    /// Sends a command to the node that a slot is being moved to.
    async fn ask<T: FromRedisValue>(&self, referral: &RedisError, command: &Cmd) -> RedisResult<T> {
        let server = referral.redirect_node().and_then(|(address, _)| self.0.servers.node_at(address));
        let Some(server) = server else { return Err(referral.clone()) };
        let mut connection = server.connect(&self.config()).await?;
        let mut pipeline = redis::pipe();
        pipeline.cmd("ASKING").ignore().add_command(command.clone());
        let (answer,) = pipeline.query_async(&mut connection).await?;
        Ok(answer)
    }

    /// The connection for a slot, opened if necessary.
    async fn link(&self, access: Access, slot: Option<u16>) -> RedisResult<(LinkKey, Link, MultiplexedConnection)> {
        let Shared { servers, .. } = &*self.0;
        // In a cluster, the server is known without asking, and is part of the key.
        let known = if servers.is_cluster() { Some(servers.find(slot, access).await?) } else { None };
        let node = known.as_ref().and_then(|server| server.node().cloned());
        let key = LinkKey { node, access };
        let link = Arc::clone(self.links().entry(key.clone()).or_default());
        let connect = async || {
            let server = match known {
                Some(server) => server,
                None => servers.find(slot, access).await?,
            };
            let connection = server.connect(&self.config()).await?;
            Ok::<_, RedisError>(Connected { connection, _watch: self.watch(server, key.clone(), &link) })
        };
        let connected = link.get_or_try_init(connect).await.map(|connected| connected.connection.clone());
        match connected {
            Ok(connection) => Ok((key, link, connection)),
            Err(error) => {
                self.drop_link(&key, &link);
                Err(error)
            }
        }
    }

    /// Drops a connection when its server is not the right one any more.
    fn watch(&self, server: Server, key: LinkKey, link: &Link) -> JoinSet<()> {
        let mut watch = JoinSet::new();
        if self.0.servers.have_sentinels() {
            let (shared, link) = (Arc::downgrade(&self.0), Arc::downgrade(link));
            watch.spawn(async move {
                let reason = server.superseded(CHECK_INTERVAL).await;
                if let Some((shared, link)) = shared.upgrade().zip(link.upgrade()) {
                    tracing::debug!(%reason, "commands go to another server from now on");
                    Self(shared).drop_link(&key, &link);
                }
            });
        }
        watch
    }

    fn config(&self) -> AsyncConnectionConfig {
        let limit = Some(self.0.limit);
        AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(limit)
    }

    fn links(&self) -> MutexGuard<'_, HashMap<LinkKey, Link>> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the connection broke, which says nothing about the command.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() && !error.is_timeout()
}

/// Whether it is an answer of the server that is in charge, and another connection would bring no other.
fn is_answer(error: &RedisError) -> bool {
    let kinds = [
        ServerErrorKind::ResponseError,
        ServerErrorKind::NoPerm,
        ServerErrorKind::NoScript,
        ServerErrorKind::CrossSlot,
    ];
    kinds.into_iter().any(|kind| error.kind() == ErrorKind::Server(kind)) || error.code() == Some("WRONGTYPE")
}

/// Whether the server has refused a command because another one is in charge.
fn is_elsewhere(error: &RedisError) -> bool {
    let is_referral = |kind| matches!(kind, ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::ReadOnly);
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ExecAbort) => {
            let errors = error.clone().into_server_errors();
            errors.is_some_and(|errors| errors.iter().any(|(_, error)| error.kind().is_some_and(is_referral)))
        }
        ErrorKind::Server(kind) => is_referral(kind),
        _ => false,
    }
}
