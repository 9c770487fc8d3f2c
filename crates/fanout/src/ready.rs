//! The list of connections whose sockets are ready: wakers add to it, the shard takes from it.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use tokio::sync::Notify;

/// Keys of connections that may have become readable or writable. At most two for each connection, because waking uses up
/// a waker.
#[derive(Debug, Default)]
pub(crate) struct ReadyList {
    keys: Mutex<Vec<usize>>,
    notify: Notify,
}

impl ReadyList {
    /// A waker that puts connection `key` on the list.
    pub(crate) fn waker(self: &Arc<Self>, key: usize) -> Waker {
        Waker::from(Arc::new(Entry { list: Arc::clone(self), key }))
    }

    /// Waits until the list is not empty, or not at all while keys that were taken before are `left`.
    pub(crate) async fn ready(&self, left: &[usize]) {
        if left.is_empty() {
            self.notify.notified().await;
        }
    }

    /// Moves the list's keys to `keys`, which must be empty. The two vectors are swapped, so that neither is reallocated.
    pub(crate) fn take(&self, keys: &mut Vec<usize>) {
        std::mem::swap(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner), keys);
    }
}

#[derive(Debug)]
struct Entry {
    list: Arc<ReadyList>,
    key: usize,
}

impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let first = {
            let mut keys = self.list.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.push(self.key);
            keys.len() == 1
        };
        if first {
            self.list.notify.notify_one();
        }
    }
}
