//! Slots: a bound on how many of something may be open at the same time. The bound may change while slots are in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts slots in use.
#[derive(Debug, Default)]
pub(crate) struct Slots(AtomicUsize);

/// A slot in use, free again when dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

impl Slots {
    /// Takes a slot, unless `limit` or more are in use.
    pub(crate) fn acquire(self: &Arc<Self>, limit: usize) -> Option<Slot> {
        let more = |used: usize| (used < limit).then_some(used + 1);
        let acquired = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        acquired.is_ok().then(|| Slot(Arc::clone(self)))
    }

    /// Whether no slot is in use.
    pub(crate) fn are_free(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowered_limit_applies_to_new_slots_only() {
        let slots = Arc::<Slots>::default();
        let mut used: Vec<Slot> = (0..3).map(|_| slots.acquire(3).unwrap()).collect();
        assert!(slots.acquire(3).is_none());
        used.pop();
        assert!(slots.acquire(2).is_none());
        used.pop();
        assert!(slots.acquire(2).is_some());
    }
}
