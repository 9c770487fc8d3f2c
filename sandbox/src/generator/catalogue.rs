//! Which emoji there are, and what Emojitracker calls them.

use std::sync::{Arc, LazyLock};

use emojis::EmojiVersion;

/// The newest emoji taken: with those of Emoji 0.6 and 0.7 the catalogue is about as large as Emojitracker's was (some
/// 850 emoji), and it does not change when Unicode adds more.
const NEWEST: EmojiVersion = EmojiVersion::new(0, 7);

/// Asks for the colourful form of a character. Emojitracker leaves it out of its IDs.
const VARIATION_SELECTOR_16: char = '\u{FE0F}';

/// The IDs of the most popular emoji, the most popular first.
const FAMOUS: [&str; 20] = [
    "1F602", "2764", "1F60D", "1F62D", "2665", "1F60A", "1F612", "1F495", "1F618", "1F629", "263A", "1F44C", "1F614",
    "1F60F", "1F601", "1F609", "1F44D", "1F64F", "1F525", "1F440",
];

/// How many emoji at the start of the [`catalogue`] are there because they are famous.
pub(super) const FAMOUS_COUNT: usize = FAMOUS.len();

/// An emoji that is tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emoji {
    /// Its unified ID as in Emojitracker: the code points in upper-case hexadecimal, at least four digits each, joined by
    /// `-`, without U+FE0F. 😂 is `1F602`, ❤️ is `2764`, 🇯🇵 is `1F1EF-1F1F5`, #️⃣ is `0023-20E3`.
    pub id: Arc<str>,
    /// The emoji itself, with U+FE0F where it needs one to be shown in colour.
    pub glyph: &'static str,
}

/// All emoji that are tracked: first the famous ones, the most popular first, then the others in Unicode's order.
///
/// They are the emoji of Emoji 0.7 and before, each in its default skin tone: 858, none twice.
pub fn catalogue() -> &'static [Emoji] {
    static CATALOGUE: LazyLock<Vec<Emoji>> = LazyLock::new(|| {
        let mut emoji: Vec<Emoji> = emojis::iter()
            .filter(|emoji| emoji.emoji_version() <= NEWEST)
            .map(|emoji| Emoji { id: unified_id(emoji.as_str()).into(), glyph: emoji.as_str() })
            .collect();
        emoji.sort_by_key(|emoji| FAMOUS.iter().position(|id| *id == &*emoji.id).unwrap_or(FAMOUS_COUNT));
        emoji
    });
    &CATALOGUE
}

/// The ID of an emoji in Emojitracker: its code points in upper-case hexadecimal, joined by `-`, without U+FE0F.
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
    fn ids_are_those_of_emojitracker() {
        for (glyph, id) in
            [("😂", "1F602"), ("❤️", "2764"), ("❤", "2764"), ("🇯🇵", "1F1EF-1F1F5"), ("#️⃣", "0023-20E3"), ("©️", "00A9")]
        {
            assert_eq!(unified_id(glyph), id);
        }
    }

    #[test]
    fn the_catalogue_has_each_emoji_once_and_the_famous_first() {
        let ids: Vec<&str> = catalogue().iter().map(|emoji| &*emoji.id).collect();
        assert_eq!(ids.len(), 858);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        assert_eq!(ids[..FAMOUS_COUNT], FAMOUS);
        assert!(ids.contains(&"1F1EF-1F1F5") && ids.contains(&"0023-20E3"));
    }

    #[test]
    fn ids_lead_back_to_their_emoji() {
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
        fn any_sequence_has_an_id_of_hexadecimal_numbers(glyph in "\\PC{1,8}") {
            let id = unified_id(&glyph);
            let points = glyph.chars().filter(|&point| point != VARIATION_SELECTOR_16).map(u32::from);
            let read = id.split('-').filter(|point| !point.is_empty()).map(|point| u32::from_str_radix(point, 16));
            prop_assert_eq!(read.collect::<Result<Vec<_>, _>>().unwrap(), points.collect::<Vec<_>>());
        }
    }
}
