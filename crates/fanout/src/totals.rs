//! What the tallies of a namespace add up to, for readers that begin with totals and go on with changes.
//!
//! The hub keeps them, because only there it is certain which messages a new reader will be sent and which came before.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::framing::Framing;
use super::message::{Data, Message, Tally};
use super::{Config, Namespace};

/// The name of the event that a reader's totals come in.
const SNAPSHOT: &str = "snapshot";

/// The totals of all namespaces that have some.
pub(super) struct Totals {
    entries: HashMap<Namespace, Entry>,
    max_keys: usize,
    corrections: bool,
}

struct Entry {
    /// Known since a source has told them.
    sums: Option<Arc<Tally>>,
    /// Tells the transports whether they are.
    known: watch::Sender<bool>,
    /// The snapshot in each framing that was asked for since the totals changed.
    framed: Vec<(&'static str, Bytes)>,
}

impl Totals {
    /// Nothing is known yet. The receivers tell when something is.
    pub(super) fn new(config: &Config) -> (Self, HashMap<Namespace, watch::Receiver<bool>>) {
        let (mut entries, mut known) = (HashMap::new(), HashMap::new());
        for namespace in &config.totals {
            let (sender, receiver) = watch::channel(false);
            entries.insert(namespace.clone(), Entry { sums: None, known: sender, framed: Vec::new() });
            known.insert(namespace.clone(), receiver);
        }
        (Self { entries, max_keys: config.max_totals, corrections: config.corrections }, known)
    }

    /// Takes in a message that is about to be sent, and returns the one to send: what a source tells of totals becomes
    /// the difference from what was sent before, or nothing.
    pub(super) fn take_in(&mut self, message: Message) -> Option<Message> {
        let Data::Tally(tally) = &message.data else {
            let Data::Totals(totals) = message.data else { return Some(message) };
            let correction = self.replace(&message.namespace, totals)?;
            return Some(Message { data: Data::Tally(Arc::new(correction)), ..message });
        };
        if let Some(entry) = self.entries.get_mut(&message.namespace)
            && let Some(sums) = &mut entry.sums
        {
            Arc::make_mut(sums).merge(tally);
            entry.changed(&message.namespace, self.max_keys);
        }
        Some(message)
    }

    /// Puts `totals` in the place of those known. Returns what readers need to add to theirs, if anything and if they
    /// shall be told.
    fn replace(&mut self, namespace: &Namespace, totals: Arc<Tally>) -> Option<Tally> {
        let entry = self.entries.get_mut(namespace)?;
        let before = entry.sums.replace(Arc::clone(&totals));
        entry.changed(namespace, self.max_keys);
        let mut correction = (*totals).clone();
        correction.subtract(&*before?);
        correction.drop_zeros();
        (self.corrections && !correction.is_empty()).then_some(correction)
    }

    /// The totals of `namespace` as one message, ready for the wire, if they are known.
    pub(super) fn snapshot(&mut self, namespace: &Namespace, framing: &dyn Framing) -> Option<Bytes> {
        let entry = self.entries.get_mut(namespace)?;
        if let Some((_, bytes)) = entry.framed.iter().find(|(name, _)| *name == framing.name()) {
            return Some(bytes.clone());
        }
        let mut message = Message::totals(namespace.clone(), Tally::default());
        message.data = Data::Totals(Arc::clone(entry.sums.as_ref()?));
        message.event = Some(SNAPSHOT.into());
        let mut batch = Vec::new();
        framing.message(&message, &mut batch);
        let bytes = framing.finish(batch);
        entry.framed.push((framing.name(), bytes.clone()));
        Some(bytes)
    }
}

impl Entry {
    fn changed(&mut self, namespace: &Namespace, max_keys: usize) {
        self.framed.clear();
        if let Some(keys) = self.sums.as_ref().map(|sums| sums.len()).filter(|keys| *keys > max_keys) {
            tracing::warn!(%namespace, keys, max_keys, "too many keys to keep totals of; there are no snapshots until there are fewer");
            self.sums = None;
        }
        self.known.send_if_modified(|known| std::mem::replace(known, self.sums.is_some()) != self.sums.is_some());
    }
}
