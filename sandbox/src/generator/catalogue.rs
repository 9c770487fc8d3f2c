//! The catalogue of emoji and their Emojitracker IDs.

use std::sync::{Arc, LazyLock};

use emojis::EmojiVersion;

/// The newest included version. Up to Emoji 0.7 the catalogue has about the size of Emojitracker's (some 850 emoji), and
/// it does not change when Unicode adds emoji.
const NEWEST: EmojiVersion = EmojiVersion::new(0, 7);

/// Requests the emoji presentation of a character. Emojitracker IDs omit it.
const VARIATION_SELECTOR_16: char = '\u{FE0F}';

/// The IDs of the most popular emoji in descending order.
const POPULAR: [&str; 20] = [
    "1F602", "2764", "1F60D", "1F62D", "2665", "1F60A", "1F612", "1F495", "1F618", "1F629", "263A", "1F44C", "1F614",
    "1F60F", "1F601", "1F609", "1F44D", "1F64F", "1F525", "1F440",
];

/// The number of popular emoji at the start of the [`catalogue`].
pub(super) const POPULAR_COUNT: usize = POPULAR.len();

/// A tracked emoji.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emoji {
    /// The unified ID of Emojitracker: the code points in upper-case hexadecimal, at least four digits each, joined by
    /// `-`, without U+FE0F. 😂 is `1F602`, ❤️ is `2764`, 🇯🇵 is `1F1EF-1F1F5`, #️⃣ is `0023-20E3`.
    pub id: Arc<str>,
    /// The emoji itself, with U+FE0F if it needs one to be shown in colour.
    pub glyph: &'static str,
}

/// All tracked emoji: first the popular ones in descending order, then the others in Unicode order.
///
/// These are the 858 emoji up to Emoji 0.7, each in its default skin tone, without duplicates.
pub fn catalogue() -> &'static [Emoji] {
    static CATALOGUE: LazyLock<Vec<Emoji>> = LazyLock::new(|| {
        let mut emoji: Vec<Emoji> = emojis::iter()
            .filter(|emoji| emoji.emoji_version() <= NEWEST)
            .map(|emoji| Emoji { id: unified_id(emoji.as_str()).into(), glyph: emoji.as_str() })
            .collect();
        emoji.sort_by_key(|emoji| POPULAR.iter().position(|id| *id == &*emoji.id).unwrap_or(POPULAR_COUNT));
        emoji
    });
    &CATALOGUE
}

/// The Emojitracker ID of an emoji: its code points in upper-case hexadecimal, joined by `-`, without U+FE0F.
pub fn unified_id(glyph: &str) -> String {
    let points: Vec<String> = glyph
        .chars()
        .filter(|&point| point != VARIATION_SELECTOR_16)
        .map(|point| format!("{:04X}", u32::from(point)))
        .collect();
    points.join("-")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_match_emojitracker() {
        for (glyph, id) in
            [("😂", "1F602"), ("❤️", "2764"), ("❤", "2764"), ("🇯🇵", "1F1EF-1F1F5"), ("#️⃣", "0023-20E3"), ("©️", "00A9")]
        {
            assert_eq!(unified_id(glyph), id);
        }
    }

    #[test]
    fn catalogue_is_unique_and_starts_with_popular_emoji() {
        let ids: Vec<&str> = catalogue().iter().map(|emoji| &*emoji.id).collect();
        assert_eq!(ids.len(), 858);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        assert_eq!(ids[..POPULAR_COUNT], POPULAR);
        assert!(ids.contains(&"1F1EF-1F1F5") && ids.contains(&"0023-20E3"));
    }

    #[test]
    fn ids_decode_to_their_emoji() {
        for emoji in catalogue() {
            let mut read = String::new();
            for point in emoji.id.split('-') {
                assert!(point.len() >= 4 && point.bytes().all(|byte| b"0123456789ABCDEF".contains(&byte)), "{emoji:?}");
                read.push(u32::from_str_radix(point, 16).ok().and_then(char::from_u32).unwrap());
            }
            assert_eq!(read, emoji.glyph.replace('\u{FE0F}', ""));
        }
    }

    proptest! {
        #[test]
        fn ids_are_hexadecimal_code_points(glyph in "\\PC{1,8}") {
            let id = unified_id(&glyph);
            let points = glyph.chars().filter(|&point| point != VARIATION_SELECTOR_16).map(u32::from);
            let read = id.split('-').filter(|point| !point.is_empty()).map(|point| u32::from_str_radix(point, 16));
            prop_assert_eq!(read.collect::<Result<Vec<_>, _>>().unwrap(), points.collect::<Vec<_>>());
        }
    }
}
