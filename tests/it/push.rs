//! Push sources with the clients of other projects: PyPI's `cloudevents` and `standardwebhooks`, webhooks signed by `openssl` and sent by
//! `curl`, and Pub/Sub's requests with tokens of PyPI's PyJWT.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::{
    Certificate, Event, EventSource, JwksServer, Keys, Library, PYTHON, RedisServer, Tallycast, TempDir, ask_script,
    command, eventually, post, run,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const TOKEN: &str = "abcdef0123456789abcdef0123456789";
const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Status of the response to a webhook as GitHub sends them.
fn curl(tallycast: &Tallycast, path: &str, id: &str, secret: &str, body: &str) -> String {
    let mut openssl = Command::new("openssl");
    let openssl = openssl.args(["dgst", "-sha256", "-hmac", secret, "-r"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut openssl = openssl.spawn().unwrap();
    openssl.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let digest = String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap();
    let signature = format!("x-hub-signature-256: sha256={}", digest.split(' ').next().unwrap());
    let id = format!("x-github-delivery: {id}");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--max-time", "60", "--output", "/dev/null", "--write-out", "%{http_code}"]);
    curl.args(["-H", &signature, "-H", &id, "--data-binary", body]).arg(tallycast.url(path));
    String::from_utf8(run(&mut curl).stdout).unwrap()
}

#[test]
fn events_of_senders_reach_readers_once() {
    let redis = RedisServer::start();
    let directory = TempDir::new();
    let file = directory.path().join("secret");
    std::fs::write(&file, format!("{STANDARD_SECRET}\n")).unwrap();
    // GitHub's secret is being rotated.
    let sources = [
        format!("hooks=webhook:?secret=another-secret-of-many-bytes&secret={SECRET}"),
        format!("standard=webhook:?scheme=standard&secret=@{}", file.display()),
        format!("ce=cloudevents:?token={TOKEN}"),
    ];
    let routes =
        ["hooks:github.*=/github/*,event=channel", "standard:a=/standard,history=10", "ce:com.example.*=/ce/*"];
    let flags: Vec<&str> = sources.iter().flat_map(|source| ["--source", source]).collect();
    let flags = [flags, routes.into_iter().flat_map(|route| ["--route", route]).collect()].concat();
    let tallycast = Tallycast::start(&redis, &flags);
    let [github, standard, ce] = ["/github", "/standard", "/ce"]
        .map(|namespace| EventSource::open(&tallycast, &format!("/subscribe{namespace}")));

    let hook = |id, secret, body| curl(&tallycast, "/push/hooks/github.push", id, secret, body);
    assert_eq!(hook("1", SECRET, "{\"ref\":\"main\"}"), "204");
    assert_eq!(hook("1", SECRET, "{\"ref\":\"main\"}"), "204");
    assert_eq!(hook("2", "a-secret-that-nobody-knows", "forged"), "403");
    assert_eq!(hook("3", "another-secret-of-many-bytes", "second"), "204");
    assert_eq!(curl(&tallycast, "/push/hooks/gitlab", "4", SECRET, "x"), "404");
    let github_event = |data: &str| Event::named("github.push", data);
    assert_eq!([github.next(), github.next()], [github_event("{\"ref\":\"main\"}"), github_event("second")]);

    let url = tallycast.url("/push/standard/a");
    let webhook = |id: &str, age: i32, data: &str| json!({"url": url, "secret": STANDARD_SECRET, "id": id, "age": age, "data": data});
    let cloud_event = |mode: &str, id: &str, kind: &str, data: Value| {
        let attributes = json!({"id": id, "source": "/tests", "type": kind, "datacontenttype": "application/json"});
        json!({"url": tallycast.url("/push/ce"), "mode": mode, "token": TOKEN, "event": {"attributes": attributes, "data": data}})
    };
    let mut refused = cloud_event("binary", "9", "com.example.order", json!(9));
    refused["token"] = json!("0123456789abcdef");
    let statuses = ask_script(
        PYTHON,
        "push.py",
        &json!([
            webhook("msg_1", 0, "first"),
            webhook("msg_1", 60, "first"),
            webhook("msg_2", 3600, "late"),
            webhook("msg_3", 0, "last"),
            cloud_event("binary", "1", "com.example.caf\u{e9}", json!({"total": 1})),
            cloud_event("structured", "1", "com.example.caf\u{e9}", json!({"total": 1})),
            cloud_event("structured", "2", "com.example.order", json!({"total": 2})),
            cloud_event("structured", "3", "org.example.order", json!({"total": 3})),
            refused,
        ]),
    );
    assert_eq!(statuses, [204, 204, 403, 204, 204, 204, 204, 404, 401]);
    assert_eq!([standard.next().data, standard.next().data], ["first", "last"]);
    let totals =
        [ce.next(), ce.next()].map(|event| serde_json::from_str::<Value>(&event.data).unwrap()["total"].clone());
    assert_eq!(totals, [1, 2]);
    assert!(github.received().is_empty() && ce.received().is_empty() && standard.received().is_empty());
    // The kept ones are there for later readers.
    assert_eq!(EventSource::open(&tallycast, "/subscribe/standard?last=2").next().data, "first");

    let counters = tallycast.terminate().counters()["push"].clone();
    assert_eq!(counters, json!({"received": 6, "duplicates": 3, "rejected": 2, "refused": 3, "retried": 0}));
}

#[test]
fn secrets_of_sources_are_not_shown() {
    let check = |source: &str| run(command().args(["check", "--source", source]));
    let output = check(&format!("hooks=webhook:?secret={SECRET}&scheme=stripe"));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("hooks=webhook:?secret=***&scheme=stripe") && !shown.contains(SECRET), "{shown}");
    assert!(
        shown.contains("# source hooks webhook:?secret=***&scheme=stripe: events: durable, acknowledgement"),
        "{shown}"
    );
    let output = check(&format!("hooks=webhook:?secret={SECRET}&shceme=stripe"));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("unknown option in the URL of a webhook source") && !error.contains(SECRET), "{error}");
}

#[test]
fn messages_of_pubsub_need_a_token_of_its_account() {
    let (keys, redis, certificate) = (Keys::new(), RedisServer::start(), Certificate::self_signed());
    let jwk = Library::Jose.ask(&json!([{"jwk": keys.public("rsa"), "alg": "RS256", "kid": "rsa"}]));
    let issuer = JwksServer::start(&certificate, &json!({"keys": jwk}).to_string());
    let source = format!(
        "gcp=pubsub:?audience=https://push.example/&email=push@project.iam.gserviceaccount.com&jwks={}",
        issuer.url()
    );
    let flags = ["--source", &source, "--token-jwks-ca", &certificate.certificate(), "--route", "gcp:orders=/orders"];
    let tallycast = Tallycast::start(&redis, &flags);
    let orders = EventSource::open(&tallycast, "/subscribe/orders");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let good = json!({
        "iss": "https://accounts.google.com", "aud": "https://push.example/", "sub": "1", "azp": "1", "iat": now, "exp": now + 3600,
        "email": "push@project.iam.gserviceaccount.com", "email_verified": true
    });
    let other = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let claims = [
        good.clone(),
        other("aud", json!("https://other.example/")),
        other("iss", json!("https://other.example")),
        other("email", json!("other@project.iam.gserviceaccount.com")),
        other("email_verified", json!(false)),
        other("exp", json!(now - 60)),
        other("exp", json!(null)),
    ];
    let wanted =
        claims.map(|claims| json!({"alg": "RS256", "key": keys.private("rsa"), "kid": "rsa", "claims": claims}));
    let tokens = Library::PyJwt.ask(&json!(wanted));
    let push = |token: &Value, body: &str| {
        let authorization = format!("Bearer {}", token.as_str().unwrap());
        post(&tallycast, "/push/gcp", &[("authorization", &authorization), ("content-type", "application/json")], body)
    };
    let message = |id: &str, data: &str, subscription: &str| {
        let name = format!("projects/project/subscriptions/{subscription}");
        json!({"message": {"data": data, "messageId": id, "message_id": id}, "subscription": name}).to_string()
    };
    for (token, reason) in tokens.iter().zip([
        "",
        "wrong audience (aud)",
        "wrong issuer (iss)",
        "the token is of another account (email)",
        "the token is of another account (email)",
        "the token has expired",
        "invalid claim exp: expected seconds since 1970",
    ]) {
        let expected = (if reason.is_empty() { 204 } else { 401 }, reason);
        assert_eq!(push(token, &message("1", "Zmlyc3Q=", "orders")).line(), expected);
    }
    assert_eq!(post(&tallycast, "/push/gcp", &[], "{}").header("www-authenticate"), "Bearer realm=\"tallycast\"");
    // What can never be taken is acknowledged, so that it is not sent for days.
    let rejected = [
        message("2", "Zmlyc3Q=", "other"),
        message("3", "/w==", "orders"),
        message("4", "?", "orders"),
        "{".to_owned(),
    ];
    for body in rejected {
        assert_eq!(push(&tokens[0], &body).status, 204, "{body}");
    }
    assert_eq!(push(&tokens[0], &message("1", "Zmlyc3Q=", "orders")).status, 204);
    assert_eq!(push(&tokens[0], &message("5", "bGFzdA==", "orders")).status, 204);
    assert_eq!([orders.next().data, orders.next().data], ["first", "last"]);
    tallycast.wait_for_log("rejected a pushed event");
    let counters = tallycast.terminate().counters()["push"].clone();
    assert_eq!(counters, json!({"received": 2, "duplicates": 1, "rejected": 4, "refused": 7, "retried": 0}));
}

#[test]
fn published_events_reach_the_readers_of_all_nodes_once() {
    let mut redis = RedisServer::start_durable();
    let source = format!("hooks=webhook:?secret={SECRET}&publish=stream:hooks");
    let flags = ["--source", &source, "--route", "stream:hooks=/hooks/*,history=1h"];
    let nodes = [Tallycast::start(&redis, &flags), Tallycast::start(&redis, &flags)];
    let readers = nodes.each_ref().map(|node| EventSource::open(node, "/subscribe/hooks/a"));
    let send = |node: &Tallycast, id: &str| curl(node, "/push/hooks/a", id, SECRET, id);
    // A sender repeats an event through a load balancer.
    assert_eq!((send(&nodes[0], "first"), send(&nodes[1], "first")), ("204".to_owned(), "204".to_owned()));
    redis.kill();
    assert_eq!(send(&nodes[1], "second"), "503");
    redis.run();
    eventually("it is taken when the broker is back", || send(&nodes[1], "second") == "204");
    assert_eq!(send(&nodes[0], "last"), "204");
    for reader in &readers {
        assert_eq!([reader.next(), reader.next(), reader.next()].map(|event| event.data), ["first", "second", "last"]);
    }
    assert!(nodes[1].counter("/push/retried") >= 1);
}
