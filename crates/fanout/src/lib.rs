//! A fan-out engine: messages in, bytes on every reader's socket out.
//!
//! ```text
//! Publisher ─mpsc→ hub ─mpsc→ shard 0 ─write→ its connections
//!                      └─mpsc→ shard 1 ─write→ ...
//! ```
//!
//! Every connection reads exactly one *feed*: the interned pair of a set of [`Topics`] and a [`Framing`]. A message is framed
//! once for each framing, and the shards find the feeds that contain it, in parallel; a connection is only a position in its
//! feed's short log of framed batches. So the memory that a message takes does not depend on the number of its readers, and
//! no reader makes another wait. Readers
//! that fall behind the log are disconnected, skip ahead, or get what they missed conflated: see [`Policy`].
//!
//! The engine knows no protocol. A transport, such as the crate `tallycast-server`, gives it a [`Framing`] and a
//! [`Subscriber`] for each connection; programs send messages by a [`Publisher`]:
//!
//! ```
//! use tallycast_fanout::{Fanout, Message};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let fanout = Fanout::builder().shards(2).build();
//! let publisher = fanout.publisher();
//! publisher.send(Message::text("/clock".parse()?, "12:00")).await?;
//! fanout.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod body;
mod budget;
mod catch_up;
mod close;
mod config;
mod conflation;
mod connection;
mod fanout;
mod framing;
mod grant;
mod handle;
mod history;
mod hub;
mod identity;
mod inbound;
pub mod inbox;
mod interest;
mod log;
mod merges;
mod message;
mod moment;
mod namespace;
mod origin;
mod policy;
mod position;
mod probe;
mod publisher;
mod rate;
mod ready;
mod recorder;
mod relay;
mod replay;
mod report;
mod retention;
mod shard;
mod sink;
mod stats;
mod subscriber;
mod tap;
#[cfg(test)]
mod tests;
mod topic;
mod topic_index;
mod totals;
mod turn;
mod watch;

pub use body::{BodyReceiver, BodySender, CutOff, CutOffSignal, body};
pub use close::{CloseReason, close_gracefully};
pub use config::{Builder, Config};
pub use fanout::Fanout;
pub use framing::Framing;
pub use grant::{Access, Grant};
pub use handle::{ConnectionId, ConnectionIdError, ControlError, Handle, NotCurrent, SnapshotError, Unavailable};
pub use history::{IdFormat, Resume, Start};
pub use inbound::{ClientAction, Decision, Inbound, Operation, Subscription};
pub use message::{Data, Message, Tally, TotalsState, Update};
pub use namespace::{MAX_NAME_BYTES, MAX_NAMESPACE_BYTES, MAX_NAMESPACE_DEPTH, Namespace, NamespaceError};
pub use policy::{NamespacePolicy, Policy, PolicyError};
pub use position::{
    EntryId, EntryIdError, Position, Reset, ResetReason, SequenceEvent, SequenceEventKind, numbered_sequence,
};
pub use probe::{Passage, Probe, ShardPassage};
pub use publisher::{Acknowledgement, Closed, Messages, NotAcknowledged, Publisher, Receipt, TrySendError};
pub use rate::{Rate, RateError};
pub use relay::{RelayStart, RelayedRetention, SequenceName};
pub use report::{ConnectionReport, FeedReport, Report};
pub use retention::{Kept, Partition, Retention};
pub use sink::{Sink, Stream};
pub use stats::{Counter, Histogram, Stats};
pub use subscriber::{ConnectionInfo, Subscriber};
pub use tap::MessageTap;
pub use topic::{MAX_TOPICS, MAX_WILDCARDS, Topic, TopicError, Topics};
pub use watch::StreamWatch;
