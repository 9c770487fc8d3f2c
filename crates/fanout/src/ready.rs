//! Which connections the operating system has news of: the wakers put their numbers on a list, the shard takes them.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use tokio::sync::Notify;

/// The numbers of connections that may have become readable or writable. It cannot grow past two for each connection:
/// a waker is used up when it wakes.
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

    /// Waits until something has been put on the list.
    pub(crate) async fn ready(&self) {
        self.notify.notified().await;
    }

    /// Moves the list's numbers to `keys`, which must be empty; the two vectors change places, so that neither is
    /// allocated anew.
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
