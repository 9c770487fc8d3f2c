//! A broker that starts late, dies, freezes, refuses access or uses TLS.

use redis::Commands;

use crate::support::{Certificate, Event, EventSource, RedisServer, Tallycast, command, eventually, run};

#[test]
fn streams_opened_before_redis_starts_receive_events() {
    let mut redis = RedisServer::absent();
    let tallycast = Tallycast::start_unready(&redis.url(), &[]);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    tallycast.wait_for_log("cannot subscribe; retrying");
    redis.run();
    tallycast.until_ready();
    redis.publish_scores(["1F602"]);
    assert_eq!(raw.next(), Event::message("1F602"));
    // Logged once, regardless of the number of attempts.
    assert_eq!(tallycast.log().matches("cannot subscribe").count(), 1);
    // The time before the first subscription is not a gap.
    assert_eq!(tallycast.counter("/source/gaps"), 0);
}

#[test]
fn each_subscription_error_is_logged_once() {
    let mut redis = RedisServer::absent();
    let tallycast = Tallycast::start_unready(&redis.url(), &[]);
    tallycast.wait_for_log("Connection refused");
    // It starts and requires a password that the URL lacks: a different error, which must be logged as well.
    redis.require_password("secret");
    redis.run();
    tallycast.wait_for_log("NOAUTH");
    // Time for several more attempts, which are at most 0.8 s apart.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let log = tallycast.log();
    assert_eq!([log.matches("Connection refused").count(), log.matches("NOAUTH").count()], [1, 1], "{log}");
}

#[test]
fn clients_stay_connected_while_redis_restarts() {
    let mut redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    let eps = EventSource::open_http2(&tallycast, "/subscribe/eps");
    redis.publish_scores(["0"]);
    assert_eq!(raw.next(), Event::message("0"));
    for times in 1..=3 {
        redis.kill();
        eventually("the lost connection is detected", || tallycast.get("/readyz").0 == 503);
        redis.run();
        tallycast.until_ready();
        let id = times.to_string();
        redis.publish_scores([&id]);
        assert_eq!(raw.next(), Event::message(&id));
        assert_eq!(tallycast.counter("/source/gaps"), times);
        assert_eq!(tallycast.counter("/source/subscriptions"), times + 1);
    }
    assert!(tallycast.counter("/source/gap_milliseconds") > 0);
    tallycast.wait_for_log("subscription lost; events are lost until it is restored");
    tallycast.wait_for_log("subscription restored");
    assert_eq!(tallycast.counter("/hub/connected"), 2);
    tallycast.until_counter("/tally/sent", 4);
    tallycast.terminate();
    assert_eq!(crate::contract::sum_windows(eps.rest().into_iter().map(|event| event.data)).len(), 4);
}

#[test]
fn subscription_closed_by_redis_is_renewed() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    let killed: u32 = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).query(&mut redis.connect()).unwrap();
    assert_eq!(killed, 1);
    tallycast.until_counter("/source/gaps", 1);
    redis.publish_scores(["1F602"]);
    assert_eq!(raw.next(), Event::message("1F602"));
}

#[test]
fn frozen_redis_is_detected_by_ping() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--redis-ping", "100ms", "--redis-timeout", "300ms"]);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    redis.freeze();
    eventually("the lost connection is detected", || tallycast.get("/readyz").0 == 503);
    assert_eq!(tallycast.json("/admin/status.json")["status"], "DEGRADED");
    redis.thaw();
    tallycast.until_ready();
    tallycast.wait_for_log("no answer within 300ms");
    redis.publish_scores(["1F602"]);
    assert_eq!(raw.next(), Event::message("1F602"));
    // A busy machine can cause more than one.
    assert!(tallycast.counter("/source/gaps") >= 1);
}

#[test]
fn silent_redis_that_answers_pings_stays_subscribed() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--redis-ping", "5ms"]);
    // Redis counts the calls of each command.
    eventually("Redis received many pings", || {
        let statistics: String = redis::cmd("INFO").arg("commandstats").query(&mut redis.connect()).unwrap();
        let calls = statistics.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls="));
        calls.is_some_and(|calls| calls.split(',').next().unwrap().parse::<u32>().unwrap() > 20)
    });
    assert_eq!(tallycast.counter("/source/gaps"), 0);
}

#[test]
fn missing_required_broker_exits_with_one_line() {
    let redis = RedisServer::absent();
    let output = run(command()
        .args(["--require-broker", "--port", "0", "--address", "127.0.0.1", "--log", "error", "--redis-url"])
        .arg(redis.url_with_password(Some("hunter2"))));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let masked = redis.url_with_password(Some("***"));
    assert!(stderr.contains(&format!("cannot subscribe at {masked}: ")), "{stderr}");
    assert!(stderr.contains("refused"), "{stderr}");
    assert!(output.stdout.is_empty());
}

#[test]
fn required_broker_may_restart_after_startup() {
    let mut redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--require-broker"]);
    redis.kill();
    eventually("the lost connection is detected", || tallycast.get("/readyz").0 == 503);
    redis.run();
    tallycast.until_ready();
}

#[test]
fn password_in_url_authenticates() {
    let redis = RedisServer::start_with_password("correct-horse");
    let tallycast = Tallycast::start(&redis, &["--log", "trace", "--app-env", "staging", "--status-interval", "10ms"]);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    redis.publish_scores(["1F602"]);
    assert_eq!(raw.next(), Event::message("1F602"));
    eventually("the status report authenticates as well", || {
        let reports: usize = redis.connect().hlen("admin_stream_status").unwrap();
        reports == 1
    });
    let ended = tallycast.terminate();
    assert!(!ended.log.contains("correct-horse"), "{}", ended.log);
}

#[test]
fn wrong_password_is_reported_but_never_printed() {
    let redis = RedisServer::start_with_password("correct-horse");
    let url = redis.url_with_password(Some("battery-staple"));
    let tallycast = Tallycast::start_unready(&url, &["--log", "trace"]);
    let line = tallycast.wait_for_log("cannot subscribe; retrying");
    assert!(line.contains(&redis.url_with_password(Some("***"))), "{line}");
    assert_eq!(tallycast.get("/readyz").0, 503);
    let pages = ["/admin/status.json", "/admin/counters.json", "/readyz"].map(|path| tallycast.get(path).1);
    let ended = tallycast.terminate();
    for text in pages.iter().chain([&ended.log]) {
        assert!(!text.contains("battery-staple"), "{text}");
    }
}

#[test]
fn database_and_user_in_url_are_used() {
    let redis = RedisServer::start();
    let () = redis::cmd("ACL")
        .arg(&["SETUSER", "streamer", "on", ">secret", "~*", "&*", "+@all"])
        .query(&mut redis.connect())
        .unwrap();
    let url = redis.url().replace("redis://", "redis://streamer:secret@") + "3";
    let tallycast =
        Tallycast::start_unready(&url, &["--app-env", "staging", "--instance", "a", "--status-interval", "10ms"]);
    tallycast.until_ready();
    let mut connection = redis.connect();
    let () = redis::cmd("SELECT").arg(3).query(&mut connection).unwrap();
    eventually("the status report is in that database", || {
        connection.hexists("admin_stream_status", "rust-staging-a").unwrap()
    });
    let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut connection).unwrap();
    let subscriber = clients.lines().find(|line| line.contains("psub=2")).unwrap();
    assert!(subscriber.contains("user=streamer"), "{subscriber}");
}

#[test]
fn self_signed_redis_certificate_is_accepted_if_insecure() {
    let certificate = Certificate::self_signed();
    let redis = RedisServer::start_with_tls(&certificate);
    let tallycast = Tallycast::start(&redis, &[]);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    redis.publish_scores(["1F602"]);
    assert_eq!(raw.next(), Event::message("1F602"));
}

#[test]
fn self_signed_redis_certificate_is_rejected_by_default() {
    let certificate = Certificate::self_signed();
    let redis = RedisServer::start_with_tls(&certificate);
    let tallycast = Tallycast::start_unready(&redis.url().replace("#insecure", ""), &[]);
    let line = tallycast.wait_for_log("cannot subscribe; retrying");
    assert!(line.to_lowercase().contains("certificate"), "{line}");
    assert_eq!(tallycast.get("/readyz").0, 503);
}
