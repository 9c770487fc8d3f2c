//! Publishes when subscriptions begin and end: as private messages of `/subscriptions/<topic>`, and as updates of the Mercure protocol.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tallycast_fanout::{Namespace, NamespaceError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::mercure;
use super::native::namespace_of;
use crate::decode::Routes;
use crate::presence::{PresenceEvent, PresenceEvents};
use crate::publishing::{Publication, Publisher, UpdateFields};
use crate::rate_limited_log::RateLimitedLog;

/// Events that are published at once.
const BATCH: usize = 64;
/// The pauses between attempts to publish.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Publishes `events` until there are no more. Each is published once, however often Redis goes away: while it does, the events wait,
/// but not after the `shutdown`.
pub async fn run(
    mut events: PresenceEvents,
    routes: watch::Receiver<Routes>,
    publisher: Publisher,
    with_mercure: bool,
    shutdown: CancellationToken,
) {
    let mut log = RateLimitedLog::new();
    loop {
        // This also says that those before are published.
        let batch = events.next(BATCH).await;
        if batch.is_empty() {
            return;
        }
        let publications = {
            let routes = routes.borrow();
            batch.iter().flat_map(|event| publications(event, &routes, with_mercure)).collect::<Vec<_>>()
        };
        let pauses = ExponentialBuilder::new().with_min_delay(FIRST_PAUSE).with_max_delay(LONGEST_PAUSE).with_jitter();
        let mut pauses = pauses.without_max_times().build();
        while let Err(error) = publisher.publish(&publications).await {
            if error.is_final() {
                log.log(|suppressed| {
                    tracing::warn!(%error, suppressed, "events of subscriptions are lost: the broker cannot take them");
                });
                break;
            }
            log.log(
                |suppressed| tracing::warn!(%error, suppressed, "cannot publish events of subscriptions; retrying"),
            );
            let pause = tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE));
            if shutdown.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }
}

/// What is published for an event. Nothing where no route leads.
fn publications(event: &PresenceEvent, routes: &Routes, with_mercure: bool) -> Vec<Publication> {
    let mut publications = Vec::new();
    let key = |contract: &str| event.idempotency_key().map(|key| format!("{contract}:{key}"));
    if let Ok(data) = event.json() {
        let namespace = namespace_of(event.topic());
        publications.extend(publication(routes, namespace, Some(event.name()), data, key("native")));
    }
    if let PresenceEvent::Subscription { subscription, active, .. } = event
        && with_mercure
        && let Ok((topic, data)) = mercure::subscription_update(subscription, *active)
    {
        publications.extend(publication(routes, Namespace::from_topic(&topic), None, data, key("mercure")));
    }
    publications
}

fn publication(
    routes: &Routes,
    namespace: Result<Namespace, NamespaceError>,
    event: Option<&str>,
    data: String,
    idempotency_key: Option<String>,
) -> Option<Publication> {
    // A topic that is almost too long for a namespace has no events.
    let (source, target) = routes.target(&namespace.ok()?, event).ok()?;
    let update = UpdateFields { is_private: true, id: Some(mercure::new_id()), ..UpdateFields::default() };
    Some(Publication { source, target, event: event.map(str::to_owned), data, sender: None, update, idempotency_key })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::decode::Target;

    #[test]
    fn count_is_published_where_a_route_leads() {
        let event = PresenceEvent::Count { topic: "https://e.com/a b".into(), node: "n".into(), count: 7 };
        let routes = |texts: &[&str]| Routes::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap();
        let published = publications(&event, &routes(&["a=/a", "stream:m=*"]), true).remove(0);
        let topic = Some("/subscriptions/https%3A%2F%2Fe.com%2Fa+b".to_owned());
        assert_eq!(published.target, Target::Stream { key: Arc::from("m"), topic });
        assert_eq!(
            (published.event.as_deref(), &*published.data),
            (Some("count"), r#"{"topic":"https://e.com/a b","count":7,"node":"n"}"#)
        );
        assert!(published.update.is_private && published.idempotency_key.is_none());
        assert!(publications(&event, &routes(&["a=/a"]), true).is_empty());
    }
}
