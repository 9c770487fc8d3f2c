//! The totals of sorted sets, at their exact position among the events.
//!
//! A script, which Redis runs atomically, reads the sorted sets and publishes what it read on a channel that the source
//! is subscribed to. Events published before that message are in the totals; events published after it are not.
//!
//! Totals are read at each new subscription, after each lost event, and from time to time, in case something else
//! changes a sorted set. A sorted set that never existed is no authority: its totals are the counts since the process
//! started.

mod key;
mod reader;

use tallycast_fanout::{Namespace, Tally};

pub use key::{TotalsKey, TotalsKeyError};
pub use reader::Config;
pub(crate) use reader::{CHANNELS, TotalsReader};

/// What all events before it, and none after it, add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TotalsSnapshot {
    /// The namespace of the tallies.
    pub namespace: Namespace,
    /// The sum of each key.
    pub totals: Tally,
}
