//! What a few people say in a chat, and what a shop notifies its customers of.

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{post, words};

/// Those who talk.
const SPEAKERS: [&str; 4] = ["Noor (bot)", "Kenji (bot)", "Zoë (bot)", "Mateo (bot)"];

/// The users who are notified.
pub const USERS: [&str; 2] = ["ada", "ben"];

/// Notices; `{order}` is replaced with the number of an order, and the other parts as in posts.
const NOTICES: [&str; 8] = [
    "Order {order} has been packed",
    "Order {order} has left the warehouse",
    "Order {order} will arrive today",
    "Order {order} was delivered to a neighbour",
    "The refund for order {order} is on its way",
    "New reply to your question about {noun}",
    "Price alert: {noun} is 20% off",
    "Your review of {noun} was helpful to 3 people",
];

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Utterance {
    /// Who says it.
    pub speaker: &'static str,
    /// The words.
    pub text: String,
}

/// An endless iterator of utterances; the same seed gives the same ones. The speaker changes each time.
#[derive(Debug, Clone)]
pub struct Talk {
    rng: ChaCha8Rng,
    speaker: usize,
}

/// What a user is notified of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// One of [`USERS`].
    pub user: &'static str,
    /// Counts the notices of the user from 1.
    pub number: u64,
    /// The words.
    pub text: String,
}

/// An endless iterator of notices; the same seed gives the same ones.
#[derive(Debug, Clone)]
pub struct Notices {
    rng: ChaCha8Rng,
    /// The number of notices of each user.
    numbers: [u64; USERS.len()],
}

impl Talk {
    /// The talk at the first utterance of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), speaker: 0 }
    }
}

impl Iterator for Talk {
    type Item = Utterance;

    /// Never `None`.
    fn next(&mut self) -> Option<Utterance> {
        self.speaker = (self.speaker + self.rng.random_range(1..SPEAKERS.len())) % SPEAKERS.len();
        let template = words::TEMPLATES.choose(&mut self.rng).copied().unwrap_or_default();
        Some(Utterance { speaker: SPEAKERS[self.speaker], text: post::fill(&mut self.rng, template) })
    }
}

impl Notices {
    /// The notices from the first one of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), numbers: [0; USERS.len()] }
    }
}

impl Iterator for Notices {
    type Item = Notice;

    /// Never `None`.
    fn next(&mut self) -> Option<Notice> {
        let user = self.rng.random_range(0..USERS.len());
        let template = NOTICES.choose(&mut self.rng).copied().unwrap_or_default();
        let order = self.rng.random_range(1_000..10_000).to_string();
        let text = post::fill(&mut self.rng, &template.replace("{order}", &order));
        self.numbers[user] += 1;
        Some(Notice { user: USERS[user], number: self.numbers[user], text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_determines_talk_and_notices() {
        let talk = |seed| Talk::new(seed).take(50).collect::<Vec<_>>();
        let notices = |seed| Notices::new(seed).take(50).collect::<Vec<_>>();
        assert_eq!((talk(7), notices(7)), (talk(7), notices(7)));
        assert!(talk(7) != talk(8) && notices(7) != notices(8));
    }

    #[test]
    fn texts_are_complete_and_speakers_change() {
        let talk: Vec<Utterance> = Talk::new(1).take(500).collect();
        assert!(talk.windows(2).all(|pair| pair[0].speaker != pair[1].speaker));
        assert!(SPEAKERS.iter().all(|speaker| talk.iter().any(|utterance| utterance.speaker == *speaker)));
        let notices: Vec<Notice> = Notices::new(1).take(500).collect();
        let texts = talk.iter().map(|utterance| &utterance.text).chain(notices.iter().map(|notice| &notice.text));
        for text in texts {
            assert!(!text.is_empty() && !text.contains(['{', '}']), "{text}");
        }
    }

    #[test]
    fn notices_of_each_user_are_numbered() {
        for user in USERS {
            let numbers = Notices::new(5).take(200).filter(|notice| notice.user == user).map(|notice| notice.number);
            assert!(numbers.clone().count() > 50);
            assert!(numbers.eq(1..=Notices::new(5).take(200).filter(|notice| notice.user == user).count() as u64));
        }
    }
}
