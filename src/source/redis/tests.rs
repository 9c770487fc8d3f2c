//! The source with a `redis-server` that the test starts.

use std::sync::Arc;

use tallycast_fanout::inbox;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::redis_client::tests::{PATIENCE, Server};
use crate::source::{BrokerState, SourceEvent, SourceStats, Supervisor};

#[tokio::test]
async fn no_event_is_lost_during_a_ping() {
    const EVENTS: u32 = 2000;
    let server = Server::start("pings");
    let mut config = Config::new(server.url()).unwrap();
    // Nearly every event coincides with a ping.
    config.ping_interval = Duration::ZERO;
    let client = config.commands();
    let (_selectors, selectors) = watch::channel(vec![Selector::Exact("n".to_owned())]);
    let (inbox, mut events) = inbox::channel(16, usize::MAX);
    let (state, mut states) = watch::channel(BrokerState::Connecting);
    let (stats, shutdown) = (Arc::<SourceStats>::default(), CancellationToken::new());
    let supervisor = Supervisor::new(inbox).broker_state(state).stats(Arc::clone(&stats)).shutdown(shutdown.clone());
    let commands = config.commands();
    let source = tokio::spawn(supervisor.run(RedisSource::new(config, commands, selectors)));
    timeout(PATIENCE, states.wait_for(|state| *state == BrokerState::Subscribed)).await.unwrap().unwrap();
    let mut publisher = client.dedicated(&redis::AsyncConnectionConfig::new()).await.unwrap();
    for number in 0..EVENTS {
        let _: u32 = redis::cmd("PUBLISH").arg("n").arg(number).query_async(&mut publisher).await.unwrap();
        let event = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        let SourceEvent::Published(event) = event else { panic!("not published: {event:?}") };
        assert_eq!((&*event.channel, event.payload), ("n", number.to_string().into_bytes()));
    }
    shutdown.cancel();
    source.await.unwrap().unwrap();
    assert_eq!((stats.received.get(), stats.gaps.get()), (u64::from(EVENTS), 0));
}
