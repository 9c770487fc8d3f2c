//! What is known of an emoji by its ID, as Emojitracker tells it.

use std::collections::HashMap;
use std::sync::LazyLock;

use emojis::Emoji;
use sandbox::unified_id;
use serde::Serialize;

/// Asks for the colourful form of a character. Emojitracker leaves it out of its IDs and tells of it as a variation.
const VARIATION_SELECTOR_16: char = '\u{FE0F}';

/// The part of an emoji's details that does not change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Details {
    /// The IDs of the emoji's other forms.
    variations: Vec<String>,
    short_name: Option<&'static str>,
    short_names: Vec<&'static str>,
    /// Emojitracker has the emoticon here; no crate knows of them.
    text: Option<&'static str>,
}

/// Whether `id` is an emoji's.
pub(super) fn is_known(id: &str) -> bool {
    find(id).is_some()
}

/// The character of an ID. What is not an emoji stands for itself, so that other things can be ranked too.
pub(super) fn character(id: &str) -> &str {
    find(id).map_or(id, Emoji::as_str)
}

/// The name of an ID, in capitals as Unicode writes names.
pub(super) fn name(id: &str) -> String {
    find(id).map_or_else(|| id.to_owned(), |emoji| emoji.name().to_uppercase())
}

/// What else there is to tell.
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
    fn emoji_are_found_by_the_ids_of_emojitracker() {
        assert_eq!((character("1F602"), &*name("1F602")), ("😂", "FACE WITH TEARS OF JOY"));
        assert_eq!((character("2764"), &*name("2764")), ("❤️", "RED HEART"));
        assert_eq!((character("1F1EF-1F1F5"), character("0023-20E3")), ("🇯🇵", "#️⃣"));
        assert_eq!((character("ANZ.ASX"), &*name("ANZ.ASX")), ("ANZ.ASX", "ANZ.ASX"));
        assert!(is_known("1F602") && !is_known("ANZ.ASX"));
    }

    #[test]
    fn details_have_the_variation_and_the_short_names() {
        let heart = serde_json::to_value(details("2764")).unwrap();
        assert_eq!(
            heart,
            serde_json::json!({"variations": ["2764-FE0F"], "short_name": "heart", "short_names": ["heart"], "text": null})
        );
        assert_eq!(serde_json::to_value(details("1F602")).unwrap()["short_name"], "joy");
    }
}
