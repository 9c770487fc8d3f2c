//! A short post with an emoji, in Emojitracker's JSON format.

use std::time::{Duration, UNIX_EPOCH};

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::catalogue::Emoji;
use super::words;

/// The maximum length of a post's text in characters (Unicode scalar values).
pub(super) const MAX_TEXT_CHARS: usize = 140;

/// The maximum length of a screen name in characters.
const MAX_HANDLE_CHARS: usize = 15;

/// The maximum repetitions of the emoji in a post.
const MAX_REPEATS: usize = 4;

/// The epoch of the time in IDs, in milliseconds of Unix time.
const ID_EPOCH_MILLIS: u64 = 1_288_834_974_657;

/// The number of ID bits below the time.
const ID_LOW_BITS: u32 = 22;

/// The JSON fields of a post, as in Emojitracker.
#[derive(Serialize)]
struct Tweet {
    /// The time in milliseconds above 22 random bits, in decimal. A string, because JavaScript numbers are too imprecise.
    id: String,
    text: String,
    screen_name: String,
    name: String,
    links: Vec<Link>,
    profile_image_url: String,
    /// Such as `2026-01-01T00:00:00+00:00`.
    created_at: String,
}

/// A link in a post's text.
#[derive(Serialize)]
struct Link {
    url: String,
    expanded_url: String,
    display_url: String,
    /// Start and end in the text, in characters.
    indices: [usize; 2],
}

/// A post with `emoji`, dated `millis` milliseconds after the Unix epoch.
pub(super) fn write(rng: &mut ChaCha8Rng, emoji: &Emoji, others: &[Emoji], millis: u64) -> String {
    let (text, links) = compose(rng, emoji, others);
    let since_epoch = Duration::from_millis(millis);
    let low_bits = rng.random_range(0..1_u64 << ID_LOW_BITS);
    let created_at = humantime::format_rfc3339_seconds(UNIX_EPOCH + since_epoch).to_string();
    let tweet = Tweet {
        id: (millis.saturating_sub(ID_EPOCH_MILLIS) << ID_LOW_BITS | low_bits).to_string(),
        text,
        screen_name: screen_name(rng),
        name: pick(rng, &words::NAMES).to_owned(),
        links,
        // A reserved domain, so that pages that show the post send no request to a real host.
        profile_image_url: format!("https://avatars.example/{:08x}_normal.png", rng.random::<u32>()),
        created_at: created_at.replace('Z', "+00:00"),
    };
    #[expect(clippy::expect_used, reason = "strings, numbers and lists of them always serialize")]
    serde_json::to_string(&tweet).expect("a post is valid JSON")
}

/// The text, including `emoji`, and its links.
fn compose(rng: &mut ChaCha8Rng, emoji: &Emoji, others: &[Emoji]) -> (String, Vec<Link>) {
    let mut phrase = if rng.random_bool(0.2) {
        pick(rng, &words::NON_ENGLISH_PHRASES).to_owned()
    } else {
        let template = pick(rng, &words::TEMPLATES);
        fill(rng, template)
    };
    if rng.random_bool(0.04) {
        phrase = format!("\"{phrase}\"");
    }
    let mut text = Text::default();
    if rng.random_bool(0.12) {
        let handle = screen_name(rng);
        text.append("", &format!("@{handle}"));
    }
    text.append(" ", &phrase);
    // Line breaks are rare, but must be delivered unchanged.
    let separator = if rng.random_bool(0.02) { "\n" } else { " " };
    let repeats = if rng.random_bool(0.25) { rng.random_range(2..=MAX_REPEATS) } else { 1 };
    text.append(separator, &emoji.glyph.repeat(repeats));

    // The following parts are omitted if the text is full.
    if rng.random_bool(0.1) {
        let other = others.choose(rng).unwrap_or(emoji);
        text.append("", other.glyph);
    }
    if rng.random_bool(0.02) {
        text.append(" ", pick(rng, &words::MARKUP));
    }
    for chance in [0.25, 0.08] {
        if rng.random_bool(chance) {
            text.append(" ", &format!("#{}", pick(rng, &words::HASHTAGS)));
        }
    }
    let mut links = Vec::new();
    if rng.random_bool(0.1) {
        let code: u32 = rng.random();
        let url = format!("https://t.example/{code:08x}");
        if let Some(indices) = text.append(" ", &url) {
            let display_url = format!("news.example/{code}");
            links.push(Link { url, expanded_url: format!("https://{display_url}"), display_url, indices });
        }
    }
    (text.text, links)
}

/// A text limited to [`MAX_TEXT_CHARS`].
#[derive(Default)]
struct Text {
    text: String,
    chars: usize,
}

impl Text {
    /// Adds `part`, after `separator` if it is not the first, and returns its start and end. Returns `None` if the text is
    /// full.
    fn append(&mut self, separator: &str, part: &str) -> Option<[usize; 2]> {
        let separator = if self.text.is_empty() { "" } else { separator };
        let start = self.chars + separator.chars().count();
        let end = start + part.chars().count();
        if end > MAX_TEXT_CHARS {
            return None;
        }
        self.text.push_str(separator);
        self.text.push_str(part);
        self.chars = end;
        Some([start, end])
    }
}

/// The template with a word for each placeholder.
pub(super) fn fill(rng: &mut ChaCha8Rng, template: &str) -> String {
    let mut filled = String::with_capacity(MAX_TEXT_CHARS);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        filled.push_str(before);
        filled.push_str(pick(rng, words_for(name)));
        rest = after;
    }
    filled.push_str(rest);
    filled
}

fn words_for(name: &str) -> &'static [&'static str] {
    match name {
        "noun" => &words::NOUNS,
        "adjective" => &words::ADJECTIVES,
        "place" => &words::PLACES,
        "activity" => &words::ACTIVITIES,
        "time" => &words::TIMES,
        _ => &[],
    }
}

fn screen_name(rng: &mut ChaCha8Rng) -> String {
    let (start, end) = (pick(rng, &words::HANDLE_STARTS), pick(rng, &words::HANDLE_ENDS));
    let mut name = format!("{start}{end}{}", rng.random_range(0..10_000));
    name.truncate(MAX_HANDLE_CHARS);
    name
}

/// A random word; empty if there are none.
fn pick(rng: &mut ChaCha8Rng, words: &[&'static str]) -> &'static str {
    words.choose(rng).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;

    fn longest(words: &[&str]) -> usize {
        words.iter().map(|word| word.chars().count()).max().unwrap()
    }

    #[test]
    fn longest_phrase_leaves_room_for_the_emoji() {
        let templates = words::TEMPLATES.iter().map(|template| {
            let places = template.split('{').skip(1).map(|place| place.split_once('}').unwrap().0);
            let names: Vec<&str> = places.collect();
            let words: usize = names.iter().map(|name| longest(words_for(name))).sum();
            template.chars().count() - names.iter().map(|name| name.len() + "{}".len()).sum::<usize>() + words
        });
        let phrase = templates.max().unwrap().max(longest(&words::NON_ENGLISH_PHRASES));
        let glyph = catalogue().iter().map(|emoji| emoji.glyph.chars().count()).max().unwrap();
        let mention = "@".len() + MAX_HANDLE_CHARS + " ".len();
        let max_chars = mention + "\"\"".len() + phrase + " ".len() + MAX_REPEATS * glyph;
        assert!(max_chars <= MAX_TEXT_CHARS, "{max_chars}");
    }

    #[test]
    fn append_returns_position_or_none_if_full() {
        let mut text = Text::default();
        assert_eq!(text.append(" ", "né"), Some([0, 2]));
        assert_eq!(text.append(" ", &"x".repeat(MAX_TEXT_CHARS - 2)), None);
        assert_eq!(text.append(" ", &"x".repeat(MAX_TEXT_CHARS - 3)), Some([3, MAX_TEXT_CHARS]));
        assert_eq!(text.append("", "x"), None);
        assert_eq!(text.text, format!("né {}", "x".repeat(MAX_TEXT_CHARS - 3)));
    }
}
