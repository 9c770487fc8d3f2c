//! The inbox of a stage: a bounded channel in items and in bytes.
//!
//! A bound in items alone is none: thousands of the largest messages may wait. The bytes of an item stay charged until the
//! receiver asks for more, so they bound what waits and what is being processed together.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

pub use mpsc::error::{SendError, TrySendError};

/// The memory that an item takes while it waits.
pub trait Weight {
    /// In bytes, roughly: what the item owns, and a share for its own size.
    fn weight(&self) -> usize;
}

/// Creates an inbox with room for `items` (at least one) of `bytes` together. An item that is larger than `bytes` waits until
/// it is alone.
///
/// Both ends behave like those of [`tokio::sync::mpsc::channel`].
pub fn channel<T: Weight>(items: usize, bytes: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel(items.max(1));
    let limit = u32::try_from(bytes.max(1)).unwrap_or(u32::MAX);
    let budget = Arc::new(Budget { free: Semaphore::new(limit as usize), limit });
    (Sender { items: sender, budget: Arc::clone(&budget) }, Receiver { items: receiver, budget, taken: 0 })
}

#[derive(Debug)]
struct Budget {
    /// A permit for each free byte.
    free: Semaphore,
    limit: u32,
}

impl Budget {
    fn weight(&self, item: &impl Weight) -> u32 {
        u32::try_from(item.weight()).unwrap_or(u32::MAX).min(self.limit)
    }
}

/// The sending end of an inbox. Cheap to clone.
#[derive(Debug)]
pub struct Sender<T> {
    items: mpsc::Sender<T>,
    budget: Arc<Budget>,
}

/// A sending end that does not keep the inbox open.
#[derive(Debug)]
pub struct WeakSender<T> {
    items: mpsc::WeakSender<T>,
    budget: Arc<Budget>,
}

/// The receiving end of an inbox.
#[derive(Debug)]
pub struct Receiver<T> {
    items: mpsc::Receiver<T>,
    budget: Arc<Budget>,
    /// The weight of the items that were received since the last release.
    taken: usize,
}

/// What waits in an inbox, or is being processed, and what it has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Items that wait now.
    pub len: usize,
    /// Items that may wait.
    pub capacity: usize,
    /// Bytes of the items that wait and of those that are being processed.
    pub bytes: usize,
    /// Bytes that these may have.
    pub capacity_bytes: usize,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), budget: Arc::clone(&self.budget) }
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), budget: Arc::clone(&self.budget) }
    }
}

impl<T: Weight> Sender<T> {
    /// Sends an item; waits while there is no room. Does nothing if it is dropped before it is done.
    ///
    /// # Errors
    /// When the receiver has been closed or dropped.
    pub async fn send(&self, item: T) -> Result<(), SendError<T>> {
        // Nearly always there is room, and waiting costs several times as much even if it ends at once.
        let item = match self.try_send(item) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(item)) => item,
            Err(TrySendError::Closed(item)) => return Err(SendError(item)),
        };
        let Ok(bytes) = self.budget.free.acquire_many(self.budget.weight(&item)).await else {
            return Err(SendError(item));
        };
        self.items.send(item).await?;
        // Given back by the receiver.
        bytes.forget();
        Ok(())
    }

    /// Sends an item if there is room.
    ///
    /// # Errors
    /// When there is no room, or the receiver has been closed or dropped.
    pub fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        let bytes = match self.budget.free.try_acquire_many(self.budget.weight(&item)) {
            Ok(bytes) => bytes,
            Err(_) if self.is_closed() => return Err(TrySendError::Closed(item)),
            Err(_) => return Err(TrySendError::Full(item)),
        };
        self.items.try_send(item)?;
        bytes.forget();
        Ok(())
    }

    /// Waits until there is room for a small item, or the receiver has been closed or dropped. Another sender may take the
    /// room.
    pub async fn ready(&self) {
        drop(self.budget.free.acquire().await);
        drop(self.items.reserve().await);
    }

    /// Whether the receiver has been closed or dropped.
    pub fn is_closed(&self) -> bool {
        self.items.is_closed()
    }

    /// A sender that does not keep the inbox open.
    pub fn downgrade(&self) -> WeakSender<T> {
        WeakSender { items: self.items.downgrade(), budget: Arc::clone(&self.budget) }
    }
}

impl<T> WeakSender<T> {
    /// What waits; nothing once every sender has been dropped.
    pub fn depth(&self) -> Depth {
        let Some(items) = self.items.upgrade() else { return Depth::default() };
        let (capacity, capacity_bytes) = (items.max_capacity(), self.budget.limit as usize);
        let bytes = capacity_bytes.saturating_sub(self.budget.free.available_permits());
        Depth { len: capacity - items.capacity(), capacity, bytes, capacity_bytes }
    }
}

impl<T: Weight> Receiver<T> {
    /// The next item; `None` when the inbox is empty and every sender has been dropped. Items received before count as
    /// processed.
    pub async fn recv(&mut self) -> Option<T> {
        self.release();
        let item = self.items.recv().await?;
        self.taken += self.budget.weight(&item) as usize;
        Some(item)
    }

    /// Appends up to `limit` items to `received`, at least one; returns their number, which is zero when the inbox is empty
    /// and every sender has been dropped. Items received before count as processed.
    pub async fn recv_many(&mut self, received: &mut Vec<T>, limit: usize) -> usize {
        self.release();
        let before = received.len();
        let count = self.items.recv_many(received, limit).await;
        self.taken += received[before..].iter().map(|item| self.budget.weight(item) as usize).sum::<usize>();
        count
    }

    /// An item that waits, if there is one. Items received before stay charged.
    pub fn try_recv(&mut self) -> Option<T> {
        let item = self.items.try_recv().ok()?;
        self.taken += self.budget.weight(&item) as usize;
        Some(item)
    }

    /// Gives back the bytes of all items received, which have been processed.
    pub fn release(&mut self) {
        self.budget.free.add_permits(std::mem::take(&mut self.taken));
    }

    /// Accepts no more items; those that wait can still be received.
    pub fn close(&mut self) {
        self.items.close();
        self.budget.free.close();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        // Senders that wait for bytes must learn of it.
        self.budget.free.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weight for &str {
        fn weight(&self) -> usize {
            self.len()
        }
    }

    #[tokio::test]
    async fn bytes_are_charged_until_the_receiver_asks_for_more() {
        let (sender, mut receiver) = channel(10, 8);
        sender.try_send("12345").unwrap();
        assert_eq!(sender.try_send("1234"), Err(TrySendError::Full("1234")));
        assert_eq!(receiver.recv().await, Some("12345"));
        assert_eq!(sender.try_send("1234"), Err(TrySendError::Full("1234")), "it is being processed");
        assert_eq!(sender.downgrade().depth(), Depth { len: 0, capacity: 10, bytes: 5, capacity_bytes: 8 });
        receiver.release();
        sender.try_send("1234").unwrap();
        sender.try_send("5").unwrap();
        let mut received = Vec::new();
        assert_eq!((receiver.recv_many(&mut received, 10).await, &received[..]), (2, &["1234", "5"][..]));
    }

    #[tokio::test]
    async fn item_beyond_the_budget_passes_alone() {
        let (sender, mut receiver) = channel(10, 4);
        sender.try_send("1").unwrap();
        assert_eq!(sender.try_send("1234567"), Err(TrySendError::Full("1234567")));
        let sending = tokio::spawn(async move { sender.send("1234567").await });
        assert_eq!((receiver.recv().await, receiver.recv().await), (Some("1"), Some("1234567")));
        sending.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn items_are_bounded_too_and_a_dropped_send_takes_no_bytes() {
        let (sender, mut receiver) = channel(1, 100);
        sender.try_send("a").unwrap();
        assert_eq!(sender.try_send("b"), Err(TrySendError::Full("b")));
        let waits = tokio::time::timeout(std::time::Duration::ZERO, sender.send("c")).await;
        assert!(waits.is_err() && sender.downgrade().depth().bytes == 1);
        assert_eq!(receiver.recv().await, Some("a"));
    }

    #[tokio::test]
    async fn waiting_sender_learns_of_the_end() {
        for by_close in [true, false] {
            let (sender, mut receiver) = channel(10, 1);
            sender.try_send("a").unwrap();
            let sending = tokio::spawn(async move { sender.send("b").await });
            tokio::task::yield_now().await;
            if by_close {
                receiver.close();
                assert_eq!((receiver.recv().await, receiver.recv().await), (Some("a"), None));
            } else {
                drop(receiver);
            }
            assert_eq!(sending.await.unwrap(), Err(SendError("b")));
        }
    }
}
