//! Looks at the messages of the engine while an operator does: rates of namespaces, and tails. Otherwise it costs one check for each
//! turn of the hub.

mod rates;
mod tails;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tallycast_fanout::{Message, MessageTap, Namespace, Publisher, Topic};

use rates::Rates;
pub(super) use rates::{ChildRate, PrefixRates, child_of};
use tails::Tails;
pub(super) use tails::{MAX_TAILS, TailGuard, TailObserver};

/// Sees all messages of the engine.
#[derive(Debug, Default)]
pub struct Inspector {
    is_active: AtomicBool,
    watched: Mutex<Watched>,
}

/// What operators look at.
#[derive(Debug, Default)]
struct Watched {
    rates: Rates,
    tails: Tails,
    /// The engine that serves tails, while it runs.
    messages: Option<Publisher>,
}

impl Inspector {
    fn change<T>(&self, change: impl FnOnce(&mut Watched) -> T) -> T {
        let mut watched = self.lock();
        let result = change(&mut watched);
        self.is_active.store(!watched.rates.is_empty() || !watched.tails.is_empty(), Ordering::Relaxed);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rates of a namespace and of its children, which are counted from now on and for as long as someone asks.
    pub(super) fn rates(&self, prefix: &Namespace) -> PrefixRates {
        self.change(|watched| watched.rates.of(prefix, Instant::now()))
    }

    /// Serves tails by `messages`, until [`stop`](Self::stop).
    pub(super) fn start(&self, messages: Publisher) {
        self.change(|watched| watched.messages = Some(messages));
    }

    /// Sends messages of `topic` to the reader of a tail from now on, until the guard is dropped. `None` if too many tails are open, or
    /// after the end.
    pub(super) fn tail(self: &Arc<Self>, topic: Topic) -> Option<TailGuard> {
        let number = self.change(|watched| watched.tails.open(topic, watched.messages.clone()?))?;
        Some(TailGuard { inspector: Arc::clone(self), number })
    }

    fn close_tail(&self, number: u64) {
        self.change(|watched| watched.tails.close(number));
    }

    /// To be called once per second: forgets what no one looks at any more, and says what tails have skipped.
    pub(super) fn tick(&self) {
        if self.is_active() {
            self.change(|watched| {
                watched.rates.tick(Instant::now());
                watched.tails.tick();
            });
        }
    }

    /// Ends all tails.
    pub(super) fn stop(&self) {
        self.change(|watched| {
            watched.tails = Tails::default();
            watched.messages = None;
        });
    }
}

impl MessageTap for Inspector {
    fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Relaxed)
    }

    fn messages(&self, messages: &mut dyn Iterator<Item = &Message>) {
        let mut watched = self.lock();
        for message in messages {
            watched.rates.count(message);
            watched.tails.send(message);
        }
    }
}
