//! Messages that name their sender, on channels and in streams of Redis.

use crate::support::{Event, EventSource, RedisServer, Tallycast};

/// Adds an entry with these fields.
fn add(redis: &RedisServer, key: &str, fields: &[(&str, &str)]) {
    let _: String = redis::cmd("XADD").arg(key).arg("*").arg(fields).query(&mut redis.connect()).unwrap();
}

#[test]
fn message_of_a_channel_with_a_sender_arrives_as_one_of_the_channel() {
    let redis = RedisServer::start();
    let routes = ["--route", "*=/any/*", "--route", "chat:*=/chat/*,event=channel,tally=/count,sender=by"];
    let tallycast = Tallycast::start(&redis, &routes);
    let [everything, chat, counts] = ["/subscribe/any?topic=/chat", "/subscribe/chat/a", "/subscribe/count"]
        .map(|path| EventSource::open(&tallycast, path));
    let payload = "{\"by\": \"ann\",  \"text\":\"hé\"}";
    redis.publish([
        ("tallycast:sent:ann%3A1%20%C3%A9:chat:a", payload),
        // Rejected.
        ("tallycast:sent:ann", "x"),
        ("tallycast:sent:%0a:chat:a", "x"),
        ("tallycast:sent::chat:a", "two"),
        ("chat:a", payload),
    ]);
    let expected = [payload, "two", payload].map(|data| Event::named("chat:a", data));
    for reader in [&everything, &chat] {
        assert_eq!([reader.next(), reader.next(), reader.next()], expected);
    }
    tallycast.until_counter("/tally/sent", 3);
    assert_eq!(tallycast.counter("/decode/rejected"), 2);
    tallycast.wait_for_log("expected tallycast:sent:SENDER:CHANNEL");
    assert_eq!(tallycast.terminate().status.code(), Some(0));
    for reader in [everything, chat] {
        assert_eq!(reader.rest(), []);
    }
    let counted: String = counts.rest().into_iter().map(|event| event.data).collect();
    assert!(counted.contains("\"two\":1"), "{counted}");
}

#[test]
fn entry_with_a_sender_arrives_live_and_from_the_history() {
    let redis = RedisServer::start();
    let routes = ["--route", "stream:chat=/chat/*,history=10,sender=by"];
    let payload = "{\"by\":\"ann\"}";
    let too_long = "a".repeat(257);
    let first = Tallycast::start(&redis, &routes);
    let live = EventSource::open(&first, "/subscribe/chat");
    add(&redis, "chat", &[("sender", "bob"), ("topic", "a"), ("data", "one")]);
    add(&redis, "chat", &[("topic", "a"), ("data", payload)]);
    // Rejected.
    add(&redis, "chat", &[("sender", &too_long), ("topic", "a"), ("data", "x")]);
    add(&redis, "chat", &[("sender", "a\nb"), ("topic", "a"), ("data", "x")]);
    add(&redis, "chat", &[("sender", "bob"), ("topic", "a"), ("data", "two")]);
    let data = |stream: &EventSource| [stream.next().data, stream.next().data, stream.next().data];
    assert_eq!(data(&live), ["one", payload, "two"]);
    assert_eq!(first.counter("/decode/rejected"), 2);
    first.wait_for_log("the sender has more than 256 bytes, or contains a control character");
    assert_eq!(first.terminate().status.code(), Some(0));
    assert!(live.rest().iter().all(|event| event.data.is_empty()));
    let second = Tallycast::start(&redis, &routes);
    let replayed = EventSource::open(&second, "/subscribe/chat/a?lastEventID=earliest");
    assert_eq!(data(&replayed), ["one", payload, "two"]);
    assert_eq!(second.counter("/decode/rejected"), 2);
}
