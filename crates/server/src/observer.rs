//! Observers: the embedding program sees streams begin, change their topics and end.

use tallycast_fanout::{ConnectionId, ConnectionInfo, Grant, StreamWatch, Topics};

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

/// A watch, and what its stream needs until it ends.
struct Guarded<G> {
    /// Dropped first, so that what it reports comes before the connection's place is free again.
    watch: Option<Box<dyn StreamWatch>>,
    _guard: G,
}

/// Two watches of one stream.
struct Both(Box<dyn StreamWatch>, Box<dyn StreamWatch>);

/// A watch for the engine, which passes everything on to that of the observer and to that of a contract, and holds `guard` until the
/// stream ends.
pub(crate) fn guarded(
    guard: impl Send + 'static,
    observed: Option<Box<dyn StreamWatch>>,
    own: Option<Box<dyn StreamWatch>>,
) -> Box<dyn StreamWatch> {
    let watch = match (observed, own) {
        (Some(observed), Some(own)) => Some(Box::new(Both(observed, own)) as Box<dyn StreamWatch>),
        (one, None) | (None, one) => one,
    };
    Box::new(Guarded { watch, _guard: guard })
}

impl<G: Send + 'static> StreamWatch for Guarded<G> {
    fn attached(&mut self, connection: ConnectionId) {
        if let Some(watch) = &mut self.watch {
            watch.attached(connection);
        }
    }

    fn topics_changed(&mut self, topics: &Topics, grant: Option<&Grant>) {
        if let Some(watch) = &mut self.watch {
            watch.topics_changed(topics, grant);
        }
    }
}

impl StreamWatch for Both {
    fn attached(&mut self, connection: ConnectionId) {
        self.0.attached(connection);
        self.1.attached(connection);
    }

    fn topics_changed(&mut self, topics: &Topics, grant: Option<&Grant>) {
        self.0.topics_changed(topics, grant);
        self.1.topics_changed(topics, grant);
    }
}
