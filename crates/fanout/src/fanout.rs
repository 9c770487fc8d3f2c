//! The running engine, as its owner holds it.

use crate::config::Builder;
use crate::{Handle, Publisher};

/// The running engine: hub and shards on the tokio runtime.
///
/// The tasks do not stop when this is dropped, but when every [`Publisher`] has been dropped (this one included) or after
/// [`shutdown`](Self::shutdown).
#[derive(Debug)]
pub struct Fanout {
    publisher: Publisher,
    handle: Handle,
}

impl Fanout {
    pub(crate) fn new(publisher: Publisher, handle: Handle) -> Self {
        Self { publisher, handle }
    }

    /// Configures an engine; [`Builder::build`] starts it.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A publisher: the way in.
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// A handle, for transports and for control.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Gives up this publisher and waits until every stream has ended: when all other publishers have been dropped too,
    /// or [`Handle::shutdown`] was called, and at most [`Config::close_timeout`](crate::Config::close_timeout) after the
    /// last message was handed to the shards.
    pub async fn join(self) {
        drop(self.publisher);
        self.handle.closed().await;
    }

    /// Accepts no more messages, delivers those that were sent, ends every stream gracefully, and waits for that.
    pub async fn shutdown(self) {
        self.handle.shutdown();
        self.join().await;
    }
}
