//! The way in: messages from any number of publishers, and the acknowledgement of those that must not be lost.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::inbox::{self, Weight};
use crate::{EntryId, Message, Retention, SequenceEvent};

/// What is on its way to the hub.
#[derive(Debug)]
pub(crate) enum Envelope {
    /// A message.
    Message(Message, Option<Acknowledgement>),
    /// What a source knows of a sequence.
    Sequence(SequenceEvent),
    /// How messages are kept from now on.
    Retentions(Vec<Arc<Retention>>),
    /// Everything that the retention with this name keeps is forgotten; entries up to this one are not available.
    Forget(Arc<str>, EntryId),
    /// The engines that messages of other engines have passed, and how many of those engines have said what they keep.
    Path(Vec<Arc<str>>, usize),
}

impl Weight for Envelope {
    fn weight(&self) -> usize {
        match self {
            Self::Message(message, _) => message.weight(),
            _ => size_of::<Self>(),
        }
    }
}

/// Sends messages to the engine. Cheap to clone.
///
/// The engine shuts down gracefully once every publisher has been dropped: messages that were sent are still delivered,
/// then every stream ends. To shut it down while publishers exist, call [`Fanout::shutdown`](crate::Fanout::shutdown) or
/// [`Handle::shutdown`](crate::Handle::shutdown).
#[derive(Debug, Clone)]
pub struct Publisher {
    inbox: inbox::Sender<Envelope>,
}

/// The engine is shutting down and accepts no more messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine is shutting down and accepts no more messages")]
pub struct Closed;

/// Why [`Publisher::try_send`] did not send a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrySendError {
    /// As many messages wait for the hub as [`Config::inbox`](crate::Config::inbox) and
    /// [`Config::inbox_bytes`](crate::Config::inbox_bytes) allow.
    #[error("the engine's inbox is full")]
    Full,
    /// As [`Closed`].
    #[error("the engine is shutting down and accepts no more messages")]
    Closed,
}

/// The receiving end of a [`Publisher::detached`].
#[derive(Debug)]
pub struct Messages(inbox::Receiver<Envelope>);

impl Messages {
    /// The next message, which is acknowledged; `None` when every publisher has been dropped. Events of sequences are left out.
    pub async fn recv(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.0.recv().await?.open() {
                return Some(message);
            }
        }
    }

    /// A message that has been sent already, if there is one. Events of sequences are left out.
    pub fn try_recv(&mut self) -> Option<Message> {
        std::iter::from_fn(|| self.0.try_recv()).find_map(Envelope::open)
    }
}

impl Envelope {
    fn open(self) -> Option<Message> {
        match self {
            Self::Message(message, acknowledgement) => {
                if let Some(acknowledgement) = acknowledgement {
                    acknowledgement.acknowledge();
                }
                Some(message)
            }
            _ => None,
        }
    }
}

impl Publisher {
    /// A publisher without an engine, for tests of what publishes: messages are received by the other half, with room for
    /// `capacity` (at least one).
    pub fn detached(capacity: usize) -> (Self, Messages) {
        let (inbox, messages) = inbox::channel(capacity, usize::MAX);
        (Self { inbox }, Messages(messages))
    }

    pub(crate) fn new(inbox: inbox::Sender<Envelope>) -> Self {
        Self { inbox }
    }

    /// Sends a message; waits while the engine's inbox is full.
    ///
    /// # Errors
    /// When the engine is shutting down.
    pub async fn send(&self, message: Message) -> Result<(), Closed> {
        self.inbox.send(Envelope::Message(message, None)).await.map_err(|_| Closed)
    }

    /// Sends what a source knows of a sequence, in order with its messages; waits while the engine's inbox is full.
    ///
    /// # Errors
    /// When the engine is shutting down.
    pub async fn send_sequence_event(&self, event: SequenceEvent) -> Result<(), Closed> {
        self.inbox.send(Envelope::Sequence(event)).await.map_err(|_| Closed)
    }

    /// Keeps messages by `retentions` from now on, in order with messages; see [`Config::retentions`](crate::Config::retentions).
    /// Waits while the engine's inbox is full.
    ///
    /// # Errors
    /// When the engine is shutting down.
    pub async fn set_retentions(&self, retentions: Vec<Arc<Retention>>) -> Result<(), Closed> {
        self.inbox.send(Envelope::Retentions(retentions)).await.map_err(|_| Closed)
    }

    /// Forgets what the retention with this name keeps, in order with messages: entries up to `trimmed` are not available. For a
    /// source that sends all others again. Waits while the engine's inbox is full.
    ///
    /// # Errors
    /// When the engine is shutting down.
    pub async fn forget(&self, retention: Arc<str>, trimmed: EntryId) -> Result<(), Closed> {
        self.inbox.send(Envelope::Forget(retention, trimmed)).await.map_err(|_| Closed)
    }

    /// Sets the [instances](crate::Handle::instance) of the engines that messages pass before this one, so that no engine relays its
    /// own; and how many of [`Config::relays`](crate::Config::relays) have said what they keep. Waits while the engine's inbox is full.
    ///
    /// # Errors
    /// When the engine is shutting down.
    pub async fn set_path(&self, path: Vec<Arc<str>>, declared: usize) -> Result<(), Closed> {
        self.inbox.send(Envelope::Path(path, declared)).await.map_err(|_| Closed)
    }

    /// Like [`send`](Self::send); `acknowledgement` is given once the hub has handed the message to every shard. A message
    /// that the engine discards at shutdown is not acknowledged.
    ///
    /// # Errors
    /// When the engine is shutting down.
    pub async fn send_acknowledged(&self, message: Message, acknowledgement: Acknowledgement) -> Result<(), Closed> {
        self.inbox.send(Envelope::Message(message, Some(acknowledgement))).await.map_err(|_| Closed)
    }

    /// Sends a message if there is room.
    ///
    /// # Errors
    /// When there is no room, or the engine is shutting down.
    pub fn try_send(&self, message: Message) -> Result<(), TrySendError> {
        self.inbox.try_send(Envelope::Message(message, None)).map_err(|error| match error {
            inbox::TrySendError::Full(_) => TrySendError::Full,
            inbox::TrySendError::Closed(_) => TrySendError::Closed,
        })
    }

    /// Waits until there is room for a message, or the engine is shutting down. Another publisher may take the room.
    pub async fn ready(&self) {
        self.inbox.ready().await;
    }
}

/// Confirms that nothing more will become of an event, so that a source may acknowledge it to its broker.
///
/// Dropping it without [`acknowledge`](Self::acknowledge) means that the event was lost on its way.
#[derive(Debug)]
pub struct Acknowledgement(oneshot::Sender<()>);

/// Resolves when the matching [`Acknowledgement`] is given.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Receipt(oneshot::Receiver<()>);

/// The event was lost on its way to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event was lost before the hub took it")]
pub struct NotAcknowledged;

impl Acknowledgement {
    /// An acknowledgement, and the receipt that resolves with it.
    pub fn new() -> (Self, Receipt) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), Receipt(receiver))
    }

    /// Resolves the receipt.
    pub fn acknowledge(self) {
        // A source that stopped waiting needs no answer.
        let _ = self.0.send(());
    }
}

impl Future for Receipt {
    type Output = Result<(), NotAcknowledged>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|_| NotAcknowledged)
    }
}
