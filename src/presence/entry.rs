//! The subscriptions to one topic on this node, and what of them is not shared or announced yet. No locks and no Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Limits, Subscriber, SubscriberId};

/// The shortest time between two events with the count of a topic, and the time for which connect events are bounded.
const EVENT_PERIOD: Duration = Duration::from_secs(1);

/// How far the event of a listed subscription has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announcement {
    /// To be sent.
    Pending,
    /// In a change that is not confirmed.
    Sending,
    /// Sent: another one follows when the subscription ends.
    Sent,
    /// None for this subscription: the topic has too many.
    Silent,
}

#[derive(Debug, Clone)]
struct Listed {
    subscriber: Arc<Subscriber>,
    announcement: Announcement,
}

/// A topic.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) topic: Arc<str>,
    pub(super) count: u64,
    listed: Vec<Listed>,
    /// Bytes of what is listed.
    bytes: usize,
    /// Subscriptions that have ended, whose connect events were sent or are being sent.
    departed: Vec<Listed>,
    /// Those whose disconnect events were sent, up to a number, and are not published yet: the heir of this node needs them.
    leaving: Vec<(u64, Arc<Subscriber>)>,
    /// It differs from what is shared.
    is_changed: bool,
    /// Something is shared.
    is_shared: bool,
    /// A change is not confirmed.
    in_flight: bool,
    /// Its count has changed by subscriptions without events of their own, or since it was an event.
    count_is_due: bool,
    count_sent_at: Option<Instant>,
    /// The connect events since a moment.
    connects: (Option<Instant>, usize),
}

/// What to share and to announce of a topic, together.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) topic: Arc<str>,
    /// What replaces the shared value, if it has changed; without subscriptions there is none.
    pub(super) value: Option<Snapshot>,
    pub(super) connected: Vec<Arc<Subscriber>>,
    pub(super) disconnected: Vec<Arc<Subscriber>>,
    /// The count, if it is an event.
    pub(super) count: Option<u64>,
    /// Subscriptions that will have no events of their own.
    pub(super) silenced: u64,
}

/// The subscriptions to a topic on one node.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) count: u64,
    /// Some of them, and whether each has been announced.
    pub(super) listed: Vec<(Arc<Subscriber>, bool)>,
    /// Those that have ended, and whose disconnect events may not be published yet.
    pub(super) leaving: Vec<Arc<Subscriber>>,
}

impl Snapshot {
    /// Whether nothing is to be shared.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0 && self.leaving.is_empty()
    }

    /// The bytes of what is listed, at most, roughly.
    pub(super) fn size(&self) -> usize {
        let listed = self.listed.iter().map(|(subscriber, _)| subscriber);
        listed.chain(&self.leaving).map(|subscriber| subscriber.size()).sum()
    }
}

impl Change {
    /// The number of its events.
    pub(super) fn events(&self) -> usize {
        self.connected.len() + self.disconnected.len() + usize::from(self.count.is_some())
    }
}

impl Entry {
    pub(super) fn new(topic: Arc<str>) -> Self {
        Self {
            topic,
            count: 0,
            listed: Vec::new(),
            bytes: 0,
            departed: Vec::new(),
            leaving: Vec::new(),
            is_changed: false,
            is_shared: false,
            in_flight: false,
            count_is_due: false,
            count_sent_at: None,
            connects: (None, 0),
        }
    }

    /// Adds a subscription. Returns whether it is listed, for which `reserve` gets the bytes.
    pub(super) fn add(
        &mut self,
        subscriber: &Arc<Subscriber>,
        limits: &Limits,
        reserve: impl FnOnce(usize) -> bool,
    ) -> bool {
        self.count += 1;
        self.note_change();
        let size = subscriber.size();
        let is_listed = self.listed.len() < limits.listed && self.bytes + size <= limits.topic_bytes && reserve(size);
        if is_listed {
            self.bytes += size;
            let subscriber = Arc::clone(subscriber);
            self.listed.push(Listed { subscriber, announcement: Announcement::Pending });
        } else {
            self.count_is_due = true;
        }
        is_listed
    }

    /// Whoever has received a count receives the next one, too.
    fn note_change(&mut self) {
        self.is_changed = true;
        self.count_is_due |= self.count_sent_at.is_some();
    }

    /// Removes a subscription that is only counted.
    pub(super) fn remove_counted(&mut self) {
        self.count -= 1;
        self.note_change();
        self.count_is_due = true;
    }

    /// Removes a listed subscription. Returns its bytes.
    pub(super) fn remove_listed(&mut self, id: SubscriberId) -> usize {
        let Some(place) = self.listed.iter().position(|listed| listed.subscriber.id == id) else { return 0 };
        let listed = self.listed.swap_remove(place);
        let size = listed.subscriber.size();
        self.count -= 1;
        self.note_change();
        self.bytes -= size;
        match listed.announcement {
            // It came and went between two changes.
            Announcement::Pending => {}
            Announcement::Sending | Announcement::Sent => self.departed.push(listed),
            Announcement::Silent => self.count_is_due = true,
        }
        size
    }

    /// Replaces a listed subscriber by one with the same id. Returns the bytes before and after.
    pub(super) fn replace(&mut self, subscriber: &Arc<Subscriber>) -> Option<(usize, usize)> {
        let listed = self.listed.iter_mut().find(|listed| listed.subscriber.id == subscriber.id)?;
        let (before, after) = (listed.subscriber.size(), subscriber.size());
        listed.subscriber = Arc::clone(subscriber);
        self.bytes = self.bytes - before + after;
        self.is_changed = true;
        Some((before, after))
    }

    /// Whether something is to be shared or announced.
    pub(super) fn is_due(&self) -> bool {
        let is_pending = |listed: &Listed| listed.announcement == Announcement::Pending;
        self.is_changed || self.count_is_due || !self.departed.is_empty() || self.listed.iter().any(is_pending)
    }

    /// Whether nothing is left of it, here and elsewhere.
    pub(super) fn is_gone(&self) -> bool {
        let is_silent = self.departed.is_empty() && !(self.count_is_due && self.count_sent_at.is_some());
        self.count == 0 && is_silent && self.leaving.is_empty() && !self.in_flight && !self.is_shared
    }

    /// What is due, with at most `budget` events. Without events none is due. To be confirmed or undone.
    pub(super) fn take(&mut self, now: Instant, budget: Option<usize>, limits: &Limits) -> Change {
        self.in_flight = true;
        let mut change = Change {
            topic: Arc::clone(&self.topic),
            value: None,
            connected: Vec::new(),
            disconnected: Vec::new(),
            count: None,
            silenced: 0,
        };
        match budget {
            Some(budget) => self.take_events(now, budget, limits, &mut change),
            None => self.drop_events(),
        }
        if std::mem::take(&mut self.is_changed) {
            let mut value = self.snapshot();
            value.leaving.extend(change.disconnected.iter().map(Arc::clone));
            change.value = Some(value);
        }
        change
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let listed = self.listed.iter().map(|listed| {
            let is_announced = matches!(listed.announcement, Announcement::Sending | Announcement::Sent);
            (Arc::clone(&listed.subscriber), is_announced)
        });
        let departed = self.departed.iter().map(|listed| &listed.subscriber);
        let leaving = self.leaving.iter().map(|(_, subscriber)| subscriber).chain(departed).map(Arc::clone);
        Snapshot { count: self.count, listed: listed.collect(), leaving: leaving.collect() }
    }

    fn take_events(&mut self, now: Instant, mut budget: usize, limits: &Limits, change: &mut Change) {
        let disconnects = self.departed.len().min(budget);
        budget -= disconnects;
        change.disconnected = self.departed.drain(..disconnects).map(|listed| listed.subscriber).collect();
        let is_old = |since: Instant| now.saturating_duration_since(since) >= EVENT_PERIOD;
        if self.connects.0.is_none_or(is_old) {
            self.connects = (Some(now), 0);
        }
        let is_popular = self.count > limits.events as u64;
        for listed in self.listed.iter_mut().filter(|listed| listed.announcement == Announcement::Pending) {
            if is_popular || self.connects.1 >= limits.events {
                listed.announcement = Announcement::Silent;
                self.count_is_due = true;
                change.silenced += 1;
            } else if budget > 0 {
                budget -= 1;
                self.connects.1 += 1;
                listed.announcement = Announcement::Sending;
                change.connected.push(Arc::clone(&listed.subscriber));
            } else {
                continue;
            }
            // Whether it is announced is shared, too.
            self.is_changed = true;
        }
        if self.count_is_due && budget > 0 && self.count_sent_at.is_none_or(is_old) {
            self.count_is_due = false;
            self.count_sent_at = Some(now);
            change.count = Some(self.count);
        }
    }

    fn drop_events(&mut self) {
        self.departed.clear();
        self.is_changed |= !self.leaving.is_empty();
        self.leaving.clear();
        self.count_is_due = false;
        for listed in &mut self.listed {
            listed.announcement = Announcement::Silent;
        }
    }

    /// A change is shared, and its events are sent. Those that must be published before what ended may be forgotten go up to a
    /// number.
    pub(super) fn confirm(&mut self, change: &Change, unpublished: Option<u64>) {
        self.in_flight = false;
        if let Some(value) = &change.value {
            self.is_shared = unpublished.is_some() && !value.is_empty();
        }
        if let Some(number) = unpublished {
            self.leaving.extend(change.disconnected.iter().map(|subscriber| (number, Arc::clone(subscriber))));
        }
        for listed in self.listed.iter_mut().chain(&mut self.departed) {
            if listed.announcement == Announcement::Sending {
                listed.announcement = Announcement::Sent;
            }
        }
    }

    /// The events up to a number are published.
    pub(super) fn published(&mut self, number: u64) {
        let before = self.leaving.len();
        self.leaving.retain(|(unpublished, _)| *unpublished > number);
        self.is_changed |= self.leaving.len() < before;
    }

    /// A change is not shared, as far as is known, and its events are not sent.
    pub(super) fn undo(&mut self, change: &Change) {
        self.in_flight = false;
        if change.value.is_some() {
            self.is_changed = true;
            // It may be.
            self.is_shared = true;
        }
        self.departed.retain(|listed| listed.announcement == Announcement::Sent);
        let disconnected = change.disconnected.iter().map(Arc::clone);
        self.departed.extend(disconnected.map(|subscriber| Listed { subscriber, announcement: Announcement::Sent }));
        for listed in &mut self.listed {
            if listed.announcement == Announcement::Sending {
                listed.announcement = Announcement::Pending;
            }
        }
        self.count_is_due |= change.count.is_some();
    }

    /// What was shared is lost, and must be shared again. With `disconnected`, all disconnect events were sent too.
    pub(super) fn share_again(&mut self, disconnected: bool) {
        self.is_shared = false;
        if disconnected {
            self.departed.clear();
            self.leaving.clear();
            self.count_is_due = self.count > 0 && self.count_sent_at.is_some();
            for listed in &mut self.listed {
                if listed.announcement == Announcement::Sent {
                    listed.announcement = Announcement::Pending;
                }
            }
        }
        self.is_changed = !self.snapshot().is_empty();
    }

    /// Ends all subscriptions. Returns how many there were, and the bytes of those that were listed.
    pub(super) fn clear(&mut self) -> (u64, usize) {
        self.is_changed |= self.count > 0;
        self.count_is_due |= self.count > self.listed.len() as u64 || self.count_sent_at.is_some();
        let count = std::mem::take(&mut self.count);
        for listed in std::mem::take(&mut self.listed) {
            match listed.announcement {
                Announcement::Pending => {}
                Announcement::Sending | Announcement::Sent => self.departed.push(listed),
                Announcement::Silent => self.count_is_due = true,
            }
        }
        (count, std::mem::take(&mut self.bytes))
    }
}
