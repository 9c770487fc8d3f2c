//! Totals: the sums of the tallies of a namespace, for readers that start with totals and go on with changes.
//!
//! The hub keeps them, because only there it is certain which messages a new reader will be sent and which came before.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::budget::Budget;
use crate::framing::{Framing, FramingKey};
use crate::{Config, Data, Message, Namespace, Tally, Topics, TotalsState};

/// The event name of a reader's totals.
const SNAPSHOT: &str = "snapshot";
/// The event name of a [`TotalsState`].
const STATE: &str = "totals";

/// Shows the transports the state of some totals; `None` until a source has reported something.
pub(crate) type StateNow = watch::Receiver<Option<TotalsState>>;

/// The totals of all namespaces that have some.
pub(crate) struct Totals {
    entries: HashMap<Namespace, Entry>,
    limits: Limits,
    corrections: bool,
    /// Snapshots are charged to it.
    budget: Arc<Budget>,
}

/// What the totals of one namespace may have.
struct Limits {
    keys: usize,
    key_bytes: usize,
}

struct Entry {
    namespace: Namespace,
    /// The sum of everything that was sent, and of the totals before it, also while they are unavailable. `None` until a
    /// source has reported totals, and after they outgrew the limits.
    sums: Option<Arc<Tally>>,
    state: watch::Sender<Option<TotalsState>>,
    /// The snapshot in each framing that was needed since the totals changed.
    framed: Vec<(FramingKey, Bytes)>,
}

/// The readers that a message is for, of those whose topics contain its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    Everyone,
    /// Those that started with the totals of the namespace.
    WithTotals,
    /// Those that the retention of the message concerns, whatever its namespace.
    Concerned,
}

impl Totals {
    /// Nothing is known yet. The receivers show when something is.
    pub(crate) fn new(config: &Config, budget: Arc<Budget>) -> (Self, HashMap<Namespace, StateNow>) {
        let (mut entries, mut states) = (HashMap::new(), HashMap::new());
        for namespace in &config.totals {
            let (state, state_now) = watch::channel(None);
            let entry = Entry { namespace: namespace.clone(), sums: None, state, framed: Vec::new() };
            entries.insert(namespace.clone(), entry);
            states.insert(namespace.clone(), state_now);
        }
        let limits = Limits { keys: config.max_totals, key_bytes: config.max_totals_bytes };
        (Self { entries, limits, corrections: config.corrections, budget }, states)
    }

    /// Updates the totals with a message, and sends the messages that readers get for it, in their order. Totals that a
    /// source reports become the difference from what was sent before. Counts of private messages are not part of the totals, which
    /// everyone may read.
    pub(crate) fn update(&mut self, message: Message, mut send: impl FnMut(Message, Audience)) {
        match &message.data {
            Data::Text(_) | Data::Reset(_) => send(message, Audience::Everyone),
            Data::Tally(_) if message.is_private() => send(message, Audience::Everyone),
            Data::Tally(tally) => {
                let mut entry = self.entries.get_mut(&message.namespace);
                if let Some(entry) = &mut entry {
                    entry.add(tally);
                }
                send(message, Audience::Everyone);
                if let Some(entry) = entry {
                    entry.check(&self.limits, &mut send);
                }
            }
            Data::Totals(totals) => {
                if let Some(entry) = self.entries.get_mut(&message.namespace) {
                    entry.replace(Arc::clone(totals), &message, &self.limits, self.corrections, &mut send);
                }
            }
            Data::TotalsState(state) => {
                // Without sums, only new totals make them known.
                let is_possible = |entry: &&mut Entry| *state != TotalsState::Known || entry.sums.is_some();
                if let Some(entry) = self.entries.get_mut(&message.namespace).filter(is_possible) {
                    entry.set_state(state.clone(), &mut send);
                }
            }
        }
    }

    /// The namespaces of `topics` that have totals, in their order.
    pub(crate) fn of(&self, topics: &Topics) -> Vec<Namespace> {
        let is_of = |namespace: &&Namespace| topics.iter().any(|topic| topic.contains(namespace));
        let mut namespaces: Vec<Namespace> = self.entries.keys().filter(is_of).cloned().collect();
        namespaces.sort_unstable();
        namespaces
    }

    /// Bytes that have totals in them, charged as snapshots are.
    pub(crate) fn charge(&self, bytes: Bytes) -> Bytes {
        self.budget.charge_bytes(bytes)
    }

    /// What a relay has to know of the totals of `namespace`, ready for the wire: their sums, if there are some, which what comes later is
    /// relative to, and then why they are not known, if they are not. Nothing until a source has reported something.
    pub(crate) fn relayed(&mut self, namespace: &Namespace, framing: &Arc<dyn Framing>) -> Vec<Bytes> {
        let Some(entry) = self.entries.get_mut(namespace) else { return Vec::new() };
        let mut relayed: Vec<Bytes> = entry.framed(framing, &self.budget).into_iter().collect();
        let state = entry.state.borrow().clone().filter(|state| *state != TotalsState::Known);
        if let Some(state) = state {
            let mut message = Message::totals_state(namespace.clone(), state);
            message.event = Some(STATE.into());
            let mut batch = Vec::new();
            framing.message(&message, &mut batch);
            relayed.push(framing.finish(batch));
        }
        relayed
    }

    /// The totals of `namespace` as one message, ready for the wire, if they are known.
    pub(crate) fn snapshot(&mut self, namespace: &Namespace, framing: &Arc<dyn Framing>) -> Option<Bytes> {
        let entry = self.entries.get_mut(namespace)?;
        if !entry.is_known() {
            return None;
        }
        entry.framed(framing, &self.budget)
    }
}

impl Entry {
    fn is_known(&self) -> bool {
        *self.state.borrow() == Some(TotalsState::Known)
    }

    fn add(&mut self, tally: &Tally) {
        if let Some(sums) = &mut self.sums {
            Arc::make_mut(sums).merge(tally);
            self.framed.clear();
        }
    }

    /// The snapshot, ready for the wire, if there are sums.
    fn framed(&mut self, framing: &Arc<dyn Framing>, budget: &Arc<Budget>) -> Option<Bytes> {
        let key = FramingKey(Arc::clone(framing));
        if let Some((_, bytes)) = self.framed.iter().find(|(framed, _)| *framed == key) {
            return Some(bytes.clone());
        }
        let mut batch = Vec::new();
        framing.message(&self.snapshot()?, &mut batch);
        let bytes = budget.charge_bytes(framing.finish(batch));
        self.framed.push((key, bytes.clone()));
        Some(bytes)
    }

    fn snapshot(&self) -> Option<Message> {
        let mut message = Message::totals(self.namespace.clone(), Tally::default());
        message.data = Data::Totals(Arc::clone(self.sums.as_ref()?));
        message.event = Some(SNAPSHOT.into());
        Some(message)
    }

    /// Replaces the sums by `totals` from `message`. Readers get the difference from the sums; those that started with the
    /// totals start over instead if the difference is not known, or not sent.
    fn replace(
        &mut self,
        totals: Arc<Tally>,
        message: &Message,
        limits: &Limits,
        corrections: bool,
        send: &mut impl FnMut(Message, Audience),
    ) {
        let before = self.sums.replace(Arc::clone(&totals));
        self.framed.clear();
        if !self.check(limits, send) {
            return;
        }
        match before {
            Some(before) if corrections => {
                let mut correction = (*totals).clone();
                correction.subtract(&before);
                correction.drop_zeros();
                if !correction.is_empty() {
                    let correction = Message { data: Data::Tally(Arc::new(correction)), ..message.clone() };
                    send(correction, Audience::Everyone);
                }
            }
            _ if !self.is_known() => {
                if let Some(snapshot) = self.snapshot() {
                    send(snapshot, Audience::WithTotals);
                }
            }
            _ => {}
        }
        self.set_state(TotalsState::Known, send);
    }

    /// Forgets sums that have outgrown `limits`. Returns whether they are within.
    fn check(&mut self, limits: &Limits, send: &mut impl FnMut(Message, Audience)) -> bool {
        let Some(sums) = &self.sums else { return true };
        let reason = if sums.len() > limits.keys {
            format!("more than {} keys", limits.keys)
        } else if sums.key_bytes() > limits.key_bytes {
            format!("more than {} bytes of keys", limits.key_bytes)
        } else {
            return true;
        };
        self.sums = None;
        self.framed.clear();
        self.set_state(TotalsState::Unavailable(reason.into()), send);
        false
    }

    fn set_state(&mut self, state: TotalsState, send: &mut impl FnMut(Message, Audience)) {
        let before = self.state.send_replace(Some(state.clone()));
        if before.as_ref() == Some(&state) {
            return;
        }
        let namespace = &self.namespace;
        match &state {
            TotalsState::Known => tracing::info!(%namespace, "the totals are known"),
            TotalsState::Unavailable(reason) => {
                tracing::warn!(%namespace, %reason, "the totals are unavailable; events are still sent");
            }
        }
        // Before the first report no reader has totals.
        if before.is_some() {
            let mut message = Message::totals_state(namespace.clone(), state);
            message.event = Some(STATE.into());
            send(message, Audience::WithTotals);
        }
    }
}

#[cfg(test)]
mod tests;
