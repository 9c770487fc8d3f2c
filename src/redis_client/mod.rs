//! Redis commands outside the subscription: one client, and one connection, for every part of the process.

pub(crate) mod subscription;
#[cfg(test)]
pub(crate) mod tests;
mod url;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection, PubSub};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, RedisResult};

pub use url::{RedisUrl, UrlError};

/// Opens a client for `url`; nothing connects yet.
///
/// # Errors
/// The URL asks for TLS and its setup fails.
pub fn open(url: &RedisUrl) -> RedisResult<Client> {
    // Only the first call in a process can succeed, which is enough.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let keep_alive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keep_alive);
    Client::open(url.info.clone().set_tcp_settings(tcp))
}

/// Sends commands to one Redis server. Cheap to clone; clones share one connection.
///
/// The connection opens with the first command, so an absent Redis at start does no harm. A broken one is replaced.
/// Subscriptions need a connection of their own: see [`source::redis`](crate::source::redis).
#[derive(Clone)]
pub struct RedisClient(Arc<Shared>);

struct Shared {
    client: Client,
    config: ConnectionManagerConfig,
    /// Created with the first command, because it needs a runtime.
    manager: Mutex<Option<ConnectionManager>>,
}

impl std::fmt::Debug for RedisClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RedisClient").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl RedisClient {
    /// A client that is not connected yet. Connecting and each response may take up to `limit`.
    pub fn new(client: Client, limit: Duration) -> Self {
        // One attempt a command: a caller prefers an error to a queue of retries.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit))
            .set_number_of_retries(0);
        Self(Arc::new(Shared { client, config, manager: Mutex::new(None) }))
    }

    /// Sends a command and waits for the response. Sends it a second time if the connection turns out to be broken, so
    /// only idempotent commands belong here.
    ///
    /// # Errors
    /// Redis is unavailable, does not answer within the time limit, or answers with an error.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        match self.try_query(command).await {
            // Either the connection broke since the last command, or the manager repeats the result of an attempt to
            // connect that it made then. In both cases it has started another attempt, which counts.
            Err(error) if error.is_io_error() && !error.is_timeout() => self.try_query(command).await,
            result => result,
        }
    }

    /// Sends commands together, and waits for the responses; once, also if the connection turns out to be broken.
    ///
    /// # Errors
    /// As for [`query`](Self::query).
    pub async fn send_once<T: FromRedisValue>(&self, pipeline: &Pipeline) -> RedisResult<T> {
        let mut manager = self.manager()?;
        let result = pipeline.query_async(&mut manager).await;
        self.note(&result);
        result
    }

    /// A connection of its own for a subscription.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn pubsub(&self) -> RedisResult<PubSub> {
        self.0.client.get_async_pubsub().await
    }

    /// A connection of its own, for commands that Redis answers after a while.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn dedicated(&self, config: &AsyncConnectionConfig) -> RedisResult<MultiplexedConnection> {
        self.0.client.get_multiplexed_async_connection_with_config(config).await
    }

    async fn try_query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let mut manager = self.manager()?;
        let result = command.query_async(&mut manager).await;
        self.note(&result);
        result
    }

    /// Has the next command open another connection. For callers that do not wait for the time limit of the client.
    pub(crate) fn give_up(&self) {
        *self.lock() = None;
    }

    /// Gives up a connection whose manager would keep it although it is of no use.
    fn note<T>(&self, result: &RedisResult<T>) {
        if let Err(error) = result
            && (error.is_timeout() || !error.is_io_error())
        {
            // The manager reconnects only after I/O errors. It would keep a connection that no longer answers, and
            // repeat the result of a failed login for ever.
            *self.lock() = None;
        }
    }

    fn manager(&self) -> RedisResult<ConnectionManager> {
        let mut manager = self.lock();
        if let Some(manager) = &*manager {
            return Ok(manager.clone());
        }
        let Shared { client, config, .. } = &*self.0;
        Ok(manager.insert(ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?).clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<ConnectionManager>> {
        self.0.manager.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
