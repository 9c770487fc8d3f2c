//! `POST /.well-known/mercure`: publishes an update.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tallycast_fanout::Namespace;
use uuid::Uuid;

use super::Hub;
use super::form::{Form, check_content_type};
use super::hub::is_of_the_hub;
use crate::api::refusal::{Refusal, count_outcome};
use crate::api::request;
use crate::publishing::{Publication, UpdateFields};

/// Publishes the update in the body; answers with its id.
pub(super) async fn publish(State(hub): State<Arc<Hub>>, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    let outcome = hub.publish(&uri, &headers, body).await;
    count_outcome(&hub.stats, 1, &outcome);
    match outcome {
        Ok(id) => (StatusCode::OK, [(CONTENT_TYPE, HeaderValue::from_static("text/plain"))], id).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

impl Hub {
    async fn publish(&self, uri: &Uri, headers: &HeaderMap, body: Body) -> Result<String, Refusal> {
        let publisher = self.update_publisher(uri, headers).await?;
        check_content_type(headers)?;
        let body = request::text(headers, body, self.config.max_body).await?;
        let form = Form::parse(&body)?;
        for topic in &form.topics {
            if is_of_the_hub(topic) {
                return Err(Refusal::forbidden(format!(
                    "topic {topic}: the topics of the hub itself cannot be published"
                )));
            }
            if !publisher.may_publish(topic) {
                return Err(Refusal::unauthorized(format!("the token does not allow publishing to {topic}")));
            }
        }
        self.take(&publisher)?;
        let id = form.id.clone().unwrap_or_else(new_id);
        let published = self.publisher.publish(&[self.publication(form, id.clone())?]).await;
        // The reason is in the log; its text names a header that this protocol does not have.
        let unavailable = |_| Refusal::Unavailable("the broker has not confirmed the update; try again".to_owned());
        published.map_err(unavailable)?;
        Ok(id)
    }

    /// An update as an entry of the stream for topics of any form.
    pub(super) fn publication(&self, form: Form, id: String) -> Result<Publication, Refusal> {
        let Form { topics, data, is_private, event, retry, .. } = form;
        let routes = self.routes.borrow();
        let owned = |topic: &&Namespace| routes.owner(topic).is_some();
        if let Some(topic) = topics.iter().find(owned) {
            return Err(Refusal::BadRequest(format!(
                "topic {topic}: another route leads there; publish it with POST /publish{topic}"
            )));
        }
        let mut topics = topics.into_iter();
        let canonical = topics.next().unwrap_or_else(Namespace::root);
        let (source, target) =
            routes.target(&canonical, event.as_deref()).map_err(|error| Refusal::NotFound(error.to_string()))?;
        let alternates = topics.map(|topic| topic.as_str().to_owned()).collect();
        let update = UpdateFields { alternates, id: Some(id), retry, is_private };
        Ok(Publication { source, target, event, data, sender: None, update, idempotency_key: None })
    }
}

/// The id of an update whose publisher gave it none.
pub(in crate::api) fn new_id() -> String {
    Uuid::new_v4().urn().to_string()
}
