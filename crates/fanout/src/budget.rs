//! Budgets of bytes that are shared by everything in the engine that takes from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// How many bytes are in use, and how many may be. Nothing is refused here: whoever exceeds the limit sheds what it can.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

/// A share of a budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Charge { budget: Arc::clone(self), bytes }
    }

    /// The same bytes, charged until the last reference to any part of them is dropped: wherever they are by then, such as
    /// in a body that another layer writes.
    pub(crate) fn charge_bytes(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        let charge = self.charge(bytes.len());
        Bytes::from_owner(Charged { bytes, _charge: charge })
    }

    pub(crate) fn is_exceeded(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Charge {
    /// Changes the number of bytes.
    pub(crate) fn resize(&mut self, bytes: usize) {
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(std::mem::replace(&mut self.bytes, bytes), Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The owner of charged bytes.
struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_charged_until_their_last_part_is_dropped() {
        let budget = Budget::new(10);
        let bytes = budget.charge_bytes(Bytes::from_static(b"1234567890"));
        assert!(!budget.is_exceeded() && budget.used() == 10);
        let part = bytes.slice(4..);
        drop(bytes);
        assert_eq!((&part[..], budget.used()), (&b"567890"[..], 10));
        let mut more = budget.charge(1);
        assert!(budget.is_exceeded());
        more.resize(3);
        drop(part);
        assert_eq!(budget.used(), 3);
        drop(more);
        assert_eq!(budget.used(), 0);
    }
}
