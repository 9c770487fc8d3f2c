//! A cache of reads: one read of the store serves any number of requests, and an old value serves while the store is
//! unavailable.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a value counts as current, and how long a failed read is not repeated.
pub(super) const MAX_AGE: Duration = Duration::from_secs(1);
/// Entries kept at the same time.
const MAX_ENTRIES: usize = 4096;

/// Values by key.
pub(super) struct Cache<V, E> {
    entries: Mutex<HashMap<String, Arc<Entry<V, E>>>>,
}

/// Locked during a read; concurrent requests for the same key wait for its result.
type Entry<V, E> = tokio::sync::Mutex<EntryState<V, E>>;

struct EntryState<V, E> {
    value: Option<(V, Instant)>,
    /// When the last read ended, and its error if it failed.
    last_read: Option<(Instant, Result<(), E>)>,
}

/// A value from the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cached<V> {
    pub(super) value: V,
    /// The age of the value, if the last read failed.
    pub(super) stale: Option<Duration>,
}

impl<V: Clone, E: Clone> Cache<V, E> {
    pub(super) fn new() -> Self {
        Self { entries: Mutex::default() }
    }

    /// The value of `key`, from the cache or else from `read`.
    ///
    /// # Errors
    /// The error of `read`, if there is no earlier value.
    pub(super) async fn get(&self, key: &str, read: impl AsyncFnOnce() -> Result<V, E>) -> Result<Cached<V>, E> {
        let entry = self.entry(key);
        let mut state = entry.lock().await;
        if state.last_read.as_ref().is_none_or(|(at, _)| at.elapsed() >= MAX_AGE) {
            let outcome = read().await;
            let now = Instant::now();
            state.last_read = Some((now, outcome.as_ref().map(|_| ()).map_err(E::clone)));
            if let Ok(value) = outcome {
                state.value = Some((value, now));
            }
        }
        let error = state.last_read.as_ref().and_then(|(_, outcome)| outcome.as_ref().err());
        match (&state.value, error) {
            (Some((value, at)), error) => Ok(Cached { value: value.clone(), stale: error.map(|_| at.elapsed()) }),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => unreachable!("a successful read leaves a value"),
        }
    }

    fn entry(&self, key: &str) -> Arc<Entry<V, E>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(key) {
            return Arc::clone(entry);
        }
        if entries.len() >= MAX_ENTRIES {
            entries.retain(|_, entry| {
                // A locked entry has a read in progress.
                let Ok(state) = entry.try_lock() else { return true };
                state.last_read.as_ref().is_some_and(|(at, _)| at.elapsed() < MAX_AGE)
            });
        }
        if entries.len() >= MAX_ENTRIES {
            entries.clear();
        }
        let entry = Arc::new(Entry::new(EntryState { value: None, last_read: None }));
        entries.insert(key.to_owned(), Arc::clone(&entry));
        entry
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn one_read_serves_concurrent_requests() {
        let cache = Cache::<u32, ()>::new();
        let reads = Cell::new(0);
        let get = || {
            cache.get("a", async || {
                reads.set(reads.get() + 1);
                tokio::task::yield_now().await;
                Ok(7)
            })
        };
        let (first, second) = tokio::join!(get(), get());
        assert_eq!((first, second), (Ok(Cached { value: 7, stale: None }), Ok(Cached { value: 7, stale: None })));
        assert_eq!(reads.get(), 1);
    }

    #[tokio::test]
    async fn old_value_is_returned_while_the_store_is_unavailable() {
        let cache = Cache::<u32, &str>::new();
        assert_eq!(cache.get("a", async || Err("unavailable")).await, Err("unavailable"));
        // The failed read is not repeated at once.
        assert_eq!(cache.get("a", async || Ok(1)).await, Err("unavailable"));
        assert!(cache.get("b", async || Ok(1)).await.is_ok());
        cache.entry("b").lock().await.last_read = None;
        let cached = cache.get("b", async || Err("unavailable")).await.unwrap();
        assert!(cached.value == 1 && cached.stale.is_some());
    }

    #[tokio::test]
    async fn number_of_entries_is_bounded() {
        let cache = Cache::<usize, ()>::new();
        for number in 0..2 * MAX_ENTRIES {
            cache.get(&number.to_string(), async || Ok(number)).await.unwrap();
        }
        assert!(cache.entries.lock().unwrap().len() <= MAX_ENTRIES);
    }
}
