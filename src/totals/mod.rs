//! The totals of sorted sets, at their exact position among the events.
//!
//! A script, which Redis runs atomically, reads the sorted sets and publishes what it read on a channel that the source
//! is subscribed to. Events published before that message are in the totals; events published after it are not.
//!
//! Totals are read at each new subscription, after each change of routes and each lost event, and from time to time, in case
//! something else changes a sorted set. A sorted set that never existed is no authority: its totals are the counts since the
//! process started. If these outgrow the limits, they are unavailable until it exists.
//!
//! A sorted set that is too large, or that cannot be read for ten seconds although a reading is due, has no totals until it
//! can be read again. Each sorted set is read by itself, so that none affects another, and no reading is larger than a bound
//! far below the backlog at which Redis disconnects a subscriber.

mod key;
mod message;
mod reader;
mod score;

use tallycast_fanout::{Namespace, Tally};

pub use key::{TotalsKey, TotalsKeyError};
pub use reader::Config;
pub(crate) use reader::{CHANNELS, Outcome, TotalsReader, is_totals_channel};
pub(crate) use score::count_of_score;

/// What all events before it, and none after it, add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TotalsSnapshot {
    /// The namespace of the tallies.
    pub namespace: Namespace,
    /// The sum of each key.
    pub totals: Tally,
}
