//! Several sources side by side.

use rustix::process::Signal;

use crate::support::{Event, EventSource, RedisServer, Tallycast, TempDir, command, eventually, post};

fn start(redis: &RedisServer, other: &RedisServer, flags: &[&str]) -> Tallycast {
    let source = format!("other={}", other.url());
    Tallycast::start(redis, &[&["--source", &source], flags].concat())
}

#[test]
fn sources_have_channels_streams_and_states_of_their_own() {
    let (redis, mut other) = (RedisServer::start(), RedisServer::start_durable());
    let routes = ["a.*=/first/*", "other:a.*=/second/*", "stream:s=/s,history=10", "other:stream:s=/t,history=10"];
    let mut flags = vec!["--publish-key", "key"];
    routes.iter().for_each(|route| flags.extend(["--route", route]));
    let tallycast = start(&redis, &other, &flags);
    let first = EventSource::open(&tallycast, "/subscribe/first?topic=/s");
    let second = EventSource::open(&tallycast, "/subscribe/second?topic=/t");
    redis.publish([("a.x", "1"), ("other:a.x", "neither")]);
    other.publish([("a.x", "2")]);
    let data = |stream: &EventSource| stream.next().data;
    assert_eq!((data(&first), data(&second)), ("1".to_owned(), "2".to_owned()));
    // What is published over HTTP goes where the route reads, and its id names the stream of that source.
    let key = [("authorization", "Bearer key")];
    let answer = post(&tallycast, "/publish/t", &key, "3");
    assert!(answer.body.starts_with(r#"{"id":"other%3As:"#), "{}", answer.body);
    assert_eq!(post(&tallycast, "/publish/s", &key, "4").status, 200);
    assert_eq!((data(&first), data(&second)), ("4".to_owned(), "3".to_owned()));
    // One of them is away: the other goes on.
    other.kill();
    let metrics = || tallycast.get("/metrics").1;
    let subscribed = |name: &str, state: u8| format!("tallycast_source_subscribed{{source=\"{name}\"}} {state}.0\n");
    eventually("the loss is reported", || metrics().contains(&subscribed("other", 0)));
    assert!(metrics().contains(&subscribed("default", 1)) && tallycast.get("/readyz").0 == 503);
    redis.publish([("a.y", "5")]);
    assert_eq!(first.next(), Event { id: None, ..Event::message("5") });
    other.run();
    tallycast.until_ready();
    other.publish([("a.y", "6")]);
    assert_eq!(data(&second), "6");
}

#[test]
fn reload_keeps_routes_if_the_sources_have_changed() {
    let (redis, other) = (RedisServer::start(), RedisServer::start());
    let directory = TempDir::new();
    let file = directory.path().join("tallycast.toml");
    let write = |sources: &[String], route: &str| {
        std::fs::write(&file, format!("source = {sources:?}\nroute = [{route:?}]\n")).unwrap();
    };
    let source = |name: &str| format!("{name}={}", other.url());
    write(&[source("b")], "b:x=/one");
    let tallycast = Tallycast::start(&redis, &["--config", &file.display().to_string()]);
    let stream = EventSource::open(&tallycast, "/subscribe/one?topic=/two");
    // The place of `b` would be that of `a`.
    write(&[source("a"), source("b")], "b:x=/two");
    tallycast.signal(Signal::HUP);
    tallycast.wait_for_log("--source has changed, which needs a restart; the routes are unchanged");
    write(&[source("b")], "b:y=/two");
    tallycast.signal(Signal::HUP);
    tallycast.wait_for_log("changed the subscription");
    other.publish([("x", "1"), ("y", "2")]);
    assert_eq!(stream.next().data, "2");
}

#[test]
fn what_needs_redis_says_so_without_it() {
    let check = |flags: &[&str]| {
        let output = crate::support::run(command().arg("check").args(flags));
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    let nats = ["--source", "nats://localhost:1"];
    let (code, text) = check(&nats);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.ends_with(
            "# source (default) nats://localhost:1: subjects: ordered; streams: durable, ordered, positions\n"
        )
    );
    let (code, text) = check(&[&nats[..], &["--totals", "/x=key"]].concat());
    assert_eq!(code, Some(64));
    assert!(text.contains("--totals needs Redis as the default source"), "{text}");
    let mut serve = command();
    serve.arg("serve").args(nats);
    let tallycast = Tallycast::spawn(serve);
    let (status, body) = tallycast.get("/v1/rankings");
    assert!(status == 503 && body.contains("the server has no Redis"), "{body}");
}
