//! Made-up Emojitracker traffic: a stream of emoji updates with plausible posts, the same for the same seed, at any rate.
//!
//! [`Generator`] is an iterator without I/O, clocks or global state; [`paced`] makes it a stream at a given rate. The
//! binary of this crate publishes that stream to Redis; `tallycast demo` takes it as it is.
//!
//! ```
//! let mut updates = sandbox::Generator::new(7);
//! let update = updates.next().expect("the generator never ends");
//! assert!(sandbox::catalogue().iter().any(|emoji| emoji.id == update.id));
//! assert!(update.tweet.starts_with('{'));
//! ```

mod generator;
mod pace;

pub use self::generator::{Emoji, Generator, Update, catalogue, unified_id};
pub use self::pace::{MAX_BATCH, MAX_RATE, paced};
