//! Copies of what was read, kept for a moment: one read serves any number of callers, and an old copy is better than none
//! while the store is away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a copy is as good as what it is a copy of, and how long a failed read is not tried again.
pub(super) const FRESH: Duration = Duration::from_secs(1);
/// Copies kept at the same time.
const MAX_COPIES: usize = 4096;

/// Copies by key.
pub(super) struct Cache<V, E> {
    places: Mutex<HashMap<String, Arc<Place<V, E>>>>,
}

/// Locked by the caller that reads; those who come meanwhile wait for what it finds.
type Place<V, E> = tokio::sync::Mutex<State<V, E>>;

struct State<V, E> {
    copy: Option<(V, Instant)>,
    /// When the store was last asked, and why that failed, if it did.
    asked: Option<(Instant, Result<(), E>)>,
}

/// A copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy<V> {
    pub(super) value: V,
    /// How old it is, if the store could not be asked for a newer one.
    pub(super) stale: Option<Duration>,
}

impl<V: Clone, E: Clone> Cache<V, E> {
    pub(super) fn new() -> Self {
        Self { places: Mutex::default() }
    }

    /// The copy of `key`, which `read` gets from the store if there is none that is fresh.
    ///
    /// # Errors
    /// What `read` failed with, when there is no copy at all.
    pub(super) async fn get(&self, key: &str, read: impl AsyncFnOnce() -> Result<V, E>) -> Result<Copy<V>, E> {
        let place = self.place(key);
        let mut state = place.lock().await;
        if state.asked.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH) {
            let outcome = read().await;
            let now = Instant::now();
            state.asked = Some((now, outcome.as_ref().map(|_| ()).map_err(E::clone)));
            if let Ok(value) = outcome {
                state.copy = Some((value, now));
            }
        }
        let failed = state.asked.as_ref().and_then(|(_, outcome)| outcome.as_ref().err());
        match (&state.copy, failed) {
            (Some((value, at)), failed) => Ok(Copy { value: value.clone(), stale: failed.map(|_| at.elapsed()) }),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => unreachable!("a read that did not fail has left a copy"),
        }
    }

    fn place(&self, key: &str) -> Arc<Place<V, E>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(key) {
            return Arc::clone(place);
        }
        if places.len() >= MAX_COPIES {
            places.retain(|_, place| {
                // One that is locked is being read right now.
                place.try_lock().map_or(true, |state| state.asked.as_ref().is_some_and(|(at, _)| at.elapsed() < FRESH))
            });
        }
        if places.len() >= MAX_COPIES {
            places.clear();
        }
        let place = Arc::new(Place::new(State { copy: None, asked: None }));
        places.insert(key.to_owned(), Arc::clone(&place));
        place
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn one_read_serves_all_who_ask_at_once() {
        let cache = Cache::<u32, ()>::new();
        let reads = Cell::new(0);
        let ask = || {
            cache.get("a", async || {
                reads.set(reads.get() + 1);
                tokio::task::yield_now().await;
                Ok(7)
            })
        };
        let (first, second) = tokio::join!(ask(), ask());
        assert_eq!((first, second), (Ok(Copy { value: 7, stale: None }), Ok(Copy { value: 7, stale: None })));
        assert_eq!(reads.get(), 1);
    }

    #[tokio::test]
    async fn an_old_copy_is_given_while_the_store_is_away() {
        let cache = Cache::<u32, &str>::new();
        assert_eq!(cache.get("a", async || Err("away")).await, Err("away"));
        // Not asked again at once.
        assert_eq!(cache.get("a", async || Ok(1)).await, Err("away"));
        assert!(cache.get("b", async || Ok(1)).await.is_ok());
        cache.place("b").lock().await.asked = None;
        let copy = cache.get("b", async || Err("away")).await.unwrap();
        assert!(copy.value == 1 && copy.stale.is_some());
    }

    #[tokio::test]
    async fn there_are_never_too_many() {
        let cache = Cache::<usize, ()>::new();
        for number in 0..2 * MAX_COPIES {
            cache.get(&number.to_string(), async || Ok(number)).await.unwrap();
        }
        assert!(cache.places.lock().unwrap().len() <= MAX_COPIES);
    }
}
