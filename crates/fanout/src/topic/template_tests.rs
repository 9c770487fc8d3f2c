//! Templates beside regular expressions of another implementation.

use proptest::prelude::*;
use regex::Regex;

use super::*;

/// A part of a template: a literal, or an operator and for each variable whether it is exploded.
#[derive(Debug, Clone)]
enum Piece {
    Literal(&'static str),
    Expression(&'static str, Vec<bool>),
}

const OPERATORS: [&str; 8] = ["", "+", "#", ".", "/", ";", "?", "&"];

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let literal = proptest::sample::select(&["a", "ab", "/", "https://e/", "é", "a.", "%41", "=", ",,", "?x="][..]);
    let expression = (proptest::sample::select(&OPERATORS[..]), proptest::collection::vec(any::<bool>(), 1..4));
    let piece = prop_oneof![
        literal.prop_map(Piece::Literal),
        expression.prop_map(|(operator, exploded)| Piece::Expression(operator, exploded)),
    ];
    proptest::collection::vec(piece, 1..6)
}

fn text_of(pieces: &[Piece]) -> String {
    let text = |piece: &Piece| match piece {
        Piece::Literal(literal) => (*literal).to_owned(),
        Piece::Expression(operator, exploded) => {
            let names = ["x", "x_1:30", "a.b"];
            let variable = |(place, is_exploded): (usize, &bool)| {
                if *is_exploded { "list*".to_owned() } else { names[place].to_owned() }
            };
            let variables: Vec<String> = exploded.iter().enumerate().map(variable).collect();
            format!("{{{operator}{}}}", variables.join(","))
        }
    };
    pieces.iter().map(text).collect()
}

/// The regular expression of a template, by the table of the protocol.
fn regex_of(pieces: &[Piece]) -> Regex {
    let part = |piece: &Piece| match piece {
        Piece::Literal(literal) => regex::escape(literal),
        Piece::Expression(operator, exploded) => {
            let (prefix, separator) = match *operator {
                "" | "+" => ("", ","),
                "#" => ("#", ","),
                "?" => ("\\?", "&"),
                "." => ("\\.", "\\."),
                other => (other, other),
            };
            let is_named = [";", "?", "&"].contains(operator);
            let value = |equals: bool| {
                let reserved = if ["+", "#"].contains(operator) { "!#$\\&'()*+/:;=?@\\[\\]" } else { "" };
                let equals = if equals { "=" } else { "" };
                format!("(?:[-.0-9A-Z_a-z\\~,{reserved}{equals}]|%[0-9A-Fa-f]{{2}})*")
            };
            let is_any = exploded.contains(&true);
            let count = if is_any { "*".to_owned() } else { format!("{{0,{}}}", exploded.len() - 1) };
            let first = value(is_named || exploded[0]);
            let others = value(is_named || is_any);
            format!("(?:{prefix}{first}(?:{separator}{others}){count})?")
        }
    };
    Regex::new(&format!("^(?:{})$", pieces.iter().map(part).collect::<String>())).unwrap()
}

/// A text that is likely to match: something for each part.
fn similar_text(pieces: &[Piece], values: &[(usize, String)]) -> String {
    let mut values = values.iter().cycle();
    let mut text = String::new();
    for piece in pieces {
        match piece {
            Piece::Literal(literal) => text.push_str(literal),
            Piece::Expression(operator, _) => {
                let (count, value) = values.next().unwrap();
                let separator = match *operator {
                    "" | "+" | "#" => ",",
                    "?" | "&" => "&",
                    other => other,
                };
                if *count > 0 {
                    text.push_str(if ["", "+"].contains(operator) { "" } else { operator });
                    text.push_str(&vec![value.clone(); *count].join(separator));
                }
            }
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn templates_match_as_their_regular_expressions(
        pieces in pieces(),
        values in proptest::collection::vec((0..4_usize, "([ab=&é/#,.;?~]|%4[0-9g]){0,3}"), 4),
        others in proptest::collection::vec("([ab=&,./#?;]|%41){0,8}", 4),
        dropped in 0..12_usize,
    ) {
        let text = text_of(&pieces);
        let Some(template) = Topic::template(&text) else {
            prop_assert!(!pieces.iter().any(|piece| matches!(piece, Piece::Expression(..))), "{}", text);
            return Ok(());
        };
        let Kind::Template(template) = template.kind() else { unreachable!() };
        let regex = regex_of(&pieces);
        let similar = similar_text(&pieces, &values);
        let shorter: String = similar.chars().enumerate().filter(|(place, _)| *place != dropped).map(|(_, c)| c).collect();
        for candidate in others.iter().chain([&similar, &shorter, &text]) {
            prop_assert_eq!(template.matches(candidate), regex.is_match(candidate), "{} {} {}", text, candidate, regex);
        }
    }

    #[test]
    fn reading_a_template_never_panics(text in "[{}a+#?,:*%4.é|/ ]{0,20}") {
        if let Some(topic) = Topic::template(&text) {
            prop_assert_eq!(topic.to_string(), text.clone());
            topic.contains(&Namespace::from_topic("https://é").unwrap());
        }
        let _ = Topic::selector(&text);
    }
}

#[test]
fn other_texts_are_no_templates() {
    for text in [
        "a",
        "{}",
        "{",
        "}",
        "a}",
        "{a",
        "{a}}",
        "{{a}}",
        "{=a}",
        "{,a}",
        "{!a}",
        "{@a}",
        "{|a}",
        "{+}",
        "{a,}",
        "{a b}",
        "{a:}",
        "{a:0}",
        "{a:01}",
        "{a:10000}",
        "{a:x}",
        "{a:3*}",
        "{a**}",
        "{a..b}",
        "{.a.}",
        "{%4}",
        "%4{a}",
        "<{a}",
        "a b{c}",
        "a\n{b}",
        "{a-b}",
        "{é}",
    ] {
        assert!(Topic::template(text).is_none(), "{text}");
        if !text.contains('\n') {
            let exact = Topic::exact(Namespace::from_topic(text).unwrap());
            assert_eq!(Topic::selector(text), Ok(exact), "{text}");
        }
    }
    for text in ["{a}", "{a:1}", "{a:9999}", "{a.b,%41*}", "é{a}", "{?a,b}", "{&a*}", "%41{a}"] {
        assert!(Topic::template(text).is_some(), "{text}");
    }
    assert!(Topic::template(&"{a}".repeat(16)).is_some() && Topic::template(&"{a}".repeat(17)).is_none());
    assert!(Topic::template(&format!("{{a}}{}", "a".repeat(2048))).is_none());
}

#[test]
fn expression_may_stand_for_nothing_and_not_for_a_segment_more() {
    let contains =
        |template: &str, text: &str| Topic::template(template).unwrap().contains(&Namespace::from_topic(text).unwrap());
    assert!(contains("https://e/{id}", "https://e/") && contains("https://e/{id}", "https://e/a%20b"));
    assert!(!contains("https://e/{id}", "https://e/a/b") && !contains("https://e/{id}", "https://e"));
    assert!(contains("https://e{/path*}", "https://e/a/b/c") && !contains("https://e{/path}", "https://e/a/b"));
    assert!(contains("/price/{symbol}", "/price/A") && !contains("/price/{symbol}", "/price"));
    // A prefix modifier bounds nothing.
    assert!(contains("{a:3}", "abcdef"));
    // The literals before and after must not overlap.
    assert!(!contains("aba{x}aba", "ababa") && contains("aba{x}aba", "abaaba"));
}

#[test]
fn hostile_templates_take_little_time() {
    let started = std::time::Instant::now();
    let hostile = [
        "{+a*}".repeat(16),
        format!("{}b", "{+a*}a".repeat(16)),
        format!("{{+a}}{}{{+a}}b", "a".repeat(1000)),
        format!("{}b", "{a,b,c,d}".repeat(16)),
    ];
    let text = Namespace::from_topic(&"a,".repeat(1024)).unwrap();
    for template in &hostile {
        let topic = Topic::template(template).unwrap();
        for _ in 0..10 {
            topic.contains(&text);
        }
    }
    // Backtracking would take years; this, about a millisecond each where it is optimized.
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
}
