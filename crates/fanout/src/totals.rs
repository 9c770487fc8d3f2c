//! Totals: the sums of the tallies of a namespace, for readers that start with totals and go on with changes.
//!
//! The hub keeps them, because only there it is certain which messages a new reader will be sent and which came before.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::framing::{Framing, FramingKey};
use crate::{Config, Data, Message, Namespace, Tally};

/// The event name of a reader's totals.
const SNAPSHOT: &str = "snapshot";

/// The totals of all namespaces that have some.
pub(crate) struct Totals {
    entries: HashMap<Namespace, Entry>,
    max_keys: usize,
    corrections: bool,
}

struct Entry {
    /// `None` until a source has reported them.
    sums: Option<Arc<Tally>>,
    /// Shows the transports whether they are known.
    known: watch::Sender<bool>,
    /// The snapshot in each framing that was needed since the totals changed.
    framed: Vec<(FramingKey, Bytes)>,
}

impl Totals {
    /// Nothing is known yet. The receivers show when something is.
    pub(crate) fn new(config: &Config) -> (Self, HashMap<Namespace, watch::Receiver<bool>>) {
        let (mut entries, mut known) = (HashMap::new(), HashMap::new());
        for namespace in &config.totals {
            let (sender, receiver) = watch::channel(false);
            entries.insert(namespace.clone(), Entry { sums: None, known: sender, framed: Vec::new() });
            known.insert(namespace.clone(), receiver);
        }
        (Self { entries, max_keys: config.max_totals, corrections: config.corrections }, known)
    }

    /// Updates the totals with a message that is about to be sent, and returns the one to send: totals that a source reports
    /// become the difference from what was sent before, or nothing.
    pub(crate) fn update(&mut self, message: Message) -> Option<Message> {
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

    /// Replaces the known totals by `totals`. Returns the difference that readers need to add to theirs, if there is one and
    /// corrections are on.
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
    pub(crate) fn snapshot(&mut self, namespace: &Namespace, framing: &Arc<dyn Framing>) -> Option<Bytes> {
        let entry = self.entries.get_mut(namespace)?;
        let key = FramingKey(Arc::clone(framing));
        if let Some((_, bytes)) = entry.framed.iter().find(|(framed, _)| *framed == key) {
            return Some(bytes.clone());
        }
        let mut message = Message::totals(namespace.clone(), Tally::default());
        message.data = Data::Totals(Arc::clone(entry.sums.as_ref()?));
        message.event = Some(SNAPSHOT.into());
        let mut batch = Vec::new();
        framing.message(&message, &mut batch);
        let bytes = framing.finish(batch);
        entry.framed.push((key, bytes.clone()));
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
