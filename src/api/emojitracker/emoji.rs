//! Emoji by their Emojitracker IDs: character, name, short names.

use std::collections::HashMap;
use std::sync::LazyLock;

use emojis::Emoji;
use sandbox::unified_id;
use serde::Serialize;

/// Selects the emoji presentation of a character. Emojitracker leaves it out of IDs and lists it as a variation.
const VARIATION_SELECTOR_16: char = '\u{FE0F}';

/// The constant part of an emoji's details.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Details {
    /// The IDs of the emoji's other forms.
    variations: Vec<String>,
    short_name: Option<&'static str>,
    short_names: Vec<&'static str>,
    /// The emoticon in Emojitracker's API; always null here.
    text: Option<&'static str>,
}

/// Whether `id` is the ID of an emoji.
pub(super) fn is_known(id: &str) -> bool {
    find(id).is_some()
}

/// The character of an ID; the ID itself if it is not an emoji, so that other things can be ranked too.
pub(super) fn character(id: &str) -> &str {
    find(id).map_or(id, Emoji::as_str)
}

/// The name of an ID in upper case, as Unicode writes names; the ID itself if it is not an emoji.
pub(super) fn name(id: &str) -> String {
    find(id).map_or_else(|| id.to_owned(), |emoji| emoji.name().to_uppercase())
}

/// The details of an ID; empty if it is not an emoji.
pub(super) fn details(id: &str) -> Details {
    let Some(emoji) = find(id) else {
        return Details { variations: Vec::new(), short_name: None, short_names: Vec::new(), text: None };
    };
    let has_variation = emoji.as_str().contains(VARIATION_SELECTOR_16);
    let points: Vec<String> = emoji.as_str().chars().map(|point| format!("{:04X}", u32::from(point))).collect();
    Details {
        variations: if has_variation { vec![points.join("-")] } else { Vec::new() },
        short_name: emoji.shortcode(),
        short_names: emoji.shortcodes().collect(),
        text: None,
    }
}

fn find(id: &str) -> Option<&'static Emoji> {
    static BY_ID: LazyLock<HashMap<String, &'static Emoji>> =
        LazyLock::new(|| emojis::iter().map(|emoji| (unified_id(emoji.as_str()), emoji)).collect());
    BY_ID.get(id).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emoji_are_found_by_emojitracker_id() {
        assert_eq!((character("1F602"), &*name("1F602")), ("😂", "FACE WITH TEARS OF JOY"));
        assert_eq!((character("2764"), &*name("2764")), ("❤️", "RED HEART"));
        assert_eq!((character("1F1EF-1F1F5"), character("0023-20E3")), ("🇯🇵", "#️⃣"));
        assert_eq!((character("ANZ.ASX"), &*name("ANZ.ASX")), ("ANZ.ASX", "ANZ.ASX"));
        assert!(is_known("1F602") && !is_known("ANZ.ASX"));
    }

    #[test]
    fn details_list_variation_and_short_names() {
        let heart = serde_json::to_value(details("2764")).unwrap();
        assert_eq!(
            heart,
            serde_json::json!({"variations": ["2764-FE0F"], "short_name": "heart", "short_names": ["heart"], "text": null})
        );
        assert_eq!(serde_json::to_value(details("1F602")).unwrap()["short_name"], "joy");
    }
}
