//! The ids of the events that were taken, so that one that a sender repeats is not sent twice. Bounded in number, and so in bytes, and
//! in time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::digest;

/// The ids that are remembered for each source, each of about 100 bytes.
pub(super) const MAX_IDS: usize = 100_000;
/// How long.
pub(super) const ID_LIFE: Duration = Duration::from_secs(10 * 60);

/// An id: a hash, so that all are of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct EventKey([u8; 32]);

impl EventKey {
    /// The key of the event that these texts name.
    pub(super) fn new(texts: &[&str]) -> Self {
        Self::hashed(texts.iter().map(|text| text.as_bytes()))
    }

    /// The key of the event on a channel: the same event may arrive for several.
    pub(super) fn on_channel(self, channel: &str) -> Self {
        Self::hashed([&self.0, channel.as_bytes()].into_iter())
    }

    fn hashed<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            // With their lengths, so that no two lists have the same bytes.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        Self(key)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What is known of an event.
#[derive(Debug)]
pub(super) enum Claim {
    /// Nothing: it is the caller's.
    New(ClaimGuard),
    /// It was taken.
    Taken,
    /// It has arrived a moment ago, and what becomes of it is not known yet.
    Pending,
}

/// The ids of one source.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Ids>>);

#[derive(Debug, Default)]
struct Ids {
    /// Whether each was taken.
    states: HashMap<EventKey, bool>,
    /// Those that were taken, the oldest first.
    taken: VecDeque<(Instant, EventKey)>,
}

/// An event that has arrived. Unless it is taken, it counts as never seen when this is dropped.
#[derive(Debug)]
pub(super) struct ClaimGuard {
    ids: Seen,
    key: EventKey,
    is_taken: bool,
}

impl Seen {
    /// What is known of an event that arrives.
    pub(super) fn claim(&self, key: EventKey, now: Instant) -> Claim {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.forget(now);
        match ids.states.get(&key) {
            Some(true) => Claim::Taken,
            Some(false) => Claim::Pending,
            None => {
                ids.states.insert(key, false);
                Claim::New(ClaimGuard { ids: self.clone(), key, is_taken: false })
            }
        }
    }
}

impl Ids {
    /// Forgets what is too old.
    fn forget(&mut self, now: Instant) {
        while let Some((at, key)) = self.taken.front()
            && (now.saturating_duration_since(*at) > ID_LIFE || self.taken.len() > MAX_IDS)
        {
            self.states.remove(key);
            self.taken.pop_front();
        }
    }
}

impl ClaimGuard {
    /// The event was taken: from now on, it counts as seen.
    pub(super) fn taken(mut self, now: Instant) {
        self.is_taken = true;
        let mut ids = self.ids.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.states.insert(self.key, true);
        ids.taken.push_back((now, self.key));
        ids.forget(now);
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        if !self.is_taken {
            self.ids.0.lock().unwrap_or_else(PoisonError::into_inner).states.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_new(seen: &Seen, key: EventKey, now: Instant) -> bool {
        matches!(seen.claim(key, now), Claim::New(_))
    }

    #[test]
    fn event_counts_as_seen_once_it_is_taken() {
        let (seen, now, key) = (Seen::default(), Instant::now(), EventKey::new(&["a", "1"]));
        let Claim::New(first) = seen.claim(key, now) else { panic!("seen") };
        assert!(matches!(seen.claim(key, now), Claim::Pending));
        drop(first);
        let Claim::New(second) = seen.claim(key, now) else { panic!("seen") };
        second.taken(now);
        assert!(matches!(seen.claim(key, now + ID_LIFE), Claim::Taken));
        assert!(is_new(&seen, EventKey::new(&["a", "2"]), now));
        assert!(is_new(&seen, key, now + ID_LIFE + Duration::from_secs(1)));
    }

    #[test]
    fn oldest_ids_are_forgotten_beyond_the_bound() {
        let (seen, now) = (Seen::default(), Instant::now());
        let key = |number: usize| EventKey::new(&[&number.to_string()]);
        for number in 0..=MAX_IDS {
            let Claim::New(claim) = seen.claim(key(number), now) else { panic!("seen") };
            claim.taken(now);
        }
        assert!(is_new(&seen, key(0), now) && matches!(seen.claim(key(1), now), Claim::Taken));
        let ids = seen.0.lock().unwrap();
        assert_eq!((ids.states.len(), ids.taken.len()), (MAX_IDS, MAX_IDS));
    }

    #[test]
    fn different_texts_have_different_keys() {
        assert_ne!(EventKey::new(&["ab", "c"]), EventKey::new(&["a", "bc"]));
        assert_ne!(EventKey::new(&["a"]), EventKey::new(&["a", ""]));
        assert_ne!(EventKey::new(&["a"]).on_channel("b"), EventKey::new(&["a"]).on_channel("c"));
    }
}
