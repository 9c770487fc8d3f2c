//! `POST /update_subscriptions`: changes the topics of a consumer, whichever node its streams are on.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value};
use tallycast_fanout::Topic;

use super::flavour::{ERROR, Flavour, error_json};
use super::{PREFIX, Unifrost, topic};
use crate::api::refusal::Refusal;
use crate::api::request::text;
use crate::responses::{JSON, line, with_type};
use crate::routes::MAX_BODY_BYTES;
use crate::sessions::{Change, SessionError, SessionGrant, SessionMessage, SessionName, TopicsChange};

/// Errors about topics that one request sends into streams; further ones are left out.
const MAX_ERRORS: usize = 64;

/// The body of a request.
#[derive(Deserialize)]
struct Update {
    #[serde(default)]
    add: Option<Vec<String>>,
    #[serde(default)]
    remove: Option<Vec<String>>,
    /// The id of the consumer, under the name that its generation has for it. Others are ignored.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// A topic that a consumer does not get, and why.
type Failure = (String, String);

/// Changes the topics of a consumer; answers with its id.
pub(super) async fn update(
    State(unifrost): State<Unifrost>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let flavour = unifrost.config.flavour;
    match unifrost.update(&method, &uri, &headers, body).await {
        Ok(id) => with_type(JSON, Value::from_iter([(flavour.id_field(), id)]).to_string()),
        Err(refusal) if flavour == Flavour::Gochan => {
            let json = error_json(&refusal.line(), None);
            let (mut parts, _) = refusal.into_response().into_parts();
            parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
            Response::from_parts(parts, json.into())
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// The answer to another method.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let text = format!("{method} is not allowed for {}; use POST", uri.path());
    let mut response = line(StatusCode::METHOD_NOT_ALLOWED, text);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

impl Unifrost {
    async fn update(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: Body) -> Result<String, Refusal> {
        let body = text(headers, body, MAX_BODY_BYTES).await?;
        let update: Update = serde_json::from_str(&body)
            .map_err(|error| Refusal::BadRequest(format!("bad request body: expected a JSON object: {error}")))?;
        let (consumer, field) = (self.config.flavour.consumer(), self.config.flavour.id_field());
        let id = update.others.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        if id.is_empty() {
            return Err(Refusal::BadRequest(format!("missing {consumer} id; expected the member {field:?}")));
        }
        let (add, remove) = (update.add.unwrap_or_default(), update.remove.unwrap_or_default());
        let max = self.streams.sessions.config().max_topics;
        if add.len().max(remove.len()) > max {
            return Err(Refusal::BadRequest(format!("expected at most {max} topics, found more")));
        }
        let client = self.client(method, uri, headers).await?;
        // What cannot be a name is no consumer's.
        let name = format!("{PREFIX}{}", client.name(&id)).parse::<SessionName>();
        let name = name.map_err(|_| self.unknown_consumer())?;
        let session = self.streams.sessions.get(&name).await?.ok_or_else(|| self.unknown_consumer())?;
        if session.grant.is_expired() {
            return Err(Refusal::unauthorized(format!("the grant of the {consumer} has expired")));
        }
        let grant = if client.has_rights { &client.grant } else { &session.grant };
        let (mut topics, mut failures) = (Vec::new(), Vec::new());
        for text in add {
            match permitted(&text, grant) {
                Ok(topic) => topics.push(topic),
                Err(reason) => failures.push((text, reason)),
            }
        }
        // Before 0.1 there is no place for errors but the answer.
        if self.config.flavour != Flavour::Unifrost01
            && let Some((text, reason)) = failures.first()
        {
            return Err(Refusal::BadRequest(format!("topic {text:?}: {reason}")));
        }
        self.change(&name, topics, &remove).await?;
        self.report(&name, failures).await;
        Ok(id)
    }

    async fn change(&self, name: &SessionName, add: Vec<Topic>, remove: &[String]) -> Result<(), Refusal> {
        // A backend may have added a topic with those below it.
        let both = |namespace: tallycast_fanout::Namespace| [Topic::exact(namespace.clone()), namespace.into()];
        let remove: Vec<Topic> = remove.iter().filter_map(|text| topic::namespace(text).ok()).flat_map(both).collect();
        if add.is_empty() && remove.is_empty() {
            return Ok(());
        }
        let change = Change { topics: TopicsChange::Change { add, remove }, ..Change::default() };
        match self.streams.sessions.change(name, &change).await {
            Ok(_) => Ok(()),
            Err(SessionError::Unknown(_)) => Err(self.unknown_consumer()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends errors about topics into the streams of a consumer.
    async fn report(&self, name: &SessionName, failures: Vec<Failure>) {
        for (topic, reason) in failures.into_iter().take(MAX_ERRORS) {
            let data = error_json(&reason, Some(&topic));
            let error = SessionMessage { namespace: None, event: Some(ERROR.to_owned()), data };
            match self.streams.sessions.send(name, &error).await {
                Ok(reached) if reached.waiting.is_empty() => {}
                // The change itself is done. Each further one would take as long.
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// The topic of a text, if a grant allows it.
fn permitted(text: &str, grant: &SessionGrant) -> Result<Topic, String> {
    let topic = topic::topic(text).map_err(|error| error.to_string())?;
    if grant.may_read(&topic) { Ok(topic) } else { Err("not allowed to read it".to_owned()) }
}
