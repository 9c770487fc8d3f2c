//! The messages that clients may send: changes of their topics, and new tokens.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use serde_json::value::RawValue;
use tallycast_fanout::{Start, Topic, TopicError, Topics};

use super::policy::Token;

/// The size of a request id, as JSON, in bytes.
const MAX_ID_BYTES: usize = 64;

/// What a client calls a command, so that it finds the answer: a JSON string or number. The answer repeats it unchanged.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct RequestId(Box<RawValue>);

impl RequestId {
    /// Reads an id; `None` without one, that is `null`.
    fn read(json: &RawValue) -> Result<Option<Self>, CommandError> {
        match json.get().as_bytes() {
            b"null" => Ok(None),
            [b'"' | b'-' | b'0'..=b'9', ..] if json.get().len() <= MAX_ID_BYTES => Ok(Some(Self(json.to_owned()))),
            _ => Err(CommandError::Id),
        }
    }

    /// The id of a message that is not followed, if it is a JSON object with a valid one.
    pub(crate) fn of_refused(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct WithId<'a> {
            #[serde(borrow)]
            id: Option<&'a RawValue>,
        }
        Self::read(serde_json::from_str::<WithId<'_>>(text).ok()?.id?).ok()?
    }
}

/// A message that is understood.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: Option<RequestId>,
    /// All topics that the client asks for.
    pub(crate) topics: Topics,
    /// Whether it names topics, and not only a token.
    pub(crate) names_topics: bool,
    /// The token that it goes on with.
    pub(crate) token: Option<Token>,
    /// What it wants first of topics that it did not read before.
    pub(crate) start: Option<Start>,
}

/// Why a message is not understood, or cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// It is not a command.
    #[error(r#"expected {{"subscribe": ["/topic", ...]}} or {{"unsubscribe": ["/topic", ...]}}: {0}"#)]
    Json(#[from] serde_json::Error),
    /// It has neither field.
    #[error(r#"expected {{"subscribe": ["/topic", ...]}} or {{"unsubscribe": ["/topic", ...]}}"#)]
    Nothing,
    /// Its id is something else, or too long.
    #[error("expected an id that is a string or a number, of at most {MAX_ID_BYTES} bytes as JSON")]
    Id,
    /// A topic is not valid.
    #[error("bad topic {0:?}: {1}")]
    Topic(String, TopicError),
    /// It unsubscribes from a topic that the client does not read.
    #[error("not subscribed to {0}; subscribed to [{1}]")]
    NotSubscribed(Topic, Topics),
    /// A list has too many, or there would be too many.
    #[error(transparent)]
    Count(TopicError),
}

/// The topics that a client that reads `topics` asks for with the message `text`: at most `max_topics`, or as many as it reads
/// already. With both lists they change in one step, and a token with them.
pub(crate) fn apply_command(text: &str, topics: &Topics, max_topics: usize) -> Result<Request, CommandError> {
    let max_topics = max_topics.max(topics.len());
    let mut invalid = None;
    let mut json = serde_json::Deserializer::from_str(text);
    let command = json.deserialize_map(CommandVisitor { max_topics, invalid: &mut invalid });
    let command = command.and_then(|command| json.end().map(|()| command));
    // What stopped the parser is in the words of this program.
    let Command { id, subscribe, unsubscribe, after, snapshot, token } =
        command.map_err(|error| invalid.unwrap_or(CommandError::Json(error)))?;
    let names_topics = subscribe.is_some() || unsubscribe.is_some();
    if !names_topics {
        let Some(token) = token else { return Err(CommandError::Nothing) };
        return Ok(Request { id, topics: topics.clone(), names_topics, token: Some(token), start: None });
    }
    let mut wanted: BTreeSet<Topic> = topics.iter().collect();
    for topic in unsubscribe.unwrap_or_default() {
        if !wanted.remove(&topic) {
            return Err(CommandError::NotSubscribed(topic, topics.clone()));
        }
    }
    wanted.extend(subscribe.unwrap_or_default());
    if wanted.is_empty() {
        return Ok(Request { id, topics: Topics::none(), names_topics, token, start: None });
    }
    if wanted.len() > max_topics {
        return Err(CommandError::Count(TopicError::TooManyTopics(max_topics)));
    }
    let topics = Topics::new(wanted.into_iter().collect()).map_err(CommandError::Count)?;
    let start = after.map(Start::After).or_else(|| snapshot.unwrap_or_default().then_some(Start::LastValues));
    Ok(Request { id, topics, names_topics, token, start })
}

/// A message of a client.
struct Command {
    id: Option<RequestId>,
    subscribe: Option<Vec<Topic>>,
    unsubscribe: Option<Vec<Topic>>,
    after: Option<Box<str>>,
    snapshot: Option<bool>,
    token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Id,
    Subscribe,
    Unsubscribe,
    After,
    Snapshot,
    Token,
}

/// Reads a [`Command`], and stops at an invalid id, at the first invalid topic or at the one that is too many.
struct CommandVisitor<'a> {
    max_topics: usize,
    /// Why it stopped.
    invalid: &'a mut Option<CommandError>,
}

impl<'de> Visitor<'de> for CommandVisitor<'_> {
    type Value = Command;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Command, A::Error> {
        let Self { max_topics, invalid } = self;
        let (mut id, mut subscribe, mut unsubscribe) = (None, None, None);
        let (mut after, mut snapshot, mut token) = (None, None, None);
        while let Some(field) = map.next_key()? {
            let (list, name) = match field {
                Field::Id if id.is_some() => return Err(A::Error::duplicate_field("id")),
                Field::Id => {
                    id = RequestId::read(map.next_value()?).map_err(|error| {
                        *invalid = Some(error);
                        A::Error::custom("invalid id")
                    })?;
                    continue;
                }
                Field::After if after.is_some() => return Err(A::Error::duplicate_field("after")),
                Field::After => {
                    after = map.next_value()?;
                    continue;
                }
                Field::Snapshot if snapshot.is_some() => return Err(A::Error::duplicate_field("snapshot")),
                Field::Snapshot => {
                    snapshot = map.next_value()?;
                    continue;
                }
                Field::Token if token.is_some() => return Err(A::Error::duplicate_field("token")),
                Field::Token => {
                    token = map.next_value::<Option<Box<str>>>()?.map(Token::from);
                    continue;
                }
                Field::Subscribe => (&mut subscribe, "subscribe"),
                Field::Unsubscribe => (&mut unsubscribe, "unsubscribe"),
            };
            if list.is_some() {
                return Err(A::Error::duplicate_field(name));
            }
            *list = map.next_value_seed(TopicList { max_topics, invalid: &mut *invalid })?;
        }
        Ok(Command { id, subscribe, unsubscribe, after, snapshot, token })
    }
}

/// Reads a list of topics, or `null`; see [`CommandVisitor`].
struct TopicList<'a> {
    max_topics: usize,
    invalid: &'a mut Option<CommandError>,
}

impl<'de> DeserializeSeed<'de> for TopicList<'_> {
    type Value = Option<Vec<Topic>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TopicList<'_> {
    type Value = Option<Vec<Topic>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of topics")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut topics = Vec::new();
        while let Some(text) = list.next_element::<String>()? {
            let topic = if topics.len() == self.max_topics {
                Err(CommandError::Count(TopicError::TooManyTopics(self.max_topics)))
            } else {
                text.parse().map_err(|error| CommandError::Topic(text, error))
            };
            topics.push(topic.map_err(|error| {
                *self.invalid = Some(error);
                A::Error::custom("invalid topics")
            })?);
        }
        Ok(Some(topics))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, topics: &[&str]) -> String {
        let topics = Topics::new(topics.iter().map(|topic| topic.parse().unwrap()).collect()).unwrap();
        apply_command(text, &topics, 3).map_or_else(|error| error.to_string(), |request| request.topics.to_string())
    }

    #[test]
    fn topics_are_added_and_removed() {
        assert_eq!(of(r#"{"subscribe": ["/raw", "/eps"]}"#, &["/eps"]), "/eps,/raw");
        assert_eq!(of(r#"{"unsubscribe": ["/eps"]}"#, &["/eps", "/raw"]), "/raw");
        assert_eq!(of(r#"{"unsubscribe": ["/eps"], "subscribe": ["/details/*"]}"#, &["/eps"]), "/details/*");
        assert_eq!(of(r#"{"unsubscribe": ["/eps"]}"#, &["/eps"]), "");
        assert_eq!(of(r#"{"subscribe": []}"#, &["/eps"]), "/eps");
    }

    #[test]
    fn errors_name_the_mistake() {
        let expected = r#"expected {"subscribe": ["/topic", ...]} or {"unsubscribe": ["/topic", ...]}"#;
        assert_eq!(of("{}", &["/"]), expected);
        assert_eq!(of("hello", &["/"]), format!("{expected}: expected value at line 1 column 1"));
        assert_eq!(
            of(r#"{"publish": 1}"#, &["/"]),
            format!(
                "{expected}: unknown field `publish`, expected one of `id`, `subscribe`, `unsubscribe`, `after`, `snapshot`, `token` at line 1 column 10"
            )
        );
        assert_eq!(of(r#"{"subscribe": ["raw"]}"#, &["/"]), "bad topic \"raw\": a namespace must start with '/'");
        assert_eq!(of(r#"{"unsubscribe": ["/raw"]}"#, &["/"]), "not subscribed to /raw; subscribed to [/]");
        assert_eq!(of(r#"{"subscribe": ["/0", "/1", "/2"]}"#, &["/"]), "expected at most 3 topics, found more");
    }

    #[test]
    fn token_comes_alone_or_with_topics_and_is_not_shown() {
        let topics = Topics::new(vec!["/a".parse().unwrap()]).unwrap();
        let read = |text: &str| apply_command(text, &topics, 3).map_err(|error| error.to_string());
        let alone = read(r#"{"token": "secret", "id": 1}"#).unwrap();
        assert!(alone.token.is_some() && !alone.names_topics && alone.topics == topics);
        assert!(!format!("{alone:?}").contains("secret"));
        let both = read(r#"{"token": "secret", "subscribe": ["/b"]}"#).unwrap();
        assert!(both.token.is_some() && both.names_topics);
        assert_eq!(both.topics.to_string(), "/a,/b");
        assert!(read(r#"{"token": null}"#).unwrap_err().starts_with("expected {"));
        let error = read(r#"{"token": ["secret"]}"#).unwrap_err();
        assert!(error.contains("invalid type: sequence") && !error.contains("secret"), "{error}");
        let error = read(r#"{"token": "secret", "token": "secret"}"#).unwrap_err();
        assert!(error.contains("duplicate field `token`") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn more_topics_than_the_limit_may_become_fewer() {
        let topics = ["/0", "/1", "/2", "/3", "/4"];
        assert_eq!(of(r#"{"unsubscribe": ["/0"]}"#, &topics), "/1,/2,/3,/4");
        assert_eq!(of(r#"{"unsubscribe": ["/0", "/1", "/2", "/3"], "subscribe": ["/5"]}"#, &topics), "/4,/5");
        assert_eq!(of(r#"{"subscribe": ["/5"]}"#, &topics), "expected at most 5 topics, found more");
    }

    #[test]
    fn id_is_a_short_string_or_a_number() {
        let topics = Topics::none();
        let id = |id: &str| {
            let text = format!("{{\"subscribe\": [\"/a\"], \"id\": {id} }}");
            let request = apply_command(&text, &topics, 3).map_err(|error| error.to_string())?;
            let refused = RequestId::of_refused(&text).map(|id| id.0.get().to_owned());
            let id = request.id.map(|id| id.0.get().to_owned());
            assert_eq!(id, refused);
            Ok(id)
        };
        let longest = format!("\"{}\"", "x".repeat(MAX_ID_BYTES - 2));
        for valid in ["7", "-1.50e3", "12345678901234567890123", r#""a\u00e9""#, "\"\"", &longest] {
            assert_eq!(id(valid), Ok(Some(valid.to_owned())));
        }
        assert_eq!(id("null"), Ok(None));
        let error = Err("expected an id that is a string or a number, of at most 64 bytes as JSON".to_owned());
        for invalid in ["[]", "{}", "true", &format!("\"{}\"", "x".repeat(MAX_ID_BYTES - 1)), &"1".repeat(65)] {
            assert_eq!(id(invalid), error, "{invalid}");
        }
        assert!(id("1, \"id\": 2").unwrap_err().contains("duplicate field `id`"));
    }

    #[test]
    fn parsing_stops_at_the_limit() {
        for field in ["subscribe", "unsubscribe"] {
            let list = |rest: &str| format!("{{\"{field}\": [{}{rest}", "\"/a\",".repeat(3));
            // Neither the topic that is one too many nor what follows is read to its end.
            assert_eq!(of(&list("\"b\", not JSON"), &["/a"]), "expected at most 3 topics, found more");
        }
        assert_eq!(of("{\"subscribe\": [\"b\", not JSON", &["/a"]), "bad topic \"b\": a namespace must start with '/'");
    }
}
