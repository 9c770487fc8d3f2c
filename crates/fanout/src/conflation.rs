//! Conflation: many messages become few, for readers that fell behind or that want no more than some batches a second.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{Data, Message, Namespace};

/// What becomes of the messages of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// Tallies are summed up; all others are left out.
    Sum,
    /// The newest message is kept.
    Newest,
    /// Tallies are summed up; of all others the newest is kept.
    SumAndNewest,
}

impl Rules {
    fn sums(self) -> bool {
        matches!(self, Self::Sum | Self::SumAndNewest)
    }

    fn keeps_newest(self) -> bool {
        matches!(self, Self::Newest | Self::SumAndNewest)
    }
}

/// Conflated messages, in the order in which those that were kept came, and tallies were first counted.
#[derive(Debug, Clone)]
pub(crate) struct Conflation {
    rules: Rules,
    /// `None` in the place of a message that a newer one has replaced; less than half of them.
    kept: Vec<Option<Arc<Message>>>,
    places: HashMap<Slot, usize>,
    /// How many messages were left out.
    pub(crate) skipped: u64,
}

/// What a message replaces, or is added to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Slot {
    Newest(Namespace),
    Tally(Namespace, Option<Arc<str>>),
    Totals(Namespace),
    State(Namespace),
    Reset(Namespace),
}

impl Conflation {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, kept: Vec::new(), places: HashMap::new(), skipped: 0 }
    }

    pub(crate) fn rules(&self) -> Rules {
        self.rules
    }

    /// The messages.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.kept.iter().flatten()
    }

    /// How many messages there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds one message after all others. New totals replace all tallies of their namespace and all that is known of its
    /// totals, tallies are added to totals, and only the last state of the totals is kept.
    pub(crate) fn add(&mut self, message: &Arc<Message>) {
        let namespace = || message.namespace.clone();
        match &message.data {
            Data::Tally(tally) if self.rules.sums() => {
                let slots = [Slot::Totals(namespace()), Slot::Tally(namespace(), message.event.clone())];
                let place = slots.iter().find_map(|slot| self.places.get(slot)).copied();
                if let Some(kept) = place.and_then(|place| self.kept[place].as_mut())
                    && let Data::Tally(sum) | Data::Totals(sum) = &mut Arc::make_mut(kept).data
                {
                    Arc::make_mut(sum).merge(tally);
                    return;
                }
                let [_, slot] = slots;
                self.put(slot, message);
            }
            Data::Text(_) | Data::Tally(_) if self.rules.keeps_newest() => {
                let slot = Slot::Newest(namespace());
                self.skipped += u64::from(self.places.contains_key(&slot));
                self.put(slot, message);
            }
            Data::Text(_) | Data::Tally(_) => self.skipped += 1,
            Data::Totals(_) => {
                let same = |slot: &Slot| match slot {
                    Slot::Newest(_) | Slot::Reset(_) => false,
                    Slot::Tally(of, _) | Slot::Totals(of) | Slot::State(of) => *of == message.namespace,
                };
                let replaced: Vec<Slot> = self.places.keys().filter(|slot| same(slot)).cloned().collect();
                replaced.iter().for_each(|slot| self.remove(slot));
                self.put(Slot::Totals(namespace()), message);
            }
            Data::TotalsState(_) => self.put(Slot::State(namespace()), message),
            Data::Reset(_) => self.put(Slot::Reset(namespace()), message),
        }
    }

    /// Adds all of `other` after all others.
    pub(crate) fn append(&mut self, other: &Self) {
        self.skipped += other.skipped;
        other.messages().for_each(|message| self.add(message));
    }

    /// The memory of all messages, in bytes, roughly.
    pub(crate) fn weight(&self) -> usize {
        self.messages().map(|message| message.weight()).sum()
    }

    /// Puts a message at the end, in the place of the one that has its slot.
    fn put(&mut self, slot: Slot, message: &Arc<Message>) {
        self.remove(&slot);
        self.places.insert(slot, self.kept.len());
        self.kept.push(Some(Arc::clone(message)));
    }

    fn remove(&mut self, slot: &Slot) {
        if let Some(place) = self.places.remove(slot) {
            self.kept[place] = None;
            if self.kept.len() > 2 * self.places.len() + 8 {
                self.close_gaps();
            }
        }
    }

    fn close_gaps(&mut self) {
        let mut to = Vec::with_capacity(self.kept.len());
        let mut left = 0;
        for kept in &self.kept {
            to.push(left);
            left += usize::from(kept.is_some());
        }
        self.kept.retain(Option::is_some);
        self.places.values_mut().for_each(|place| *place = to[*place]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Tally, TotalsState};

    fn conflated<'a>(rules: Rules, messages: impl IntoIterator<Item = &'a Message>) -> Conflation {
        let mut conflation = Conflation::new(rules);
        messages.into_iter().for_each(|message| conflation.add(&Arc::new(message.clone())));
        conflation
    }

    fn kept(conflation: &Conflation) -> Vec<Message> {
        conflation.messages().map(|message| (**message).clone()).collect()
    }

    fn tally(namespace: &str, count: i64) -> Message {
        Message::tally(namespace.parse().unwrap(), counts(count))
    }

    fn counts(count: i64) -> Tally {
        [("k".to_owned(), count)].into_iter().collect()
    }

    fn text(namespace: &str, text: &str) -> Message {
        Message::text(namespace.parse().unwrap(), text)
    }

    #[test]
    fn weight_is_that_of_the_messages() {
        let conflation = conflated(Rules::Sum, &[tally("/a", 1), tally("/b", 1), tally("/b", 1)]);
        assert_eq!(conflation.weight(), tally("/a", 1).weight() + tally("/b", 2).weight());
        assert_eq!(Conflation::new(Rules::Sum).weight(), 0);
    }

    #[test]
    fn tallies_of_different_events_and_namespaces_are_not_mixed() {
        let event = |event: Option<&str>| Message { event: event.map(Arc::from), ..tally("/a", 1) };
        let messages = [event(None), event(Some("a")), event(Some("b")), tally("/b", 10), text("/a", "x")];
        let mut conflation = conflated(Rules::Sum, &messages);
        assert_eq!((kept(&conflation).as_slice(), conflation.skipped), (&messages[..4], 1));
        conflation.append(&conflation.clone());
        assert_eq!((kept(&conflation)[3].clone(), conflation.skipped, conflation.len()), (tally("/b", 20), 2, 4));
    }

    #[test]
    fn newest_message_of_each_namespace_is_kept() {
        let messages =
            [text("/a", "1"), tally("/b", 1), text("/b", "2"), text("/a", "3"), tally("/c", 1), tally("/c", 2)];
        let newest = conflated(Rules::Newest, &messages);
        assert_eq!((kept(&newest), newest.skipped), (vec![text("/b", "2"), text("/a", "3"), tally("/c", 2)], 3));
        let both = conflated(Rules::SumAndNewest, &messages);
        let expected = vec![tally("/b", 1), text("/b", "2"), text("/a", "3"), tally("/c", 3)];
        assert_eq!((kept(&both), both.skipped), (expected, 1));
    }

    #[test]
    fn new_totals_replace_what_was_summed_up_before() {
        let eps: Namespace = "/eps".parse().unwrap();
        let unavailable = || Message::totals_state(eps.clone(), TotalsState::Unavailable("too large".into()));
        let known = || Message::totals_state(eps.clone(), TotalsState::Known);
        let mut conflation = conflated(Rules::Sum, &[tally("/eps", 1), unavailable(), tally("/eps", 1)]);
        assert_eq!(kept(&conflation), [tally("/eps", 2), unavailable()]);
        let later = [Message::totals(eps.clone(), counts(10)), known(), tally("/eps", 1)];
        conflation.append(&conflated(Rules::Sum, &later));
        assert_eq!(kept(&conflation), [Message::totals(eps.clone(), counts(11)), known()]);
        conflation.add(&Arc::new(unavailable()));
        assert_eq!(kept(&conflation), [Message::totals(eps.clone(), counts(11)), unavailable()]);
    }

    proptest! {
        /// A plain list gives the same, and parts that are conflated first give the same as the whole.
        #[test]
        fn agrees_with_a_list(
            steps in proptest::collection::vec((0..4_usize, any::<bool>(), 1..9_i64), 0..60), split in 0..60_usize,
            rules in prop_oneof![Just(Rules::Sum), Just(Rules::Newest), Just(Rules::SumAndNewest)],
        ) {
            let messages: Vec<Message> = steps.iter().map(|(place, is_tally, number)| {
                let namespace = format!("/{place}");
                if *is_tally { tally(&namespace, *number) } else { text(&namespace, &number.to_string()) }
            }).collect();
            let (mut expected, mut skipped) = (Vec::<Message>::new(), 0);
            for message in &messages {
                let is_tally = |message: &Message| matches!(message.data, Data::Tally(_));
                let same = |kept: &Message| {
                    kept.namespace == message.namespace && (rules == Rules::Newest || is_tally(kept) == is_tally(message))
                };
                let place = expected.iter().position(same);
                match (place, is_tally(message) && rules != Rules::Newest, rules) {
                    (Some(place), true, _) => {
                        let (Data::Tally(sum), Data::Tally(more)) = (&mut expected[place].data, &message.data) else { unreachable!() };
                        Arc::make_mut(sum).merge(more);
                    }
                    (None, false, Rules::Sum) => skipped += 1,
                    (None, _, _) => expected.push(message.clone()),
                    (Some(place), false, _) => {
                        expected.remove(place);
                        expected.push(message.clone());
                        skipped += 1;
                    }
                }
            }
            let whole = conflated(rules, &messages);
            prop_assert_eq!((kept(&whole), whole.skipped, whole.len()), (expected.clone(), skipped, expected.len()));
            let (first, second) = messages.split_at(split.min(messages.len()));
            let mut parts = conflated(rules, first);
            parts.append(&conflated(rules, second));
            prop_assert_eq!(parts.skipped, skipped);
            // Sums keep the place of the first of them.
            let sorted = |mut messages: Vec<Message>| {
                messages.sort_by_key(|message| (message.namespace.clone(), message.payload().into_owned()));
                messages
            };
            prop_assert_eq!(sorted(kept(&parts)), sorted(expected));
        }
    }
}
