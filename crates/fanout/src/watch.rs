//! Watching a stream: its transport or the program learns when it is attached, changes its topics and ends.

use std::fmt;

use crate::{ConnectionId, Grant, Topics};

/// Watches one stream until it is dropped, when the stream ends.
///
/// The engine calls it from the task that serves the stream, so it must not block.
pub trait StreamWatch: Send + 'static {
    /// The engine serves the stream from here on, under this id: it can be [controlled](crate::Handle::change) now. The default
    /// does nothing.
    fn attached(&mut self, _connection: ConnectionId) {}

    /// The stream reads `topics` from here on, because its client or the program changed them. With a `grant`, that has replaced the
    /// one before, and the topics may be the same; without one, the grant stays. The default does nothing.
    fn topics_changed(&mut self, _topics: &Topics, _grant: Option<&Grant>) {}
}

impl fmt::Debug for dyn StreamWatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StreamWatch")
    }
}
