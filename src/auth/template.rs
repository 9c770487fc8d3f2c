//! Topics with claims in them, such as `/user/{sub}/**`: rights for tokens of issuers that know nothing of topics.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};
use tallycast_fanout::Topic;

/// The value that stands for a claim while a template is checked.
const SAMPLE: &str = "x";

/// A topic whose segments may be claims in braces. Each claim becomes exactly one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Claim(String),
}

/// The text is not a [`Template`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a topic whose segments may be claims in braces, such as /user/{{sub}}/**")]
pub struct TemplateError;

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let path = text.strip_prefix('/').ok_or(TemplateError)?;
        let segment = |text: &str| match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            Some(claim) if !claim.is_empty() && !claim.contains(['{', '}']) => Ok(Segment::Claim(claim.to_owned())),
            None if !text.contains(['{', '}']) => Ok(Segment::Literal(text.to_owned())),
            _ => Err(TemplateError),
        };
        let template = Self(path.split('/').map(segment).collect::<Result<_, _>>()?);
        // Whatever the claims are, the rest is a topic.
        template.topic(&mut |_| Some(SAMPLE)).ok_or(TemplateError)?;
        Ok(template)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(formatter, "/{text}"),
            Segment::Claim(name) => write!(formatter, "/{{{name}}}"),
        })
    }
}

impl Template {
    /// The topics for a token with `claims`, at most `max`: one for each value of a claim that is a list. None if a claim is
    /// missing, or cannot be one segment.
    pub fn topics(&self, claims: &Map<String, Value>, max: usize) -> Vec<Topic> {
        let names = self.0.iter().filter_map(|segment| match segment {
            Segment::Claim(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        });
        let values: Vec<Vec<String>> = names.map(|name| segments_of(claims, name)).collect();
        let mut chosen = vec![0; values.len()];
        let mut topics = Vec::new();
        if values.iter().any(Vec::is_empty) {
            return topics;
        }
        // Every combination of values, like the digits of a counter.
        while topics.len() < max {
            let mut picked = values.iter().zip(&chosen).map(|(values, index)| values[*index].as_str());
            topics.extend(self.topic(&mut |_| picked.next()));
            let Some(place) = (0..chosen.len()).rev().find(|&place| chosen[place] + 1 < values[place].len()) else {
                break;
            };
            chosen[place] += 1;
            chosen[place + 1..].fill(0);
        }
        topics
    }

    /// The topic with the values of `claim` in the order of the segments.
    fn topic<'v>(&self, claim: &mut dyn FnMut(&str) -> Option<&'v str>) -> Option<Topic> {
        let mut text = String::new();
        for segment in &self.0 {
            text.push('/');
            text.push_str(match segment {
                Segment::Literal(literal) => literal,
                Segment::Claim(name) => claim(name)?,
            });
        }
        text.parse().ok()
    }
}

/// The values of a claim that can be a segment. A name with dots reaches into objects: `org.id`.
fn segments_of(claims: &Map<String, Value>, name: &str) -> Vec<String> {
    let value = claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        rest.split('.').try_fold(claims.get(first)?, |value, name| value.get(name))
    });
    match value {
        Some(Value::Array(values)) => values.iter().filter_map(segment).collect(),
        Some(value) => segment(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// A value as one segment, if it can be one: nothing in it may end the segment or match others.
fn segment(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        _ => return None,
    };
    let is_segment = !text.is_empty()
        && !matches!(&*text, "." | "..")
        && !text.contains(|character: char| matches!(character, '/' | '*') || character.is_control());
    is_segment.then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn topics(template: &str, claims: &Value) -> Vec<String> {
        let template: Template = template.parse().unwrap();
        template.topics(claims.as_object().unwrap(), 8).iter().map(Topic::to_string).collect()
    }

    #[test]
    fn claims_become_segments() {
        let claims = json!({"sub": "ann", "id": 42, "org": {"id": "acme"}, "groups": ["a", "b"], "rooms": ["1", "2"]});
        assert_eq!(topics("/user/{sub}/**", &claims), ["/user/ann"]);
        assert_eq!(topics("/user/{id}", &claims), ["/user/42"]);
        assert_eq!(topics("/org/{org.id}/*", &claims), ["/org/acme/*"]);
        assert_eq!(topics("/{groups}/{rooms}", &claims), ["/a/1", "/a/2", "/b/1", "/b/2"]);
        assert_eq!(topics("/news", &claims), ["/news"]);
        assert!(topics("/user/{name}", &claims).is_empty());
    }

    #[test]
    fn combinations_are_bounded() {
        let many: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        assert_eq!(topics("/{a}/{a}/{a}", &json!({"a": many})).len(), 8);
    }

    #[test]
    fn invalid_templates_are_refused() {
        for text in
            ["", "user", "/user/{", "/user/{}", "/user/a{sub}", "/user/{sub}x", "/{a{b}}", "/a*", "//", "/**/{sub}"]
        {
            assert_eq!(text.parse::<Template>(), Err(TemplateError), "{text}");
        }
        assert_eq!("/user/{sub}/**".parse::<Template>().unwrap().to_string(), "/user/{sub}/**");
    }

    proptest! {
        /// Whatever a claim holds, the topic is below `/user/<one segment>`, and that segment is the claim.
        #[test]
        fn claim_never_widens_a_topic(sub in "[a-z/*.{}\\[\\]%,~ \u{0}\u{1}\n\u{85}é]{0,8}|[*/.]{0,4}|(.|\n){0,6}") {
            for text in ["/user/{sub}/**", "/user/{sub}", "/user/{sub}/*"] {
                for topic in text.parse::<Template>().unwrap().topics(json!({"sub": sub}).as_object().unwrap(), 8) {
                    let prefix = topic.literal_prefix();
                    let segments: Vec<&str> = prefix.segments().collect();
                    prop_assert_eq!(segments, ["user", sub.as_str()]);
                }
            }
        }
    }
}
