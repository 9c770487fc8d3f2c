//! The chat and the notifications in Chromium, with `tallycast demo`.

use serde_json::{Value, json};

use crate::support::{Browser, RedisServer, Tallycast, WebSocket, command, post};

const STATE: &str = "document.documentElement.dataset.connection";
/// The messages that a chat shows: who, and what.
const SHOWN: &str = "[...document.querySelectorAll('.message')].map(item => \
     item.querySelector('b').textContent + ': ' + item.querySelector('.text').textContent).join(' | ')";
const ERROR: &str = "document.querySelector('#join-error').textContent";

fn demo(flags: &[&str]) -> Tallycast {
    let mut demo = command();
    demo.args(["demo", "--rate", "1", "--publish-key", "key"]).args(flags);
    Tallycast::spawn(demo)
}

fn join(browser: &Browser, demo: &Tallycast, name: &str) {
    browser.open(demo, "/web/chat");
    browser.type_text("#name", name);
    browser.click("#join button");
}

fn write(browser: &Browser, text: &str) {
    browser.type_text("#text", text);
    // The key Enter, as WebDriver writes it.
    browser.type_text("#text", "\u{e007}");
}

/// Waits until nothing moves any more.
fn settle(browser: &Browser) {
    browser.wait_until("document.getAnimations().length", 0);
}

/// Nothing is wider than the window.
#[track_caller]
fn expect_no_overflow(browser: &Browser) {
    assert_eq!(browser.eval("document.documentElement.scrollWidth <= innerWidth"), Value::Bool(true));
}

#[test]
fn two_windows_chat() {
    let demo = demo(&[]);
    let [ann, bob] = [(1440, false), (360, true)].map(|(width, dark)| Browser::start_with(width, dark));
    ann.open(&demo, "/web/chat");
    ann.screenshot("chat-join-light-1440");
    assert_eq!(ann.eval("document.activeElement.id"), "name");
    ann.click("#join button");
    ann.wait_until(ERROR, "Enter a name.");
    join(&ann, &demo, "Ann");
    ann.wait_until(STATE, "live");
    ann.wait_until("document.activeElement.id", "text");
    // The name is taken, and then it is not.
    bob.open(&demo, "/web/chat");
    bob.type_text("#name", "Ann");
    bob.click("#join button");
    bob.wait_until(ERROR, "This name is taken. Choose another one.");
    bob.screenshot("chat-taken-dark-360");
    assert_eq!(bob.eval("document.activeElement.id"), "name");
    bob.type_text("#name", "Bob");
    bob.click("#join button");
    bob.wait_until(STATE, "live");
    bob.screenshot("chat-empty-dark-360");
    write(&ann, "Hello Bob, are you there?");
    bob.wait_until(SHOWN, "Ann: Hello Bob, are you there?");
    write(
        &bob,
        "Yes. <b>not bold</b> 😂 https://example.com/a/long/path/without/any/space/that/has/to/be/broken/somewhere",
    );
    let [first, second] = ["Hello Bob, are you there?", "Yes. <b>not bold</b>"];
    ann.wait_until(&format!("{SHOWN}.startsWith('You: {first} | Bob: {second}')"), true);
    bob.wait_until(&format!("{SHOWN}.startsWith('Ann: {first} | You: {second}')"), true);
    // Each is shown once, to its writer, too.
    for browser in [&ann, &bob] {
        assert_eq!(browser.eval("document.querySelectorAll('.message').length"), 2);
        assert_eq!(browser.eval("document.querySelectorAll('.message.own').length"), 1);
        assert_eq!(browser.eval("document.querySelectorAll('.message .text *').length"), 0);
        expect_no_overflow(browser);
    }
    let pushed = post(
        &demo,
        "/api/v1/channels/chat/messages",
        &[("authorization", "Bearer key")],
        r#"{"payload":"The room closes at ten."}"#,
    );
    assert_eq!(pushed.status, 200);
    for browser in [&ann, &bob] {
        browser.wait_until(&format!("{SHOWN}.endsWith(' | Server: The room closes at ten.')"), true);
    }
    settle(&ann);
    ann.screenshot("chat-light-1440");
    bob.screenshot("chat-dark-360");
    ann.click("#leave");
    ann.wait_until("document.querySelector('#join').checkVisibility()", true);
    assert_eq!([ann.console_messages(), bob.console_messages()], [[""; 0], [""; 0]]);
}

#[test]
fn chat_says_why_there_is_no_place_and_comes_back() {
    let redis = RedisServer::start();
    let flags = ["--realtime-pages", "--realtime-channel", "chat,type=WS,max=1"];
    let node = Tallycast::start(&redis, &flags);
    let address = node.address;
    let browser = Browser::start_with(768, true);
    browser.open(&node, "/web/chat?channel=nix");
    browser.type_text("#name", "Ann");
    browser.click("#join button");
    browser.wait_until(ERROR, "There is no channel “nix”.");
    let other = WebSocket::open(&node, "/api/v1/channels/chat?clientId=bob&upgrade=1");
    browser.open(&node, "/web/chat");
    assert_eq!(browser.eval("document.querySelector('#name').value"), "Ann");
    browser.click("#join button");
    browser.wait_until(ERROR, "The channel is full. Try again later.");
    browser.screenshot("chat-full-dark-768");
    drop(other);
    browser.run("document.querySelector('#join').requestSubmit()");
    browser.wait_until(
        &format!(
            "(() => {{ if ({STATE} === 'closed') document.querySelector('#join').requestSubmit(); return {STATE}; }})()"
        ),
        "live",
    );
    write(&browser, "before");
    browser.wait_until(SHOWN, "You: before");
    node.terminate();
    browser.wait_until(STATE, "reconnecting");
    browser.wait_until("document.querySelector('#notice').checkVisibility()", true);
    assert_eq!(browser.eval("document.querySelector('#send').disabled"), true);
    browser.screenshot("chat-lost-dark-768");
    let add = |id: &str| {
        let message = json!({"id": id, "channelId": "chat", "clientId": "zoe", "payload": id, "createdAt": ""});
        let mut command = redis::cmd("XADD");
        let _: String =
            command.arg("chat").arg("*").arg(id).arg(message.to_string()).query(&mut redis.connect()).unwrap();
    };
    add("missed");
    let mut again = command();
    again.arg("serve").env("REDIS_URL", redis.url()).args(flags);
    let again = Tallycast::spawn_at(again, address.port());
    again.until_ready();
    browser.wait_until(STATE, "live");
    add("after");
    browser.wait_until(&format!("{SHOWN}.replace(' | You: May', '')"), "You: before | zoe: missed | zoe: after");
    browser.wait_until("document.querySelector('#notice').checkVisibility()", false);
    assert_eq!(browser.console_messages(), [""; 0]);
}

/// What other programs add need not be a message with an ID, nor an object.
#[test]
fn entries_of_other_programs_are_shown_as_they_are() {
    let redis = RedisServer::start();
    let flags = ["--realtime-pages", "--realtime-channel", "chat,type=WS"];
    let node = Tallycast::start(&redis, &flags);
    let browser = Browser::start_with(768, false);
    join(&browser, &node, "Ann");
    browser.wait_until(STATE, "live");
    let texts = ["{\"a\":1}", "{\"a\":2}", "{\"id\":3}", "{\"id\":3}", "null", "4", "[5]", "not JSON"];
    let mut connection = redis.connect();
    for text in texts {
        let mut command = redis::cmd("XADD");
        let _: String = command.arg("chat").arg("*").arg("text").arg(text).query(&mut connection).unwrap();
    }
    browser.wait_until(SHOWN, texts.map(|text| format!("unknown: {text}")).join(" | "));
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn network_that_comes_back_during_an_attempt_leads_to_one_socket() {
    let redis = RedisServer::start();
    let flags = ["--realtime-pages", "--realtime-channel", "chat,type=WS,max=1"];
    let node = Tallycast::start(&redis, &flags);
    let browser = Browser::start_with(768, false);
    browser.open(&node, "/web/chat");
    browser.type_text("#name", "Ann");
    // Answers take their time, and sockets are counted.
    browser.run(
        "const { fetch, WebSocket } = window; \
         window.probes = window.sockets = 0; \
         window.fetch = async (...request) => { \
           probes += 1; await new Promise((done) => setTimeout(done, 300)); return fetch(...request); }; \
         window.WebSocket = class extends WebSocket { constructor(url) { super(url); sockets += 1; } }; \
         document.querySelector('#join').requestSubmit(); \
         dispatchEvent(new Event('online')); dispatchEvent(new Event('online'));",
    );
    browser.wait_until(STATE, "live");
    assert_eq!(browser.eval("[probes, sockets]"), json!([3, 1]));
    write(&browser, "alone");
    browser.wait_until(SHOWN, "You: alone");
    assert_eq!(browser.eval(STATE), "live");
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn notifications_appear_as_they_are_sent() {
    let demo = demo(&[]);
    let browsers =
        [(1440, false), (768, true), (360, false)].map(|(width, dark)| (width, Browser::start_with(width, dark)));
    for (width, browser) in &browsers {
        browser.open(&demo, "/web/notifications");
        browser.wait_until(STATE, "live");
        browser.wait_until("document.querySelector('#empty').checkVisibility()", true);
        browser.screenshot(&format!("notifications-empty-{width}"));
        expect_no_overflow(browser);
    }
    let texts =
        ["Deployment of build 4711 has begun.", "Build 4711 is live.\nRead the log.", "<img src=x onerror=alert(1)>"];
    for text in texts {
        let body = json!({ "payload": text }).to_string();
        let sent = post(&demo, "/api/v1/channels/notifications/messages", &[("authorization", "Bearer key")], &body);
        assert_eq!(sent.status, 200);
    }
    let shown = "[...document.querySelectorAll('.notification .text')].map(text => text.textContent)";
    let newest_first: Vec<&str> = texts.into_iter().rev().collect();
    for (width, browser) in &browsers {
        browser.wait_until(shown, newest_first.clone());
        settle(browser);
        browser.screenshot(&format!("notifications-{width}"));
        expect_no_overflow(browser);
    }
    // A page that opens later shows the last ones, too.
    let (_, browser) = &browsers[0];
    browser.open(&demo, "/web/notifications");
    browser.wait_until(shown, newest_first);
    browser.click("#clear");
    browser.wait_until("document.querySelector('#empty').checkVisibility()", true);
    browser.open(&demo, "/web/notifications?channel=nix");
    browser.wait_until("document.querySelector('#reason').textContent", "There is no channel “nix”.");
    browser.screenshot("notifications-refused-1440");
    for (_, browser) in &browsers {
        assert_eq!(browser.console_messages(), [""; 0]);
    }
}
