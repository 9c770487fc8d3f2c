//! URI templates (RFC 6570) as patterns: which texts a template may stand for.
//!
//! An expression stands for any values of its variables, whatever their names are: for nothing at all, or for the prefix of its operator
//! and values with the separator of its operator in between. A prefix modifier, as in `{x:3}`, is read and bounds nothing.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::namespace::MAX_NAME_BYTES;

/// The most expressions of a template: matching takes time for each of them at each byte of a text.
const MAX_EXPRESSIONS: usize = 16;
/// The most digits of a prefix modifier, by the standard.
const MAX_MODIFIER_DIGITS: usize = 4;
/// More separators than a text may have.
const ANY_NUMBER: u16 = u16::MAX - 1;
/// No values end here.
const NONE: u16 = u16::MAX;

/// A template. Equal to others of the same text, which determines everything else.
#[derive(Clone)]
pub(crate) struct Template {
    text: Arc<str>,
    parts: Arc<[Part]>,
}

/// What a template is made of. Two templates match the same texts if they have the same parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// Not empty, and never next to another literal.
    Literal(Box<str>),
    Expression(Expression),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Expression {
    operator: Operator,
    /// The most separators between its values.
    separators: u16,
    /// Whether the first value, and those after it, may contain `=`.
    equals_sign: [bool; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operator {
    Simple,
    Reserved,
    Fragment,
    Label,
    Path,
    Parameter,
    Query,
    Continuation,
}

impl Operator {
    /// The operator at the beginning of an expression, and the rest of the expression; `None` if it is one that has no meaning yet.
    fn parse(expression: &str) -> Option<(Self, &str)> {
        let operator = match expression.bytes().next()? {
            b'+' => Self::Reserved,
            b'#' => Self::Fragment,
            b'.' => Self::Label,
            b'/' => Self::Path,
            b';' => Self::Parameter,
            b'?' => Self::Query,
            b'&' => Self::Continuation,
            b'=' | b',' | b'!' | b'@' | b'|' => return None,
            _ => return Some((Self::Simple, expression)),
        };
        Some((operator, &expression[1..]))
    }

    /// What stands before the first value.
    fn prefix(self) -> Option<u8> {
        match self {
            Self::Simple | Self::Reserved => None,
            Self::Fragment => Some(b'#'),
            Self::Label => Some(b'.'),
            Self::Path => Some(b'/'),
            Self::Parameter => Some(b';'),
            Self::Query => Some(b'?'),
            Self::Continuation => Some(b'&'),
        }
    }

    /// What stands between two values.
    fn separator(self) -> u8 {
        match self {
            Self::Simple | Self::Reserved | Self::Fragment => b',',
            Self::Label => b'.',
            Self::Path => b'/',
            Self::Parameter => b';',
            Self::Query | Self::Continuation => b'&',
        }
    }

    /// Whether values have names.
    fn is_named(self) -> bool {
        matches!(self, Self::Parameter | Self::Query | Self::Continuation)
    }

    /// Whether a value may contain `byte` as it is.
    fn allows(self, byte: u8, equals_sign: bool) -> bool {
        match byte {
            b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'_' | b'a'..=b'z' | b'~' | b',' => true,
            b'=' if equals_sign => true,
            _ => matches!(self, Self::Reserved | Self::Fragment) && b"!#$&'()*+/:;=?@[]".contains(&byte),
        }
    }
}

impl Expression {
    /// Reads what is between the braces.
    fn parse(text: &str) -> Option<Self> {
        let (operator, variables) = Operator::parse(text)?;
        let (mut count, mut is_first_exploded, mut is_any_exploded) = (0, false, false);
        for variable in variables.split(',') {
            let exploded = variable.strip_suffix('*');
            let name = match (exploded, variable.split_once(':')) {
                (Some(name), _) => name,
                (None, Some((name, modifier))) if is_modifier(modifier) => name,
                (None, Some(_)) => return None,
                (None, None) => variable,
            };
            if !name.split('.').all(is_name) {
                return None;
            }
            is_first_exploded |= count == 0 && exploded.is_some();
            is_any_exploded |= exploded.is_some();
            count += 1;
        }
        Some(Self {
            operator,
            separators: if is_any_exploded { ANY_NUMBER } else { count - 1 },
            equals_sign: [is_first_exploded, is_any_exploded].map(|is_exploded| is_exploded || operator.is_named()),
        })
    }

    /// Whether it stands for one value at most, and that for all of `text`.
    fn is_one_value(&self, text: &[u8]) -> bool {
        let mut rest = match self.operator.prefix() {
            Some(prefix) if text.first() == Some(&prefix) => &text[1..],
            Some(_) => return text.is_empty(),
            None => text,
        };
        while let Some(length) = self.value_bytes(rest, false) {
            rest = &rest[length..];
        }
        rest.is_empty()
    }

    /// The bytes at the beginning of `text` that a value may have next: one, or the three of a percent-encoding.
    fn value_bytes(&self, text: &[u8], is_after_separator: bool) -> Option<usize> {
        let first = *text.first()?;
        if self.operator.allows(first, self.equals_sign[usize::from(is_after_separator)]) {
            return Some(1);
        }
        let is_encoded = first == b'%' && text.len() > 2 && text[1..3].iter().all(u8::is_ascii_hexdigit);
        is_encoded.then_some(3)
    }

    /// From the places in `text` up to which the parts before it match, finds those up to which they match with it.
    fn advance(&self, text: &[u8], places: &mut [Place]) {
        for at in 0..places.len() {
            if places[at].is_reached {
                match self.operator.prefix() {
                    None => places[at].first_value = true,
                    Some(prefix) if text.get(at) == Some(&prefix) => places[at + 1].first_value = true,
                    Some(_) => {}
                }
            }
            let Place { first_value, separators, .. } = places[at];
            let is_separator = text.get(at) == Some(&self.operator.separator());
            if first_value {
                if let Some(length) = self.value_bytes(&text[at..], false) {
                    places[at + length].first_value = true;
                }
                if is_separator && self.separators > 0 {
                    places[at + 1].separators = 1;
                }
            }
            if separators != NONE {
                let mut reach = |place: usize, count: u16| {
                    places[place].separators = places[place].separators.min(count);
                };
                if let Some(length) = self.value_bytes(&text[at..], true) {
                    reach(at + length, separators);
                }
                if is_separator && separators < self.separators {
                    reach(at + 1, separators + 1);
                }
            }
            // Nothing at all is also allowed, so places that were reached still are.
            let place = &mut places[at];
            place.is_reached |= place.first_value || place.separators != NONE;
            (place.first_value, place.separators) = (false, NONE);
        }
    }
}

/// What is known of a place in a text.
#[derive(Clone, Copy)]
struct Place {
    /// Whether the parts so far match up to here.
    is_reached: bool,
    /// Whether the first value of the current expression may end here.
    first_value: bool,
    /// The least separators of the current expression up to here, if there are some.
    separators: u16,
}

impl Template {
    /// Reads a template; `None` if the text is not one, or has no expressions, or more than [`MAX_EXPRESSIONS`].
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_NAME_BYTES {
            return None;
        }
        let mut parts = Vec::new();
        let (mut expressions, mut rest) = (0, text);
        while let Some((literal, others)) = rest.split_once('{') {
            let (expression, others) = others.split_once('}')?;
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.into()));
            }
            parts.push(Part::Expression(Expression::parse(expression)?));
            expressions += 1;
            rest = others;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.into()));
        }
        let is_valid = |part: &Part| match part {
            Part::Literal(literal) => is_literal(literal),
            Part::Expression(_) => true,
        };
        let is_template = (1..=MAX_EXPRESSIONS).contains(&expressions) && parts.iter().all(is_valid);
        is_template.then(|| Self { text: text.into(), parts: parts.into() })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn parts(&self) -> &Arc<[Part]> {
        &self.parts
    }

    /// The literal before the first expression.
    pub(crate) fn prefix(&self) -> &str {
        literal(self.parts.first())
    }

    /// The literal after the last expression.
    pub(crate) fn suffix(&self) -> &str {
        literal(self.parts.last())
    }

    /// The longest literal between two expressions; empty if there is none.
    pub(crate) fn longest_middle(&self) -> &str {
        let inner = self.parts.get(1..self.parts.len().saturating_sub(1)).unwrap_or_default();
        inner.iter().map(|part| literal(Some(part))).max_by_key(|literal| literal.len()).unwrap_or_default()
    }

    /// Whether it matches the same texts as `other` for certain.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.parts == other.parts
    }

    /// Whether it stands for all of `text`.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let middle = text.strip_prefix(self.prefix()).and_then(|text| text.strip_suffix(self.suffix()));
        middle.is_some_and(|_| matches_with_ends(&self.parts, text))
    }
}

/// Whether `parts` stand for all of `text`, which is known to begin with their prefix and, after it, to end with their suffix.
pub(crate) fn matches_with_ends(parts: &[Part], text: &str) -> bool {
    let (prefix, suffix) = (literal(parts.first()), literal(parts.last()));
    let text = &text.as_bytes()[prefix.len()..text.len() - suffix.len()];
    let parts = &parts[usize::from(!prefix.is_empty())..parts.len() - usize::from(!suffix.is_empty())];
    if text.len() > MAX_NAME_BYTES {
        return false;
    }
    if let [Part::Expression(expression)] = parts
        && expression.separators == 0
    {
        return expression.is_one_value(text);
    }
    // All places that can be reached, part by part: time is the length of the text for each expression, at most, and that of
    // comparing each literal at each place.
    let mut places = vec![Place { is_reached: false, first_value: false, separators: NONE }; text.len() + 1];
    places[0].is_reached = true;
    for part in parts {
        match part {
            Part::Expression(expression) => expression.advance(text, &mut places),
            Part::Literal(literal) => {
                for at in (0..places.len()).rev() {
                    let is_before = std::mem::take(&mut places[at].is_reached);
                    if is_before && text[at..].starts_with(literal.as_bytes()) {
                        places[at + literal.len()].is_reached = true;
                    }
                }
                if places.iter().all(|place| !place.is_reached) {
                    return false;
                }
            }
        }
    }
    places.last().is_some_and(|place| place.is_reached)
}

fn literal(part: Option<&Part>) -> &str {
    match part {
        Some(Part::Literal(literal)) => literal,
        _ => "",
    }
}

/// Whether a text may stand outside expressions.
fn is_literal(text: &str) -> bool {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '%' if rest.len() > 2 && rest.as_bytes()[1..3].iter().all(u8::is_ascii_hexdigit) => 3,
            '"' | '%' | '\'' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}' | ' ' => return false,
            _ if first.is_control() => return false,
            _ => first.len_utf8(),
        };
        rest = &rest[length..];
    }
    true
}

/// Whether a text is a part of a variable's name between dots.
fn is_name(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let Some(first) = rest.first() {
        rest = match first {
            b'0'..=b'9' | b'A'..=b'Z' | b'_' | b'a'..=b'z' => &rest[1..],
            b'%' if rest.len() > 2 && rest[1..3].iter().all(u8::is_ascii_hexdigit) => &rest[3..],
            _ => return false,
        };
    }
    !text.is_empty()
}

fn is_modifier(text: &str) -> bool {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    is_number && (1..=MAX_MODIFIER_DIGITS).contains(&text.len())
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Template {}

impl Hash for Template {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for Template {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Template {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}
