//! Tokens, tickets and the Mercure protocol in Chromium: what pages of one origin and of another can read and publish.

use serde_json::{Value, json};

use crate::support::{Browser, RedisServer, SECRET, Tallycast, eventually, post, token};

const PATH: &str = "/.well-known/mercure";
/// A document on the origin of a server, without scripts of its own.
const BLANK: &str = "/healthz";
/// Long enough to open a stream, and short enough to wait for.
const SHORT_LIFE: &str = "8s";
/// Collects what the events of a source have.
const LISTEN: &str = "window.listen = (source) => {
    const seen = {source, ids: [], data: [], opened: 0, failed: 0};
    source.onopen = () => seen.opened += 1;
    source.onerror = () => seen.failed += 1;
    source.onmessage = (event) => { seen.ids.push(event.lastEventId); seen.data.push(event.data); };
    return seen;
};";

fn start(redis: &RedisServer, flags: &[&str]) -> Tallycast {
    let key = format!("HS256={SECRET}");
    let common = ["--token-key", &key, "--token-leeway", "0s", "--retry", "100ms"];
    Tallycast::start(redis, &[&common, flags].concat())
}

/// Opens a page of `server` whose scripts can collect events.
fn open_page(browser: &Browser, server: &Tallycast) {
    browser.open(server, BLANK);
    browser.run(LISTEN);
}

fn origin(server: &Tallycast) -> String {
    server.url("")
}

/// Adds an entry to the stream of orders.
fn add(redis: &RedisServer, text: &str) {
    let mut connection = redis.connect();
    let _: String = redis::cmd("XADD").arg("orders").arg("*").arg("data").arg(text).query(&mut connection).unwrap();
}

/// Publishes an update as the page does that has the cookie of a publisher, and returns the status and the body.
fn publish_from_page(browser: &Browser, fields: &[(&str, &str)]) -> Value {
    let fields = json!(fields);
    browser.eval(&format!(
        "fetch('{PATH}', {{method: 'POST', body: new URLSearchParams({fields})}})
            .then(async (response) => [response.status, await response.text()])"
    ))
}

#[test]
fn cookie_reads_only_for_pages_of_listed_origins() {
    let redis = RedisServer::start();
    let (listed, unlisted) = (Tallycast::start(&redis, &[]), Tallycast::start(&redis, &[]));
    let tallycast = start(&redis, &["--allowed-origin", &origin(&listed)]);
    let url = tallycast.url("/subscribe/raw");
    let browser = Browser::start();
    open_page(&browser, &tallycast);
    // Browsers keep cookies by host, not by port.
    browser.run(&format!("document.cookie = 'tallycast={}; path=/'", token(&["--read", "/raw"])));
    open_page(&browser, &listed);
    browser.run(&format!("window.cookie = listen(new EventSource('{url}', {{withCredentials: true}}))"));
    browser.wait_until("cookie.opened", 1);
    browser.run(&format!("window.bare = listen(new EventSource('{url}'))"));
    browser.wait_until("bare.source.readyState", 2);
    redis.publish_scores(["1F602"]);
    browser.wait_until("cookie.data", json!(["1F602"]));
    assert_eq!(browser.eval("bare.data"), json!([]));
    assert_eq!(browser.eval("cookie.failed"), 0);
    let accepted = tallycast.counter("/auth/accepted");

    open_page(&browser, &unlisted);
    browser.run(&format!("window.cookie = listen(new EventSource('{url}', {{withCredentials: true}}))"));
    browser.wait_until("cookie.source.readyState", 2);
    assert_eq!(browser.eval("cookie.opened"), 0);
    let read = browser.eval(&format!("fetch('{url}', {{credentials: 'include'}}).then(() => 'read', () => 'refused')"));
    assert_eq!(read, "refused");
    // The browser sent the cookie, and kept the response from the page.
    assert_eq!(tallycast.counter("/auth/accepted"), accepted + 2);
}

#[test]
fn ticket_opens_one_stream_of_a_page() {
    let redis = RedisServer::start();
    let (listed, unlisted) = (Tallycast::start(&redis, &[]), Tallycast::start(&redis, &[]));
    let tallycast = start(&redis, &["--allowed-origin", &origin(&listed)]);
    let fetch = format!(
        "fetch('{}', {{method: 'POST', headers: {{authorization: 'Bearer {}'}}}})",
        tallycast.url("/tickets"),
        token(&["--read", "/raw"])
    );
    let browser = Browser::start();
    for page in [&tallycast, &listed] {
        open_page(&browser, page);
        let ticket = browser.eval(&format!("{fetch}.then((response) => response.json())"));
        assert_eq!(ticket["expires_in"], 30);
        let url = tallycast.url(&format!("/subscribe/raw?ticket={}", ticket["ticket"].as_str().unwrap()));
        browser.run(&format!("window.first = listen(new EventSource('{url}'))"));
        browser.wait_until("first.opened", 1);
        browser.run(&format!("window.second = listen(new EventSource('{url}'))"));
        browser.wait_until("second.source.readyState", 2);
        redis.publish_scores(["1F602"]);
        browser.wait_until("first.data", json!(["1F602"]));
        assert_eq!(browser.eval("[first.failed, second.opened]"), json!([0, 0]));
    }
    assert_eq!((tallycast.counter("/auth/tickets"), tallycast.counter("/auth/refused_tickets")), (2, 2));
    open_page(&browser, &unlisted);
    assert_eq!(browser.eval(&format!("{fetch}.then(() => 'made', () => 'refused')")), "refused");
    assert_eq!(tallycast.counter("/auth/tickets"), 2);
}

#[test]
fn private_update_reaches_the_page_that_may_read_it() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--mercure"]);
    let (ann, bob) = ("https://example.com/users/ann", "https://example.com/users/bob");
    let cookie = token(&["--mercure-subscribe", ann, "--mercure-publish", "*"]);
    let browser = Browser::start();
    open_page(&browser, &tallycast);
    browser.run(&format!("document.cookie = 'mercureAuthorization={cookie}; path={PATH}; samesite=strict'"));
    let topics = "topic=https%3A%2F%2Fexample.com%2Fbooks%2F%7Bid%7D";
    for (name, credentials) in [
        ("ann", String::new()),
        ("bob", format!("&authorization={}", token(&["--mercure-subscribe", bob]))),
        ("neither", format!("&authorization={}", token(&["--mercure-subscribe", "https://example.com/{id}"]))),
    ] {
        browser.run(&format!("window.{name} = listen(new EventSource('{PATH}?{topics}{credentials}'))"));
        browser.wait_until(&format!("{name}.opened"), 1);
    }
    let book = "https://example.com/books/1";
    for (id, recipients) in [("for-ann", &[ann][..]), ("for-bob", &[bob]), ("for-both", &[ann, bob]), ("public", &[])] {
        let mut fields = vec![("topic", book), ("data", id), ("id", id)];
        fields.extend(recipients.iter().map(|recipient| ("topic", *recipient)));
        fields.extend((!recipients.is_empty()).then_some(("private", "on")));
        assert_eq!(publish_from_page(&browser, &fields), json!([200, id]));
    }
    for (name, ids) in [
        ("ann", &["for-ann", "for-both", "public"][..]),
        ("bob", &["for-bob", "for-both", "public"]),
        ("neither", &["public"]),
    ] {
        // The public update is the last one.
        browser.wait_until(&format!("{name}.ids.at(-1) ?? ''"), "public");
        assert_eq!(browser.eval(&format!("{name}.ids")), json!(ids), "{name}");
    }
    // What is replayed as well.
    browser.run(&format!("window.late = listen(new EventSource('{PATH}?{topics}&lastEventID=earliest'))"));
    browser.wait_until("late.ids", json!(["for-ann", "for-both", "public"]));
}

#[test]
fn data_of_updates_reaches_a_page_unchanged() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--mercure"]);
    let cookie = token(&["--mercure-subscribe", "*", "--mercure-publish", "*"]);
    let browser = Browser::start();
    open_page(&browser, &tallycast);
    browser.run(&format!("document.cookie = 'mercureAuthorization={cookie}; path=/'"));
    browser.run(&format!("window.stream = listen(new EventSource('{PATH}?topic=a'))"));
    browser.wait_until("stream.opened", 1);
    let texts = [
        "  two spaces\r\n\ttab\rcarriage return\n\n: no comment\ndata: no field\nid: none\n trailing \n",
        "\u{1f602} Grüße, 日本語, e\u{301} \u{200d} \u{2028}\u{2029}\u{85}\u{feff}",
        "\u{feff}a byte order mark first\u{0}\u{1b}",
        "\r\n\r\n",
        "",
        "a=b&c=%41+d;~*-._'()",
    ];
    for text in texts {
        let published = publish_from_page(&browser, &[("topic", "a"), ("data", text)]);
        assert_eq!(published[0], 200, "{text:?}: {published}");
    }
    let expected = texts.map(|text| text.replace("\r\n", "\n").replace('\r', "\n"));
    browser.wait_until("stream.data.length", texts.len());
    assert_eq!(browser.eval("stream.data"), json!(expected));
}

#[test]
fn page_gets_a_new_ticket_when_its_token_expires() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--route", "stream:orders=/orders,history=10000"]);
    let browser = Browser::start();
    open_page(&browser, &tallycast);
    browser.run(
        "window.data = []; window.last = ''; window.expired = []; window.streams = 0;
        window.connect = async (token) => {
            const made = await fetch('/tickets', {method: 'POST', headers: {authorization: `Bearer ${token}`}});
            const {ticket} = await made.json();
            const source = new EventSource(`/subscribe/orders?notices=1&ticket=${ticket}&lastEventID=${last}`);
            source.onopen = () => streams += 1;
            source.onmessage = (event) => { data.push(event.data); last = event.lastEventId; };
            source.addEventListener('reset', () => data.push('reset'));
            source.addEventListener('expired', (event) => { source.close(); expired.push(JSON.parse(event.data)); });
        };",
    );
    browser.run(&format!("connect('{}')", token(&["--read", "/orders", "--expires", SHORT_LIFE])));
    browser.wait_until("streams", 1);
    add(&redis, "1");
    add(&redis, "2");
    browser.wait_until("data", json!(["1", "2"]));
    browser.wait_until("expired", json!([{"reason": "the authorization has expired"}]));
    add(&redis, "3");
    add(&redis, "4");
    browser.run(&format!("connect('{}')", token(&["--read", "/orders"])));
    browser.wait_until("data", json!(["1", "2", "3", "4"]));
    add(&redis, "5");
    browser.wait_until("data", json!(["1", "2", "3", "4", "5"]));
    assert_eq!(browser.eval("streams"), 2);
}

/// Has a page read `stream` with a cookie that it replaces at `event`, and checks that it gets what `publish` publishes under the
/// numbers from 0, each once.
fn replace_cookie(tallycast: &Tallycast, stream: &str, cookie: &str, event: &str, publish: impl Fn(usize)) {
    let browser = Browser::start();
    open_page(&browser, tallycast);
    let rights = ["--read", "/orders", "--mercure-subscribe", "*"];
    let (first, second) = (token(&[&rights[..], &["--expires", SHORT_LIFE]].concat()), token(&rights));
    browser.run(&format!("document.cookie = '{cookie}={first}; path=/'"));
    browser.run(&format!(
        "window.stream = listen(new EventSource('{stream}')); window.replaced = 0;
        stream.source.addEventListener('{event}', () => {{
            document.cookie = '{cookie}={second}; path=/';
            replaced += 1;
        }});"
    ));
    browser.wait_until("stream.opened", 1);
    // Before the end of the first stream, between the two, and after the start of the second.
    let mut count = 0;
    eventually("the page has opened a second stream", || {
        publish(count);
        count += 1;
        browser.eval("stream.opened") == 2
    });
    publish(count);
    let numbers: Vec<String> = (0..=count).map(|number| number.to_string()).collect();
    browser.wait_until("stream.data.at(-1) ?? ''", numbers[count].as_str());
    assert_eq!(browser.eval("stream.data"), json!(numbers));
    assert_eq!(browser.eval("replaced"), 1);
}

#[test]
fn page_replaces_its_cookie_when_its_token_expires() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--route", "stream:orders=/orders,history=10000"]);
    replace_cookie(&tallycast, "/subscribe/orders?notices=1", "tallycast", "expired", |number| {
        add(&redis, &number.to_string());
    });
    assert_eq!(tallycast.counter("/hub/resets"), 0);
}

#[test]
fn page_replaces_its_mercure_cookie_when_its_token_expires() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--mercure", "--publish-rate", "100000"]);
    let publisher = format!("Bearer {}", token(&["--mercure-publish", "*"]));
    let headers = [("authorization", &*publisher), ("content-type", "application/x-www-form-urlencoded")];
    // Of the protocol's streams, a page sees only the end.
    replace_cookie(&tallycast, &format!("{PATH}?topic=a"), "mercureAuthorization", "error", |number| {
        // Ids of any text, which browsers send in UTF-8.
        let form = format!("topic=a&private=on&data={number}&id=%C3%A9+%F0%9F%98%82+{number}");
        assert_eq!(post(&tallycast, PATH, &headers, &form).status, 200);
    });
}

#[test]
fn websocket_of_a_page_outlives_its_first_token() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &[]);
    let browser = Browser::start();
    open_page(&browser, &tallycast);
    browser.run(
        "window.connect = (token) => {
            const socket = new WebSocket(`ws://${location.host}/ws/raw`, ['json', 'bearer.' + token]);
            const seen = {socket, messages: [], closed: null};
            socket.onmessage = (event) => seen.messages.push(JSON.parse(event.data));
            socket.onclose = (event) => seen.closed = [event.code, event.reason];
            return seen;
        };",
    );
    let second = token(&["--read", "/raw", "--no-expiry"]);
    let first = token(&["--read", "/raw", "--expires", SHORT_LIFE]);
    browser.run(&format!("window.renewed = connect('{first}'); window.left = connect('{first}')"));
    browser.wait_until("[renewed.socket.readyState, left.socket.readyState]", json!([1, 1]));
    assert_eq!(browser.eval("renewed.socket.protocol"), "json");
    browser.run(&format!("renewed.socket.send(JSON.stringify({{token: '{second}'}}))"));
    browser.wait_until("renewed.messages", json!([{"token": "accepted", "expires": null}]));
    // Its twin shows when the first token has expired.
    browser.wait_until("left.closed", json!([1008, "the authorization has expired"]));
    redis.publish_scores(["1F602"]);
    browser.wait_until("renewed.messages.at(-1).data ?? ''", "1F602");
    assert_eq!(browser.eval("[renewed.socket.readyState, renewed.closed, left.messages]"), json!([1, null, []]));
    browser.run(&format!("window.expired = connect('{first}')"));
    browser.wait_until("expired.closed", json!([1006, ""]));
}
