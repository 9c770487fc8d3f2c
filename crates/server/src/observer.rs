//! Observers: the embedding program sees streams begin, change their topics and end.

use tallycast_fanout::{ConnectionInfo, Grant, Topics};

/// Sees every stream of a server, whatever its protocol and contract. Set it with
/// [`Server::observer`](crate::Server::observer).
///
/// Its methods, and those of [`StreamWatch`], are called by the tasks that serve streams: they must not block.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// use tallycast_fanout::{ConnectionInfo, Grant};
/// use tallycast_server::{StreamObserver, StreamWatch};
///
/// /// Counts open streams.
/// struct Open(Arc<AtomicUsize>);
///
/// struct One(Arc<AtomicUsize>);
///
/// impl StreamObserver for Open {
///     fn opened(&self, _stream: &ConnectionInfo, _grant: Option<&Grant>) -> Box<dyn StreamWatch> {
///         self.0.fetch_add(1, Ordering::Relaxed);
///         Box::new(One(Arc::clone(&self.0)))
///     }
/// }
///
/// impl StreamWatch for One {}
///
/// impl Drop for One {
///     fn drop(&mut self) {
///         self.0.fetch_sub(1, Ordering::Relaxed);
///     }
/// }
/// ```
pub trait StreamObserver: Send + Sync + 'static {
    /// A stream begins: it has passed all checks, and nothing was sent yet. Called once for each stream; the result is dropped
    /// when the stream ends.
    fn opened(&self, stream: &ConnectionInfo, grant: Option<&Grant>) -> Box<dyn StreamWatch>;
}

/// Watches one stream until it is dropped, when the stream ends.
pub trait StreamWatch: Send + 'static {
    /// The stream reads `topics` from here on, with `grant`: its client or the program changed its topics, or its client renewed
    /// its token, and then the topics may be the same as before. Only WebSockets change. The default does nothing.
    fn topics_changed(&mut self, _topics: &Topics, _grant: Option<&Grant>) {}
}
