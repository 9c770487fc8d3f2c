//! The generator of updates: an emoji and the post that uses it.

mod catalogue;
mod post;
mod talk;
mod words;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rand::distr::weighted::WeightedIndex;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::catalogue::POPULAR_COUNT;
pub use self::catalogue::{Emoji, catalogue, unified_id};
pub use self::talk::{Notice, Notices, Talk, USERS, Utterance};

/// The initial score of the most popular emoji.
const TOP_SCORE: u64 = 3_000_000_000;

/// The time of the first post in milliseconds of Unix time: 2026-01-01T00:00:00Z.
const START_MILLIS: u64 = 1_767_225_600_000;

/// The time between two posts in milliseconds of simulated time: 250 per second, as on Emojitracker.
const POST_MILLIS: u64 = 4;

/// The simulated clock restarts after this many milliseconds (50 years, 394 billion posts), so that times and IDs stay in
/// a range that clients can parse.
const CLOCK_MILLIS: u64 = 50 * 365 * 24 * 60 * 60 * 1000;

/// The time between two posts of the same emoji in the [backlog](Generator::backlog), in milliseconds.
const BACKLOG_MILLIS: u64 = 60_000;

/// The random number stream of the backlog, separate from that of the updates.
const BACKLOG_STREAM: u64 = 1;

/// One use of an emoji.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The [ID](Emoji::id) of the emoji.
    pub id: Arc<str>,
    /// The post as a JSON object with the strings `id`, `text` (at most 140 characters, includes the emoji),
    /// `screen_name`, `name`, `profile_image_url` and `created_at` (ISO 8601), and the list `links`.
    pub tweet: String,
}

/// What posts are dated by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// A clock that starts at [`START_MILLIS`] and advances by [`POST_MILLIS`] per post.
    Simulated,
    /// The clock of the system.
    System,
}

/// An endless iterator of updates; the same seed gives the same updates.
///
/// Popularity follows Zipf's law: the emoji of rank *n* is used *1/n* as often as the first. The most popular emoji are
/// fixed; the order of the others depends on the seed. Posts are dated by a simulated clock, which starts at 2026-01-01
/// and advances by 4 ms per post, unless [`dated_now`](Generator::dated_now) is called.
#[derive(Debug, Clone)]
pub struct Generator {
    seed: u64,
    rng: ChaCha8Rng,
    /// The emoji by rank.
    ranking: Vec<&'static Emoji>,
    ranks: WeightedIndex<u64>,
    posts: u64,
    clock: Clock,
}

impl Generator {
    /// A generator at the first update of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut ranking: Vec<&Emoji> = catalogue().iter().collect();
        ranking[POPULAR_COUNT..].shuffle(&mut rng);
        #[expect(
            clippy::expect_used,
            reason = "the catalogue is not empty, no score is 0, and their sum is under 2^64"
        )]
        let ranks = WeightedIndex::new((0..ranking.len()).map(starting_score)).expect("every rank has a weight");
        Self { seed, rng, ranking, ranks, posts: 0, clock: Clock::Simulated }
    }

    /// Dates each post by the time at which it is generated. Only the dates and IDs of posts then differ between runs.
    #[must_use]
    pub fn dated_now(mut self) -> Self {
        self.clock = Clock::System;
        self
    }

    /// The time of the next post in milliseconds of Unix time.
    fn millis(&self) -> u64 {
        match self.clock {
            Clock::Simulated => START_MILLIS + self.posts * POST_MILLIS % CLOCK_MILLIS,
            Clock::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .ok()
                .and_then(|time| u64::try_from(time.as_millis()).ok())
                .unwrap_or(START_MILLIS),
        }
    }

    /// Every emoji with its initial score, in descending order. Scores are proportional to the frequency of the emoji.
    pub fn standings(&self) -> impl Iterator<Item = (&'static Emoji, u64)> {
        self.ranking.iter().enumerate().map(|(rank, emoji)| (*emoji, starting_score(rank)))
    }

    /// The last `per_emoji` updates of each emoji before the first update, grouped by emoji, oldest first. They are not
    /// part of the iterator and do not affect it.
    pub fn backlog(&self, per_emoji: u16) -> impl Iterator<Item = Update> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(BACKLOG_STREAM);
        let end = self.millis();
        let posts = (1..).zip(&self.ranking).flat_map(move |(rank, emoji)| {
            (1..=u64::from(per_emoji)).rev().map(move |age| (*emoji, end - age * BACKLOG_MILLIS - rank))
        });
        posts.map(move |(emoji, millis)| Update {
            id: Arc::clone(&emoji.id),
            tweet: post::write(&mut rng, emoji, catalogue(), millis),
        })
    }
}

impl Iterator for Generator {
    type Item = Update;

    /// Never `None`.
    fn next(&mut self) -> Option<Update> {
        let emoji = self.ranking[self.rng.sample(&self.ranks)];
        let millis = self.millis();
        self.posts += 1;
        let tweet = post::write(&mut self.rng, emoji, catalogue(), millis);
        Some(Update { id: Arc::clone(&emoji.id), tweet })
    }
}

/// Zipf's law in integers, for the same result on every machine.
fn starting_score(rank: usize) -> u64 {
    TOP_SCORE / (rank as u64 + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn updates(seed: u64, count: usize) -> Vec<Update> {
        Generator::new(seed).take(count).collect()
    }

    fn parsed(update: &Update) -> Value {
        serde_json::from_str(&update.tweet).unwrap()
    }

    fn text<'a>(tweet: &'a Value, name: &str) -> &'a str {
        tweet[name].as_str().unwrap_or_else(|| panic!("{name} is not a string in {tweet}"))
    }

    #[test]
    fn seed_determines_the_updates() {
        assert_eq!(updates(7, 2_000), updates(7, 2_000));
        assert_ne!(updates(7, 20), updates(8, 20));
    }

    #[test]
    fn backlog_does_not_affect_updates() {
        let mut generator = Generator::new(7);
        let backlog: Vec<Update> = generator.backlog(3).collect();
        assert_eq!(backlog, Generator::new(7).backlog(3).collect::<Vec<_>>());
        assert_eq!(generator.by_ref().take(50).collect::<Vec<_>>(), updates(7, 50));

        assert_eq!(backlog.len(), 3 * catalogue().len());
        let first = parsed(&updates(7, 1)[0]);
        for of_one in backlog.chunks(3) {
            assert!(of_one.iter().all(|update| update.id == of_one[0].id));
            let tweets: Vec<Value> = of_one.iter().map(parsed).chain([first.clone()]).collect();
            assert!(tweets.is_sorted_by_key(|tweet| text(tweet, "id").parse::<u64>().unwrap()));
        }
    }

    #[test]
    fn frequency_follows_the_standings() {
        const COUNT: usize = 100_000;
        let generator = Generator::new(1);
        let standings: Vec<_> = generator.standings().collect();
        let total: u64 = standings.iter().map(|(_, score)| score).sum();
        let mut uses: HashMap<Arc<str>, f64> = HashMap::new();
        for update in generator.take(COUNT) {
            *uses.entry(update.id).or_default() += 1.0;
        }
        assert_eq!(&*standings[0].0.id, "1F602");
        assert_eq!(standings.len(), catalogue().len());
        for (emoji, score) in &standings[..100] {
            let expected = COUNT as f64 * *score as f64 / total as f64;
            // Five standard deviations. The seed is fixed, so the result is deterministic.
            let used = uses[&emoji.id];
            assert!((used - expected).abs() < 5.0 * expected.sqrt(), "{emoji:?}: {used} instead of {expected}");
        }
        // Rare emoji are used as well.
        assert!(uses.len() > standings.len() * 9 / 10, "{}", uses.len());
    }

    #[test]
    fn seeds_differ_in_the_order_after_the_popular() {
        let ranking = |seed| Generator::new(seed).standings().map(|(emoji, _)| &*emoji.id).collect::<Vec<_>>();
        let (one, other) = (ranking(1), ranking(2));
        assert_eq!(one[..POPULAR_COUNT], other[..POPULAR_COUNT]);
        assert_ne!(one[POPULAR_COUNT..], other[POPULAR_COUNT..]);
        assert_eq!(one.iter().collect::<HashSet<_>>(), other.iter().collect::<HashSet<_>>());
    }

    #[test]
    fn simulated_clock_restarts() {
        let mut generator = Generator::new(1);
        generator.posts = CLOCK_MILLIS / POST_MILLIS - 1;
        let times: Vec<String> =
            generator.take(2).map(|update| text(&parsed(&update), "created_at").to_owned()).collect();
        assert_eq!(times, ["2075-12-19T23:59:59+00:00", "2026-01-01T00:00:00+00:00"]);
    }

    #[test]
    fn posts_are_dated_now_on_request() {
        let before = humantime::format_rfc3339_seconds(SystemTime::now()).to_string().replace('Z', "+00:00");
        let mut generator = Generator::new(1).dated_now();
        let last = generator.backlog(1).last().unwrap();
        let update = generator.next().unwrap();
        assert!(text(&parsed(&last), "created_at") < &*before);
        assert!(text(&parsed(&update), "created_at") >= &*before);
        // The rest is as always.
        let expected = updates(1, 1).remove(0);
        assert_eq!(text(&parsed(&update), "text"), text(&parsed(&expected), "text"));
    }

    #[test]
    fn posts_contain_special_characters() {
        let texts: Vec<String> =
            updates(1, 5_000).iter().map(|update| text(&parsed(update), "text").to_owned()).collect();
        for part in ["\n", "\"", "#", "@", "<3", "&", "https://", "ラーメン", "café"] {
            assert!(texts.iter().any(|text| text.contains(part)), "{part:?} is in no text");
        }
        let with_line_breaks = texts.iter().filter(|text| text.contains('\n')).count();
        assert!(with_line_breaks < texts.len() / 20, "{with_line_breaks} line breaks are not rare");
        assert!(texts.iter().all(|text| !text.contains(['{', '}'])));
    }

    #[test]
    fn ids_of_posts_are_unique() {
        let ids: HashSet<String> =
            updates(1, 5_000).iter().map(|update| text(&parsed(update), "id").to_owned()).collect();
        assert_eq!(ids.len(), 5_000);
    }

    proptest! {
        #[test]
        fn posts_are_valid(seed: u64) {
            for update in updates(seed, 50) {
                let emoji = catalogue().iter().find(|emoji| emoji.id == update.id).unwrap();
                prop_assert!(!update.tweet.contains(['\n', '\r']));
                let tweet = parsed(&update);
                let body = text(&tweet, "text");
                prop_assert!(body.contains(emoji.glyph), "no {} in {body:?}", emoji.glyph);
                prop_assert!(body.chars().count() <= post::MAX_TEXT_CHARS, "{body:?} is too long");
                prop_assert!(text(&tweet, "id").parse::<u64>().is_ok());
                let screen_name = text(&tweet, "screen_name");
                prop_assert!((1..=15).contains(&screen_name.len()));
                prop_assert!(screen_name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
                prop_assert!(!text(&tweet, "name").is_empty());
                prop_assert!(text(&tweet, "profile_image_url").starts_with("https://"));
                prop_assert!(humantime::parse_rfc3339(&text(&tweet, "created_at").replace("+00:00", "Z")).is_ok());
                for link in tweet["links"].as_array().unwrap() {
                    let [start, end] = [0, 1].map(|index| link["indices"][index].as_u64().unwrap() as usize);
                    let linked: String = body.chars().skip(start).take(end - start).collect();
                    prop_assert_eq!(&linked, text(link, "url"));
                }
            }
        }
    }
}
