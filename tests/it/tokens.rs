//! Tokens made by libraries that are not ours: every algorithm, every way to be wrong, and what a token may read and publish.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::{
    Answer, Event, EventSource, Keys, Library, RedisServer, SECRET, Tallycast, WebSocket, command, post, read, run,
    token,
};

/// Name of the algorithm, and of its key.
const ALGORITHMS: [(&str, &str); 12] = [
    ("HS256", "secret"),
    ("HS384", "secret"),
    ("HS512", "secret"),
    ("RS256", "rsa"),
    ("RS384", "rsa"),
    ("RS512", "rsa"),
    ("PS256", "rsa"),
    ("PS384", "rsa"),
    ("PS512", "rsa"),
    ("ES256", "p256"),
    ("ES384", "p384"),
    ("EdDSA", "ed25519"),
];
/// Long enough for every hash, so that PyJWT does not warn.
const LONG_SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn secret(options: &str) -> String {
    format!("HS256={SECRET}{options}")
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn open(tallycast: &Tallycast, path: &str, token: &str) -> EventSource {
    let headers = [("authorization".parse().unwrap(), bearer(token).parse().unwrap())].into_iter().collect();
    EventSource::open_with(reqwest::Client::builder().default_headers(headers), tallycast, path)
}

#[test]
fn tokens_of_other_libraries_are_accepted_by_every_algorithm() {
    let keys = Keys::new();
    let redis = RedisServer::start();
    let mut flags = vec![format!("HS256+HS384+HS512={LONG_SECRET}")];
    flags.push(keys.option("RS256+RS384+RS512+PS256+PS384+PS512", "rsa"));
    flags
        .extend([("ES256", "p256"), ("ES384", "p384"), ("EdDSA", "ed25519")].map(|(name, key)| keys.option(name, key)));
    let flags: Vec<&str> = flags.iter().flat_map(|key| ["--token-key", key]).collect();
    let tallycast = Tallycast::start(&redis, &flags);
    let wanted: Vec<Value> = ALGORITHMS
        .iter()
        .map(|(name, key)| {
            let key = if *key == "secret" { LONG_SECRET.to_owned() } else { keys.private(key) };
            let claims = json!({"sub": name, "exp": now() + 600, "tallycast": {"read": ["/raw"]}});
            json!({"alg": name, "key": key, "claims": claims})
        })
        .collect();
    for library in [Library::PyJwt, Library::Jose] {
        let tokens = library.ask(&json!(wanted));
        for ((name, _), token) in ALGORITHMS.iter().zip(tokens) {
            let token = token.as_str().unwrap();
            assert_eq!(read(&tallycast, "/subscribe/raw", token).0, 200, "{library:?} {name}");
            // One bit of the signature, which every encoding has.
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let first = if signature.starts_with('A') { 'B' } else { 'A' };
            let broken = format!("{signed}.{first}{}", &signature[1..]);
            let refused = read(&tallycast, "/subscribe/raw", &broken);
            assert_eq!((refused.0, &*refused.1), (401, "wrong signature"), "{library:?} {name}");
        }
    }
    assert_eq!(tallycast.counter("/auth/wrong_key"), 2 * ALGORITHMS.len() as u64);
    let forever = Library::PyJwt.sign("ES256", &keys.private("p256"), json!({"tallycast": {"read": ["/raw"]}}));
    let stream = open(&tallycast, "/subscribe/raw", &forever);
    redis.publish([("stream.score_updates", "1F602")]);
    assert_eq!(stream.next(), Event::message("1F602"));
}

#[test]
fn tokens_that_are_wrong_are_refused_with_the_reason() {
    let keys = Keys::new();
    let redis = RedisServer::start();
    let key = secret(",kid=a,iss=https://issuer,aud=tallycast");
    let rsa = keys.option("RS256", "rsa");
    let tallycast = Tallycast::start(&redis, &["--token-key", &key, "--token-key", &rsa, "--public", "/public"]);
    let good = || json!({"iss": "https://issuer", "aud": "tallycast", "tallycast": {"read": ["/raw"]}});
    let with = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        json!({"alg": "HS256", "key": SECRET, "claims": claims})
    };
    let other = "ffffffffffffffffffffffffffffffff";
    let cases = [
        (with("exp", json!(now() + 60)), 200, ""),
        (with("aud", json!(["other", "tallycast"])), 200, ""),
        (json!({"alg": "HS256", "key": SECRET, "kid": "a", "claims": good()}), 200, ""),
        (with("exp", json!(now() - 60)), 401, "the token has expired"),
        (with("nbf", json!(now() + 60)), 401, "the token is not valid yet"),
        (with("iss", json!("https://other")), 401, "wrong issuer (iss)"),
        (with("aud", json!("other")), 401, "wrong audience (aud)"),
        (json!({"alg": "HS256", "key": SECRET, "claims": {}}), 401, "wrong issuer (iss)"),
        (json!({"alg": "HS256", "key": other, "claims": good()}), 401, "wrong signature"),
        (
            json!({"alg": "HS256", "key": SECRET, "kid": "b", "claims": good()}),
            401,
            "unknown key: no key has the id (kid) of the token",
        ),
        (
            json!({"alg": "HS512", "key": LONG_SECRET, "claims": good()}),
            401,
            "no key has the algorithm \"HS512\" of the token",
        ),
        (json!({"alg": "none", "key": "", "claims": good()}), 401, "no key has the algorithm \"none\" of the token"),
        (
            json!({"alg": "HS256", "key": keys.public("rsa"), "confused": true, "claims": good()}),
            401,
            "wrong signature",
        ),
        (
            with("tallycast", json!({"read": ["raw"]})),
            401,
            "invalid claim tallycast.read: \"raw\": a namespace must start with '/'",
        ),
        (with("tallycast", json!({"read": ["/other"]})), 403, "not allowed to read /raw"),
        (with("tallycast", json!({})), 403, "not allowed to read /raw"),
    ];
    let wanted: Vec<&Value> = cases.iter().map(|(wanted, ..)| wanted).collect();
    let tokens = Library::PyJwt.ask(&json!(wanted));
    for ((wanted, status, line), token) in cases.iter().zip(&tokens) {
        let token = token.as_str().unwrap();
        let (found, body, challenge) = read(&tallycast, "/subscribe/raw", token);
        assert_eq!((found, &*body), (*status, *line), "{wanted}");
        if *status == 401 {
            let start = "Bearer realm=\"tallycast\", error=\"invalid_token\", error_description=\"";
            assert!(challenge.starts_with(start), "{challenge}");
            // A page must notice, also where it could read without.
            assert_eq!(read(&tallycast, "/subscribe/public", token).0, 401, "{wanted}");
        }
    }
    let valid = tokens[0].as_str().unwrap();
    for (token, line) in [
        (
            valid[..valid.len() / 2].to_owned(),
            "the token is not a JWT: expected three parts in base64url, separated by dots",
        ),
        ("garbage".to_owned(), "the token is not a JWT: expected three parts in base64url, separated by dots"),
        (format!("{valid}{}", "a".repeat(8192)), "the token is too long; the limit is 8192 bytes"),
    ] {
        assert_eq!(read(&tallycast, "/subscribe/raw", &token).1, line);
    }
    let missing = read(&tallycast, "/subscribe/raw", "");
    let challenge = "Bearer realm=\"tallycast\"";
    assert_eq!(missing, (401, "a token is required to read /raw".to_owned(), challenge.to_owned()));
    let log = tallycast.terminate().log;
    for token in tokens.iter().filter_map(|token| token.as_str().filter(|token| !token.ends_with('.'))) {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        assert!(!log.contains(signed) && !log.contains(signature), "{log}");
    }
}

#[test]
fn readers_get_what_their_token_covers() {
    let redis = RedisServer::start();
    let key = secret("");
    let flags = ["--route", "m.*=/**", "--token-key", &key, "--public", "/news", "--token-read", "/user/{sub}/**"];
    let tallycast = Tallycast::start(&redis, &flags);
    let ann = token(&["--sub", "ann", "--read", "/team/*"]);
    for (path, status, line) in [
        ("/subscribe/news", 200, ""),
        ("/subscribe/news/today", 200, ""),
        ("/subscribe/user/ann", 200, ""),
        ("/subscribe/user/ann/inbox", 200, ""),
        ("/subscribe/user/bob", 403, "not allowed to read /user/bob"),
        ("/subscribe?topic=/user/ann&topic=/user/bob", 403, "not allowed to read /user/bob"),
        ("/subscribe/", 403, "not allowed to read /"),
        ("/subscribe/*", 200, ""),
        ("/subscribe/other/*", 403, "not allowed to read /other/*"),
    ] {
        let (found, body, _) = read(&tallycast, path, &ann);
        assert_eq!((found, &*body), (status, line), "{path}");
    }
    let stream = open(&tallycast, "/subscribe/*/**", &ann);
    let public = EventSource::open(&tallycast, "/subscribe/*/**");
    for (channel, text) in [
        ("m.user:bob", "1"),
        ("m.user:ann", "2"),
        ("m.team:a:b", "3"),
        ("m.team:a", "4"),
        ("m.news:x", "5"),
        ("m.raw", "6"),
    ] {
        redis.publish([(channel, text)]);
    }
    redis.publish([("m.news", "end")]);
    let texts = |stream: &EventSource, count: usize| (0..count).map(|_| stream.next().data).collect::<Vec<_>>();
    assert_eq!(texts(&stream, 4), ["2", "4", "5", "end"]);
    assert_eq!(texts(&public, 2), ["5", "end"]);
}

#[test]
fn without_keys_everything_is_public_and_tokens_are_ignored() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    assert_eq!(read(&tallycast, "/subscribe/raw", "garbage").0, 200);
    assert_eq!(post(&tallycast, "/tickets", &[], "").status, 404);
    let counters = tallycast.json("/admin/counters.json");
    assert_eq!(counters["auth"]["invalid"], 0);
}

#[test]
fn stream_ends_when_its_token_expires() {
    let redis = RedisServer::start();
    let key = secret("");
    let tallycast = Tallycast::start(&redis, &["--token-key", &key, "--token-leeway", "0s"]);
    let short = token(&["--read", "/raw", "--expires", "3s"]);
    let stream = open(&tallycast, "/subscribe/raw", &short);
    let mut socket = WebSocket::open_with(&tallycast, "/ws/raw", &[("authorization", &bearer(&short))]).unwrap();
    let events = stream.rest();
    assert!(events.iter().any(|event| event.name.as_deref() == Some("expired")) || events.is_empty(), "{events:?}");
    assert_eq!(socket.closed(), (1008, "the authorization has expired".to_owned()));
    let (status, line, _) = read(&tallycast, "/subscribe/raw", &short);
    assert_eq!((status, &*line), (401, "the token has expired"));
}

#[test]
fn websocket_renews_its_token() {
    let redis = RedisServer::start();
    let key = secret("");
    let tallycast = Tallycast::start(&redis, &["--token-key", &key]);
    let first = token(&["--read", "/raw", "--expires", "1h"]);
    let second = token(&["--read", "/raw", "--read", "/details", "--no-expiry"]);
    let mut socket = WebSocket::open_with(&tallycast, "/ws/raw", &[("authorization", &bearer(&first))]).unwrap();
    let ask = |socket: &mut WebSocket, command: Value| {
        socket.send_text(&command.to_string());
        socket.json()
    };
    let refused = ask(&mut socket, json!({"subscribe": ["/details"]}));
    assert_eq!(refused["error"], "not allowed to read /details", "{refused}");
    let refused = ask(&mut socket, json!({"token": "garbage"}));
    assert!(refused["error"].as_str().is_some_and(|error| error.starts_with("the token is not a JWT")), "{refused}");
    let renewed = ask(&mut socket, json!({"token": second}));
    assert_eq!(renewed, json!({"token": "accepted", "expires": null}));
    let changed = ask(&mut socket, json!({"subscribe": ["/details"]}));
    assert_eq!(changed["error"], Value::Null, "{changed}");
}

#[test]
fn publishers_publish_what_their_token_names() {
    let redis = RedisServer::start();
    let (subscribers, publishers) = (secret(",for=subscribers"), format!("HS256={LONG_SECRET},for=publishers"));
    let flags = ["--route", "m.*=/**", "--token-key", &subscribers, "--token-key", &publishers, "--public", "/"];
    let tallycast =
        Tallycast::start(&redis, &[&flags[..], &["--publish-rate", "10", "--publish-key", "program"]].concat());
    let claims = json!({"sub": "ann", "tallycast": {"publish": ["/chat/*", "/news"]}});
    let publisher = Library::Jose.sign("HS256", LONG_SECRET, claims.clone());
    let reader = Library::PyJwt.sign("HS256", SECRET, claims);
    let stream = EventSource::open(&tallycast, "/subscribe/");
    let publish = |token: &str, path: &str, body: &str| -> Answer {
        post(&tallycast, path, &[("authorization", &bearer(token))], body)
    };
    assert_eq!(publish(&publisher, "/publish/chat/1", "hello").status, 200);
    assert_eq!(stream.next().data, "hello");
    assert_eq!(publish("program", "/publish/any/thing", "key").status, 200);
    assert_eq!(stream.next().data, "key");
    for (token, path, body, expected) in [
        (&publisher, "/publish/chat", "x", (403, "not allowed to publish to /chat")),
        (&publisher, "/publish/chat/1/2", "x", (403, "not allowed to publish to /chat/1/2")),
        (&publisher, "/count/eps", "{\"a\": 1}", (403, "not allowed to publish to /eps")),
        (
            &publisher,
            "/publish",
            "[{\"namespace\": \"/news\", \"data\": 1}, {\"namespace\": \"/user/bob\", \"data\": 1}]",
            (403, "message 1: not allowed to publish to /user/bob"),
        ),
        (&reader, "/publish/chat/1", "x", (401, "the key of the token is not for publishers")),
        (&"wrong".to_owned(), "/publish/chat/1", "x", (401, "a publishing key is required, as Bearer token")),
    ] {
        assert_eq!(publish(token, path, body).line(), expected, "{path}");
    }
    assert_eq!(read(&tallycast, "/subscribe/raw", &publisher).1, "the key of the token is not for subscribers");
    let many: Vec<Value> = (0..11).map(|number| json!({"namespace": "/news", "data": number})).collect();
    let limited = publish(&publisher, "/publish", &json!(many).to_string());
    assert_eq!(limited.line(), (413, "11 messages; at most 10 may be published at once (--publish-rate)"));
    let missing = post(&tallycast, "/publish/news", &[], "x");
    assert_eq!(missing.line(), (401, "a publishing key or a token is required"));
    assert_eq!(missing.header("www-authenticate"), "Bearer realm=\"tallycast\"");
}

#[test]
fn commands_make_and_check_tokens_without_showing_keys() {
    let made = token(&["--sub", "ann", "--read", "/user/42/**", "--publish", "/chat", "--claim", "group=a"]);
    let check = |flags: &[&str], token: &str| {
        let mut check = command();
        check
            .args(["check", "--token-key", &secret(""), "--public", "/news"])
            .args(flags)
            .env("TALLYCAST_CHECK_TOKEN", token);
        let output = run(&mut check);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, report) = check(&["--token-read", "/group/{group}"], &made);
    assert_eq!(code, Some(0), "{report}");
    for line in ["subject: ann", "reads: /user/42 /group/a", "public: /news", "publishes: /chat"] {
        assert!(report.lines().any(|found| found == line), "{line} in {report}");
    }
    let (code, refused) = check(&["--token-audience", "x"], &made);
    assert!(code == Some(1) && refused.contains("not valid for reading: wrong audience (aud)\n"), "{refused}");
    for text in [&report, &refused] {
        assert!(!text.contains(SECRET) && !text.contains(&made), "{text}");
    }
    let output = run(command().arg("token"));
    assert_eq!(output.status.code(), Some(64));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.starts_with("tallycast: tallycast token needs --token-key"), "{error}");
}

#[test]
fn tail_reads_with_a_token() {
    let redis = RedisServer::start();
    let key = secret("");
    let tallycast = Tallycast::start(&redis, &["--route", "m.*=/**,history=last", "--token-key", &key]);
    redis.publish([("m.news", "hello")]);
    tallycast.until_counter("/hub/broadcast", 1);
    let tail = |token: Option<&str>| {
        let mut tail = command();
        tail.args(["tail", "/news", "--last", "1", "--count", "1"]).env("TALLYCAST_URL", tallycast.url(""));
        tail.envs(token.map(|token| ("TALLYCAST_TOKEN", token)));
        let output = run(&mut tail);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let refused = tail(None);
    assert!(refused.0 == Some(1) && refused.1.contains("a token is required to read /news"), "{refused:?}");
    assert_eq!(tail(Some(&token(&["--read", "/news"]))), (Some(0), "/news - hello\n".to_owned()));
}
