//! The stream of updates: which emoji is used next, and the post it is used in.

mod catalogue;
mod post;
mod words;

use std::sync::Arc;

use rand::distr::weighted::WeightedIndex;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::catalogue::FAMOUS_COUNT;
pub use self::catalogue::{Emoji, catalogue, unified_id};

/// The score that the most popular emoji has before the first update.
const TOP_SCORE: u64 = 3_000_000_000;

/// When the first post is written, in milliseconds of Unix time: 2026-01-01T00:00:00Z.
const START_MILLIS: u64 = 1_767_225_600_000;

/// The time from one post to the next in their own clock, in milliseconds: 250 a second, as Emojitracker had.
const POST_MILLIS: u64 = 4;

/// After so many milliseconds (50 years; 394 thousand million posts) the clock of the posts begins again, so that times
/// and IDs stay such as clients can read.
const CLOCK_MILLIS: u64 = 50 * 365 * 24 * 60 * 60 * 1000;

/// The time from one post of the [backlog](Generator::backlog) to the next of the same emoji, in milliseconds.
const BACKLOG_MILLIS: u64 = 60_000;

/// The stream of random numbers that the backlog takes, so that making it changes nothing in the updates.
const BACKLOG_STREAM: u64 = 1;

/// One use of an emoji.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The [ID](Emoji::id) of the emoji.
    pub id: Arc<str>,
    /// The post it was used in: a JSON object with the strings `id`, `text` (at most 140 characters, and the emoji is in
    /// it), `screen_name`, `name`, `profile_image_url` and `created_at` (ISO 8601), and the list `links`.
    pub tweet: String,
}

/// Makes updates without end; the same seed gives the same updates.
///
/// Popularity follows Zipf's law: the emoji of rank *n* is used *1/n* as often as the first. The famous emoji have the
/// first ranks; the order of the others is the seed's. Posts are dated by a clock of their own, which starts on the first
/// of January 2026 and goes on by 4 ms with each post, whatever the time is.
#[derive(Debug, Clone)]
pub struct Generator {
    seed: u64,
    rng: ChaCha8Rng,
    /// The emoji of each rank.
    ranking: Vec<&'static Emoji>,
    ranks: WeightedIndex<u64>,
    posts: u64,
}

impl Generator {
    /// The updates of `seed`, from the first on.
    pub fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut ranking: Vec<&Emoji> = catalogue().iter().collect();
        ranking[FAMOUS_COUNT..].shuffle(&mut rng);
        #[expect(
            clippy::expect_used,
            reason = "the catalogue is not empty, no score is 0, and their sum is under 2^64"
        )]
        let ranks = WeightedIndex::new((0..ranking.len()).map(starting_score)).expect("every rank has a weight");
        Self { seed, rng, ranking, ranks, posts: 0 }
    }

    /// Every emoji with the score that it had before the first update, the most popular first. Scores are in proportion
    /// to how often the emoji is used.
    pub fn standings(&self) -> impl Iterator<Item = (&'static Emoji, u64)> {
        self.ranking.iter().enumerate().map(|(rank, emoji)| (*emoji, starting_score(rank)))
    }

    /// The last `per_emoji` updates of each emoji before the first update, those of the same emoji together and the
    /// oldest first. They are no part of the updates that the iterator gives, and do not change them.
    pub fn backlog(&self, per_emoji: u16) -> impl Iterator<Item = Update> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(BACKLOG_STREAM);
        let posts = (1..).zip(&self.ranking).flat_map(move |(rank, emoji)| {
            (1..=u64::from(per_emoji)).rev().map(move |age| (*emoji, START_MILLIS - age * BACKLOG_MILLIS - rank))
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
        let millis = START_MILLIS + self.posts * POST_MILLIS % CLOCK_MILLIS;
        self.posts += 1;
        let tweet = post::write(&mut self.rng, emoji, catalogue(), millis);
        Some(Update { id: Arc::clone(&emoji.id), tweet })
    }
}

/// Zipf's law in whole numbers, which are the same on every machine.
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
        tweet[name].as_str().unwrap_or_else(|| panic!("{name} is no string in {tweet}"))
    }

    #[test]
    fn a_seed_is_one_sequence() {
        assert_eq!(updates(7, 2_000), updates(7, 2_000));
        assert_ne!(updates(7, 20), updates(8, 20));
    }

    #[test]
    fn the_backlog_changes_nothing() {
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
    fn popularity_follows_the_standings() {
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
            // Five standard deviations; the seed is fixed, so this holds always or never.
            let used = uses[&emoji.id];
            assert!((used - expected).abs() < 5.0 * expected.sqrt(), "{emoji:?}: {used} instead of {expected}");
        }
        // The rare ones come too.
        assert!(uses.len() > standings.len() * 9 / 10, "{}", uses.len());
    }

    #[test]
    fn seeds_differ_in_the_order_after_the_famous() {
        let ranking = |seed| Generator::new(seed).standings().map(|(emoji, _)| &*emoji.id).collect::<Vec<_>>();
        let (one, other) = (ranking(1), ranking(2));
        assert_eq!(one[..FAMOUS_COUNT], other[..FAMOUS_COUNT]);
        assert_ne!(one[FAMOUS_COUNT..], other[FAMOUS_COUNT..]);
        assert_eq!(one.iter().collect::<HashSet<_>>(), other.iter().collect::<HashSet<_>>());
    }

    #[test]
    fn the_clock_begins_again_before_times_become_unreadable() {
        let mut generator = Generator::new(1);
        generator.posts = CLOCK_MILLIS / POST_MILLIS - 1;
        let times: Vec<String> =
            generator.take(2).map(|update| text(&parsed(&update), "created_at").to_owned()).collect();
        assert_eq!(times, ["2075-12-19T23:59:59+00:00", "2026-01-01T00:00:00+00:00"]);
    }

    #[test]
    fn posts_show_everything_that_must_come_through() {
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
        fn posts_are_what_clients_expect(seed: u64) {
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
