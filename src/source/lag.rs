//! How far sources are behind what their brokers keep.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The entries of each stream that the broker has and the source has not read yet. Sources whose brokers say how many these are set it.
#[derive(Debug, Default)]
pub struct Lags(Mutex<BTreeMap<Arc<str>, u64>>);

impl Lags {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entries of a stream that are to be read.
    pub fn set(&self, stream: &Arc<str>, entries: u64) {
        self.lock().insert(Arc::clone(stream), entries);
    }

    /// The number is unknown.
    pub fn forget(&self, stream: &str) {
        self.lock().remove(stream);
    }

    /// All streams with a known number.
    pub fn all(&self) -> Vec<(String, u64)> {
        self.lock().iter().map(|(stream, entries)| (stream.to_string(), *entries)).collect()
    }

    /// The sum over all streams.
    pub fn total(&self) -> u64 {
        self.lock().values().sum()
    }
}
