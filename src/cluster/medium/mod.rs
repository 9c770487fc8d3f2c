//! By which broker nodes send messages to all nodes, where there is no Redis to keep their records.

#[cfg(feature = "amqp")]
mod amqp;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod nats;

use crate::source::BoxError;

/// What the nodes' messages are published on. No `*` in the pattern of a route covers names that begin with `tallycast:`.
#[cfg(any(feature = "amqp", feature = "nats"))]
const NAME: &str = "tallycast:cluster";

/// A broker that passes each message on to all nodes, the sender included.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Medium {
    /// The subject `tallycast:cluster`.
    #[cfg(feature = "nats")]
    Nats(Box<crate::nats_client::NatsUrl>),
    /// The fanout exchange `tallycast:cluster`.
    #[cfg(feature = "amqp")]
    Amqp(Box<crate::amqp_client::Config>),
    /// The topic `tallycast.cluster`.
    #[cfg(feature = "kafka")]
    Kafka(Box<crate::source::kafka::Config>),
}

/// A connection to it. Messages may be lost; what arrives late or twice does no harm.
pub(super) enum Link {
    #[cfg(feature = "nats")]
    Nats(Box<nats::NatsLink>),
    #[cfg(feature = "amqp")]
    Amqp(Box<amqp::AmqpLink>),
    #[cfg(feature = "kafka")]
    Kafka(Box<kafka::KafkaLink>),
}

impl Medium {
    /// Connects, and receives what is sent from now on. Has a time limit of its own.
    pub(super) async fn open(&self) -> Result<Link, BoxError> {
        match *self {
            #[cfg(feature = "nats")]
            Self::Nats(ref url) => Ok(Link::Nats(Box::new(nats::NatsLink::open(url).await?))),
            #[cfg(feature = "amqp")]
            Self::Amqp(ref config) => Ok(Link::Amqp(Box::new(amqp::AmqpLink::open(config).await?))),
            #[cfg(feature = "kafka")]
            Self::Kafka(ref config) => Ok(Link::Kafka(Box::new(kafka::KafkaLink::open(config).await?))),
        }
    }
}

impl Link {
    /// Sends a message to all nodes. Returns when the broker has it, or fails within a time limit.
    #[cfg_attr(
        not(any(feature = "amqp", feature = "kafka", feature = "nats")),
        expect(unused_variables, reason = "this build has no medium")
    )]
    pub(super) async fn send(&self, message: Vec<u8>) -> Result<(), BoxError> {
        match *self {
            #[cfg(feature = "nats")]
            Self::Nats(ref link) => link.send(message).await,
            #[cfg(feature = "amqp")]
            Self::Amqp(ref link) => link.send(message).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(ref link) => link.send(message).await,
        }
    }

    /// The next message of any node. Fails when the connection is lost. Nothing is lost if the future is dropped.
    pub(super) async fn receive(&mut self) -> Result<Vec<u8>, BoxError> {
        match *self {
            #[cfg(feature = "nats")]
            Self::Nats(ref mut link) => link.receive().await,
            #[cfg(feature = "amqp")]
            Self::Amqp(ref mut link) => link.receive().await,
            #[cfg(feature = "kafka")]
            Self::Kafka(ref link) => link.receive().await,
        }
    }
}
