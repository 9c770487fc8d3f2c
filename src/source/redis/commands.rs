//! A connection for commands beside the subscription: made when it is needed, and made anew after it failed.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisResult};
use tokio::sync::Mutex;

/// Sends commands to one server. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct Commands {
    client: Client,
    limit: Duration,
    connection: Arc<Mutex<Option<MultiplexedConnection>>>,
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Commands").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Commands {
    /// Nothing is connected yet. Connecting and each answer may take `limit`.
    pub fn new(client: Client, limit: Duration) -> Self {
        Self { client, limit, connection: Arc::default() }
    }

    /// Sends a command, which may be sent twice, and waits for the answer.
    ///
    /// # Errors
    /// When the server is away, does not answer in time, or refuses.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let (mut connection, made_now) = self.connection().await?;
        let answer = command.query_async(&mut connection).await;
        let Err(error) = &answer else { return answer };
        if !error.is_io_error() && !error.is_unrecoverable_error() {
            return answer;
        }
        // A connection that failed once is not trusted again. An old one may have failed long ago, unnoticed.
        *self.connection.lock().await = None;
        if made_now {
            return answer;
        }
        command.query_async(&mut self.connection().await?.0).await
    }

    /// The connection, and whether it was made only now.
    async fn connection(&self) -> RedisResult<(MultiplexedConnection, bool)> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok((connection.clone(), false));
        }
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.limit))
            .set_response_timeout(Some(self.limit));
        let made = self.client.get_multiplexed_async_connection_with_config(&limits).await?;
        Ok((connection.insert(made).clone(), true))
    }
}
