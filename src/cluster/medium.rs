//! By which broker nodes send messages to all nodes, where there is no Redis to keep their records.

use crate::source::BoxError;

#[cfg(feature = "nats")]
use crate::nats_client::{Connection, NatsUrl};

/// What the nodes' messages are published on. No `*` in the pattern of a route covers names that begin with `tallycast:`.
#[cfg(feature = "nats")]
const NAME: &str = "tallycast:cluster";

/// A broker that passes each message on to all nodes, the sender included.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Medium {
    /// The subject `tallycast:cluster`.
    #[cfg(feature = "nats")]
    Nats(Box<NatsUrl>),
}

/// A connection to it. Messages may be lost; what arrives late or twice does no harm.
pub(super) enum Link {
    #[cfg(feature = "nats")]
    Nats(Box<NatsLink>),
}

impl Medium {
    /// Connects, and receives what is sent from now on. Has a time limit of its own.
    pub(super) async fn open(&self) -> Result<Link, BoxError> {
        match *self {
            #[cfg(feature = "nats")]
            Self::Nats(ref url) => Ok(Link::Nats(Box::new(NatsLink::open(url).await?))),
        }
    }
}

impl Link {
    /// Sends a message to all nodes. Returns when the broker has it, or fails within a time limit.
    #[cfg_attr(not(feature = "nats"), expect(unused_variables, reason = "this build has no medium"))]
    pub(super) async fn send(&self, message: Vec<u8>) -> Result<(), BoxError> {
        match *self {
            #[cfg(feature = "nats")]
            Self::Nats(ref link) => link.send(message).await,
        }
    }

    /// The next message of any node. Fails when the connection is lost. Nothing is lost if the future is dropped.
    pub(super) async fn receive(&mut self) -> Result<Vec<u8>, BoxError> {
        match *self {
            #[cfg(feature = "nats")]
            Self::Nats(ref mut link) => link.receive().await,
        }
    }
}

#[cfg(feature = "nats")]
pub(super) struct NatsLink {
    connection: Connection,
    subscriber: async_nats::Subscriber,
}

#[cfg(feature = "nats")]
impl NatsLink {
    async fn open(url: &NatsUrl) -> Result<Self, BoxError> {
        let connection = Connection::open(url, "tallycast cluster").await?;
        let subscriber = connection.subscribe(NAME).await?;
        connection.ping().await?;
        Ok(Self { connection, subscriber })
    }

    async fn send(&self, message: Vec<u8>) -> Result<(), BoxError> {
        self.connection.publish(NAME.to_owned(), async_nats::HeaderMap::new(), message.into()).await?;
        Ok(self.connection.ping().await?)
    }

    async fn receive(&mut self) -> Result<Vec<u8>, BoxError> {
        use tokio_stream::StreamExt;

        tokio::select! {
            message = self.subscriber.next() => Ok(message.ok_or("the connection was closed")?.payload.into()),
            error = self.connection.failed() => Err(error.into()),
        }
    }
}
