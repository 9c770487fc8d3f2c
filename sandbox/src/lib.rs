//! Synthetic Emojitracker traffic: a reproducible stream of emoji updates with plausible posts, at any rate.
//!
//! [`Generator`] is an iterator without I/O or global state, and without clocks unless posts are to be dated now; [`paced`] turns it
//! into a stream at a given rate. The `sandbox` binary publishes that stream to Redis; `tallycast demo` uses it directly, beside
//! [`Prices`], [`Talk`] and [`Notices`].
//!
//! ```
//! let mut updates = sandbox::Generator::new(7);
//! let update = updates.next().expect("the generator never ends");
//! assert!(sandbox::catalogue().iter().any(|emoji| emoji.id == update.id));
//! assert!(update.tweet.starts_with('{'));
//! ```

mod generator;
mod pace;
mod prices;

pub use self::generator::{Emoji, Generator, Notice, Notices, Talk, USERS, Update, Utterance, catalogue, unified_id};
pub use self::pace::{MAX_BATCH, MAX_RATE, paced};
pub use self::prices::{Prices, SYMBOLS, Tick};
