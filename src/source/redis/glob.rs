//! Selectors -> the glob-style patterns of `PSUBSCRIBE`.

use crate::source::Selector;

/// The pattern that matches exactly the channels of `selector`: characters that are special to Redis are escaped.
pub(crate) fn glob(selector: &Selector) -> String {
    let (Selector::Exact(text) | Selector::Prefix(text)) = selector;
    let mut glob = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        if matches!(character, '?' | '[' | ']' | '\\' | '*') {
            glob.push('\\');
        }
        glob.push(character);
    }
    if matches!(selector, Selector::Prefix(_)) {
        glob.push('*');
    }
    glob
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_are_escaped() {
        assert_eq!(glob(&Selector::Prefix(r"a?[b]\c".to_owned())), r"a\?\[b\]\\c*");
        assert_eq!(glob(&Selector::Exact("a*^-b".to_owned())), r"a\*^-b");
    }
}
