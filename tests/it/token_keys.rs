//! Keys that change while streams are open: with SIGHUP, and at an issuer that rotates, hangs and dies.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Certificate, EventSource, JwksServer, Keys, Library, RedisServer, SECRET, Tallycast, TempDir, command, eventually,
    token,
};

/// Status and line of the response to a request for the stream `/raw`.
fn read(tallycast: &Tallycast, token: &str) -> (u16, String) {
    let (status, line, _) = crate::support::read(tallycast, "/subscribe/raw", token);
    (status, line)
}

fn open(tallycast: &Tallycast, token: &str) -> EventSource {
    let headers =
        [("authorization".parse().unwrap(), format!("Bearer {token}").parse().unwrap())].into_iter().collect();
    EventSource::open_with(reqwest::Client::builder().default_headers(headers), tallycast, "/subscribe/raw")
}

#[test]
fn keys_are_rotated_with_sighup_and_streams_stay_open() {
    let redis = RedisServer::start();
    let directory = TempDir::new();
    let (config, file) = (directory.path().join("tallycast.toml"), directory.path().join("key"));
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let (old, new) = (format!("HS256=@{}", file.display()), "HS256=ffffffffffffffffffffffffffffffff");
    let write = |keys: &[&str]| std::fs::write(&config, format!("token-key = {keys:?}\n")).unwrap();
    write(&[&old]);
    let mut serve = command();
    serve.args(["serve", "--config"]).arg(&config).env("REDIS_URL", redis.url());
    let tallycast = Tallycast::spawn(serve);
    tallycast.until_ready();
    let first = token(&["--read", "/raw"]);
    let second = Library::PyJwt.sign("HS256", &"f".repeat(32), json!({"tallycast": {"read": ["/raw"]}}));
    let stream = open(&tallycast, &first);
    let reload = |expected: &str| {
        tallycast.signal(Signal::HUP);
        tallycast.wait_for_log(expected);
    };
    assert_eq!((read(&tallycast, &first).0, read(&tallycast, &second).0), (200, 401));
    write(&[&old, new]);
    reload("configuration reloaded options=\"token-key\"");
    eventually("both keys are in use", || (read(&tallycast, &first).0, read(&tallycast, &second).0) == (200, 200));
    // A broken file keeps the keys.
    write(&["RS256=@/nowhere", new]);
    reload("invalid configuration, keeping the previous one");
    assert_eq!(read(&tallycast, &first).0, 200);
    write(&[]);
    reload("the first --token-key or --token-jwks, and removing the last one, need a restart");
    assert_eq!(read(&tallycast, &first).0, 200);
    write(&[new]);
    tallycast.signal(Signal::HUP);
    eventually("the old key is gone", || (read(&tallycast, &first).0, read(&tallycast, &second).0) == (401, 200));
    redis.publish([("stream.score_updates", "1F602")]);
    assert_eq!(stream.next().data, "1F602");
    let log = tallycast.terminate().log;
    assert!(!log.contains(SECRET) && !log.contains("ffffffff"), "{log}");
}

/// A set with the public keys of these names.
fn set(keys: &Keys, names: &[(&str, &str)]) -> String {
    let wanted: Vec<Value> = names
        .iter()
        .map(|(algorithm, name)| json!({"jwk": keys.public(name), "alg": algorithm, "kid": name}))
        .collect();
    json!({"keys": Library::Jose.ask(&json!(wanted))}).to_string()
}

fn sign(keys: &Keys, algorithm: &str, name: &str, issuer: &str) -> String {
    let claims = json!({"iss": issuer, "tallycast": {"read": ["/raw"]}});
    let wanted = json!([{"alg": algorithm, "key": keys.private(name), "kid": name, "claims": claims}]);
    Library::PyJwt.ask(&wanted)[0].as_str().unwrap().to_owned()
}

#[test]
fn keys_of_an_issuer_survive_its_rotation_hang_and_death() {
    let keys = Keys::new();
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let both = set(&keys, &[("RS256", "rsa"), ("ES256", "p256"), ("EdDSA", "ed25519")]);
    // The port of an issuer that is not there yet.
    let issuer = JwksServer::start(&certificate, &both);
    let (url, address) = (format!("{},iss=https://issuer", issuer.url()), issuer.address);
    drop(issuer);
    let ca = certificate.certificate();
    let tallycast = Tallycast::start(&redis, &["--token-jwks", &url, "--token-jwks-ca", &ca, "--log", "debug"]);
    let [rsa, p256, ed] = [("RS256", "rsa"), ("ES256", "p256"), ("EdDSA", "ed25519")]
        .map(|(algorithm, name)| sign(&keys, algorithm, name, "https://issuer"));
    let away = "the keys of the issuer cannot be fetched; try again in a moment";
    assert_eq!(read(&tallycast, &rsa), (503, away.to_owned()));
    tallycast.wait_for_log("cannot fetch the keys of tokens");

    // It comes.
    let one = set(&keys, &[("RS256", "rsa")]);
    let mut issuer = None;
    eventually("the port is free", || {
        issuer = std::panic::catch_unwind(|| JwksServer::start_at(address, &certificate, &one)).ok();
        issuer.is_some()
    });
    let issuer = issuer.unwrap();
    eventually("its key is fetched", || read(&tallycast, &rsa).0 == 200);
    tallycast.wait_for_log("fetched the keys of tokens");
    let stream = open(&tallycast, &rsa);
    assert_eq!(read(&tallycast, &sign(&keys, "RS256", "rsa", "https://other")).1, "wrong issuer (iss)");

    // It rotates: an unknown key has the set fetched, at a bounded rate.
    issuer.answer(Some(&both));
    eventually("the new key is fetched", || read(&tallycast, &p256).0 == 200);
    assert_eq!((read(&tallycast, &rsa).0, read(&tallycast, &ed).0), (200, 200));
    let before = issuer.requests();
    keys.make("other", &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let unknown = sign(&keys, "ES256", "other", "https://issuer");
    for _ in 0..100 {
        assert_eq!(read(&tallycast, &unknown).1, "unknown key: no key has the id (kid) of the token");
    }
    assert!(issuer.requests() <= before + 2, "{} requests", issuer.requests() - before);

    // It hangs, answers with nonsense, and dies: the keys stay.
    issuer.answer(None);
    let before = issuer.requests();
    eventually("it is asked in vain", || {
        assert_eq!(read(&tallycast, &p256).0, 200);
        read(&tallycast, &unknown).0 == 401 && issuer.requests() > before
    });
    assert_eq!(read(&tallycast, &rsa).0, 200);
    issuer.answer(Some("{\"keys\": []}"));
    drop(issuer);
    assert_eq!((read(&tallycast, &p256).0, read(&tallycast, &ed).0), (200, 200));
    eventually("failures are counted", || tallycast.counter("/auth/jwks_failed") >= 2);
    redis.publish([("stream.score_updates", "1F602")]);
    assert_eq!(stream.next().data, "1F602");
}

#[test]
fn issuer_without_a_trusted_certificate_is_refused() {
    let keys = Keys::new();
    let redis = RedisServer::start();
    let (certificate, other) = (Certificate::self_signed(), Certificate::self_signed());
    let issuer = JwksServer::start(&certificate, &set(&keys, &[("RS256", "rsa")]));
    let tallycast = Tallycast::start(&redis, &["--token-jwks", &issuer.url(), "--token-jwks-ca", &other.certificate()]);
    let line = tallycast.wait_for_log("cannot fetch the keys of tokens");
    assert!(line.contains("certificate"), "{line}");
    assert_eq!(read(&tallycast, &sign(&keys, "RS256", "rsa", "x")).0, 503);
    assert_eq!(issuer.requests(), 0);
}
