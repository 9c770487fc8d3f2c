//! What operators see and do on the admin page.

use serde_json::Value;

use crate::support::{EventSource, RedisServer, Tallycast};

/// The next event of `/admin/events`.
fn next(events: &EventSource) -> Value {
    serde_json::from_str(&events.next().data).unwrap()
}

/// The first event for which `found` is true.
fn event_with(events: &EventSource, found: impl Fn(&Value) -> bool) -> Value {
    loop {
        let event = next(events);
        if found(&event) {
            return event;
        }
    }
}

fn alarm<'a>(event: &'a Value, id: &str) -> Option<&'a Value> {
    event["alarms"].as_array().unwrap().iter().find(|alarm| alarm["id"] == id)
}

#[test]
fn lost_broker_is_an_alarm_until_it_is_back() {
    let mut redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let events = EventSource::open(&tallycast, "/admin/events");
    let event = next(&events);
    assert_eq!(event["alarms"], Value::Array(Vec::new()));
    assert_eq!(event["sources"][0]["kind"], "redis");
    assert_eq!(event["sources"][0]["state"], "subscribed");
    redis.kill();
    let event = event_with(&events, |event| alarm(event, "source-down").is_some());
    let raised = alarm(&event, "source-down").unwrap().clone();
    assert_eq!((&raised["severity"], &raised["detail"]), (&"critical".into(), &"default: lost".into()));
    assert_eq!(raised["link"], "operations.md#source-down");
    assert_eq!(event["sources"][0]["state"], "lost");
    assert!(tallycast.get("/metrics").1.contains("tallycast_alarm{id=\"source-down\"} 1"));
    assert_eq!(alarm(&next(&events), "source-down").unwrap()["since"], raised["since"]);
    redis.run();
    let event = event_with(&events, |event| alarm(event, "source-down").is_none());
    // What was lost stays for longer, and comes after what is critical.
    assert_eq!(event["alarms"][0]["id"], "source-gap");
    assert_eq!(event["alarms"][0]["detail"], "Interruptions in the last 5 min: 1");
}
