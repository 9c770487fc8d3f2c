//! Messages between nodes by NATS: one subject.

use async_nats::{HeaderMap, Subscriber};
use tokio_stream::StreamExt;

use super::NAME;
use crate::nats_client::{Connection, NatsUrl};
use crate::source::BoxError;

pub(in crate::cluster) struct NatsLink {
    connection: Connection,
    subscriber: Subscriber,
}

impl NatsLink {
    pub(super) async fn open(url: &NatsUrl) -> Result<Self, BoxError> {
        let connection = Connection::open(url, "tallycast cluster").await?;
        let subscriber = connection.subscribe(NAME).await?;
        connection.ping().await?;
        Ok(Self { connection, subscriber })
    }

    pub(super) async fn send(&self, message: Vec<u8>) -> Result<(), BoxError> {
        self.connection.publish(NAME.to_owned(), HeaderMap::new(), message.into()).await?;
        Ok(self.connection.ping().await?)
    }

    pub(super) async fn receive(&mut self) -> Result<Vec<u8>, BoxError> {
        tokio::select! {
            message = self.subscriber.next() => Ok(message.ok_or("the connection was closed")?.payload.into()),
            error = self.connection.failed() => Err(error.into()),
        }
    }
}
