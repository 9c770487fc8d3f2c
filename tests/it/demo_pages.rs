//! The pages of `tallycast demo` in Chromium.

use std::fs::File;

use serde_json::{Value, json};

use crate::support::{Browser, Tallycast, TempDir, command, eventually, get, post, run};

const STATE: &str = "document.documentElement.dataset.connection";

fn demo() -> Tallycast {
    let mut demo = command();
    demo.args(["demo", "--publish-key", "key"]);
    Tallycast::spawn(demo)
}

/// The text of an element.
fn text(selector: &str) -> String {
    format!("document.querySelector('{selector}').textContent")
}

/// The number at the start of the text of an element, or null.
fn number(selector: &str) -> String {
    format!("parseFloat({}.replaceAll(',', ''))", text(selector))
}

/// Waits until a figure of the page is at least `least`.
#[track_caller]
fn until_at_least(browser: &Browser, selector: &str, least: f64) {
    let figure = number(selector);
    eventually(&format!("{selector} is at least {least}"), || browser.eval(&figure).as_f64() >= Some(least));
}

/// Opens a page and waits until it is live.
fn open(browser: &Browser, demo: &Tallycast, page: &str) {
    browser.open(demo, &format!("/demo/{page}"));
    browser.wait_until(STATE, "live");
}

/// The texts of what a page shows of the files whose names end with `end`, with the names.
fn shown(browser: &Browser, end: &str) -> Vec<(String, String)> {
    let list = format!(
        "[...document.querySelectorAll('[data-shows$=\"{end}\"]')].map(code => [code.dataset.shows, code.textContent])"
    );
    serde_json::from_value(browser.eval(&list)).unwrap()
}

/// The number of streams that read a topic.
fn readers(demo: &Tallycast, topic: &str) -> Value {
    demo.json(&format!("/subscriptions?topic={topic}"))["count"].clone()
}

#[test]
fn pages_are_live_and_show_what_they_are_made_of() {
    let demo = demo();
    let directory = TempDir::new();
    let (desktop, phone) = (Browser::start_with(1440, false), Browser::start_with(360, true));
    for page in ["", "counter", "prices", "chat", "notifications"] {
        for browser in [&desktop, &phone] {
            open(browser, &demo, page);
            match page {
                "counter" => {
                    until_at_least(browser, "#sum", 1e9);
                    until_at_least(browser, "#counted", 1.0);
                }
                "prices" => browser.wait_until("document.querySelectorAll('#prices tr').length", 20),
                "chat" => eventually("there are messages", || {
                    browser.eval("document.querySelectorAll('.message').length").as_u64() > Some(7)
                }),
                "notifications" => until_at_least(browser, "#received", 5.0),
                _ => {
                    let waiting =
                        "[...document.querySelectorAll('.sample')].filter(line => /Waiting/.test(line.textContent))";
                    browser.wait_until(&format!("{waiting}.length"), 0);
                }
            }
            let width = browser.eval("document.documentElement.scrollWidth - innerWidth");
            assert!(width.as_f64() <= Some(0.0), "/demo/{page} is wider than its window by {width}");
            // Notices and messages make room for newer ones.
            let is_list = |shift: &String| shift.contains("notice-item") || shift.contains(" message");
            let moved = browser.layout_shifts().into_iter().filter(|shift| !is_list(shift));
            assert_eq!(moved.collect::<Vec<_>>(), [""; 0], "/demo/{page}");
            assert_eq!(browser.accessibility_violations(), [""; 0], "/demo/{page}");
        }
        for (file, config) in shown(&desktop, ".toml") {
            let path = directory.path().join(&file);
            std::fs::write(&path, &config).unwrap();
            let check = run(command().arg("check").arg("--config").arg(&path));
            assert!(check.status.success(), "{file}: {}", String::from_utf8_lossy(&check.stderr));
            let printed = String::from_utf8(check.stdout).unwrap();
            let from_file = printed.lines().filter(|line| line.ends_with(&file)).count();
            assert_eq!(from_file, config.lines().count(), "{printed}");
        }
        let code = shown(&desktop, ".js");
        assert_eq!(code.len(), 1);
        for (file, code) in code {
            let module = demo.get(&format!("/assets/{file}")).1;
            assert!(module.contains(&code), "{file} does not contain {code}");
        }
    }
    for browser in [&desktop, &phone] {
        assert_eq!(browser.console_messages(), [""; 0]);
    }
}

#[test]
fn watch_list_changes_the_topics_of_the_connection() {
    let demo = demo();
    let browser = Browser::start();
    open(&browser, &demo, "prices");
    browser.wait_until("document.querySelectorAll('#prices tr').length", 20);
    browser.wait_until(&format!("{}.endsWith(' ms')", text("#first")), true);
    eventually("all prices are read", || readers(&demo, "/prices/*") == 1);
    let connected = demo.counter("/hub/connected");
    browser.click("#few");
    let five = ["ACME", "BOLT", "CLOUD", "DRIFT", "EMBER"].map(|symbol| format!("/prices/{symbol}"));
    browser.wait_until(&text("#topics"), five.join(" "));
    eventually("five prices are read", || five.iter().all(|topic| readers(&demo, topic) == 1));
    eventually("others are not", || readers(&demo, "/prices/*") == 0);
    browser.click("#prices tr:nth-child(2) input");
    eventually("a price is not read any more", || readers(&demo, &five[1]) == 0);
    assert_eq!(browser.eval("document.querySelectorAll('#prices .unwatched').length"), 16);
    assert_eq!(demo.counter("/hub/connected"), connected);
    // A slow connection skips most prices, and shows new ones nevertheless.
    browser.run(
        "const rate = document.querySelector('#rate'); rate.value = '1/s'; rate.dispatchEvent(new Event('change'))",
    );
    until_at_least(&browser, "#skipped", 50.0);
    let price = browser.eval(&text("#prices td.number"));
    eventually("the price changes", || browser.eval(&text("#prices td.number")) != price);
    assert_eq!(demo.counter("/hub/connected"), connected + 1);
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn chat_reaches_the_other_window_and_is_there_after_a_reload() {
    let demo = demo();
    let [ann, ben] = [Browser::start(), Browser::start_with(360, false)];
    for (browser, name) in [(&ann, "Ann"), (&ben, "Ben")] {
        open(browser, &demo, "chat");
        browser.type_text("#name", name);
        browser.click("#join button");
        browser.wait_until("document.querySelector('#composer').checkVisibility()", true);
    }
    // The key Enter, as WebDriver writes it.
    ann.type_text("#text", "Hello <b>Ben</b>\u{e007}");
    let from = |who: &str| {
        format!(
            "[...document.querySelectorAll('.message')].filter(item => item.querySelector('b').textContent === '{who}')\
             .map(item => item.querySelector('.text').textContent)"
        )
    };
    ben.wait_until(&from("Ann"), json!(["Hello <b>Ben</b>"]));
    ann.wait_until(&from("You"), json!(["Hello <b>Ben</b>"]));
    for browser in [&ann, &ben] {
        browser.wait_until(&format!("{}.startsWith('2 joined: Ann, Ben')", text("#people")), true);
    }
    open(&ben, &demo, "chat");
    ben.wait_until(&from("Ann"), json!(["Hello <b>Ben</b>"]));
    ann.wait_until(&format!("{}.startsWith('1 joined: Ann')", text("#people")), true);
    assert_eq!([ann.console_messages(), ben.console_messages()], [[""; 0], [""; 0]]);
}

#[test]
fn notices_that_came_while_offline_arrive_once() {
    let demo = demo();
    let browser = Browser::start();
    open(&browser, &demo, "notifications");
    until_at_least(&browser, "#received", 5.0);
    browser.click("#read");
    browser.click("#offline");
    browser.wait_until(STATE, "closed");
    let shown = "[...document.querySelectorAll('.notice-item p')].map(item => item.textContent).filter(text => text.startsWith('Missed'))";
    for count in 1..=3 {
        let notice = json!({ "text": format!("Missed {count}") }).to_string();
        let sent = post(&demo, "/publish/notices/ada", &[("authorization", "Bearer key")], &notice);
        assert_eq!(sent.status, 200);
    }
    browser.wait_until(STATE, "live");
    browser.wait_until(shown, json!(["Missed 3", "Missed 2", "Missed 1"]));
    let received = browser.eval(&number("#received")).as_f64().unwrap();
    until_at_least(&browser, "#received", received + 1.0);
    assert_eq!(browser.eval(shown), json!(["Missed 3", "Missed 2", "Missed 1"]));
    assert_eq!([browser.eval(&text("#lost")), browser.eval(&text("#twice"))], ["0", "0"]);
    // The other user has other ones, and what is missed meanwhile comes, too.
    browser.click("input[value=ben]");
    browser.wait_until(STATE, "live");
    until_at_least(&browser, "#received", 5.0);
    assert_eq!(browser.eval(shown), json!([]));
    browser.click("input[value=ada]");
    until_at_least(&browser, "#received", received + 2.0);
    assert_eq!(browser.eval(shown), json!(["Missed 3", "Missed 2", "Missed 1"]));
    assert_eq!([browser.eval(&text("#lost")), browser.eval(&text("#twice"))], ["0", "0"]);
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn only_the_demo_has_the_pages_and_says_so_at_its_start() {
    let serve = Tallycast::start_unready("redis://127.0.0.1:1", &[]);
    for path in ["/demo/", "/demo/prices", "/assets/demo-prices.js"] {
        assert_eq!(serve.get(path).0, 404, "{path}");
    }
    let directory = TempDir::new();
    let output = directory.path().join("output");
    let mut demo = command();
    demo.arg("demo").env("PORT", "0").stdout(File::create(&output).unwrap());
    let demo = Tallycast::spawn_with_stdout(demo);
    eventually("the demo says where it is", || std::fs::read_to_string(&output).unwrap().contains(&demo.url("/demo/")));
    assert_eq!(get(&demo, "/demo", &[]).header("location"), "/demo/");
}
