//! The admin page in Chromium.

use redis::Commands;
use rustix::process::Signal;

use crate::config::File;
use crate::support::{Browser, Event, EventSource, RedisServer, Tallycast, command, eventually};

const STATE: &str = "document.documentElement.dataset.connection";
const STALE: &str = "document.documentElement.dataset.stale";
/// The empty string once the page shows its first values.
const READY: &str = "document.documentElement.dataset.ready";
/// By how many pixels the page is wider than the window.
const OVERFLOW: &str = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
/// The fragment of each view, and an element with a text that it shows when it is complete.
const VIEWS: [(&str, &str, &str); 7] = [
    ("overview", "#alarms", "A source is not subscribed"),
    ("streams", "#streams tbody", "/subscribe/raw"),
    ("explore/", "#children tbody", "raw"),
    ("sessions", "#session-range", "sessions are unavailable"),
    ("config", "#options tbody", "sessions"),
    ("warnings", "#records", "subscription lost"),
    ("runbook/source-down", "#runbook-table [aria-current=true]", "source-down"),
];

const TAB: char = '\u{e004}';
const ENTER: char = '\u{e007}';
const ESCAPE: char = '\u{e00c}';
const HOME: char = '\u{e011}';
const LEFT: char = '\u{e012}';
const RIGHT: char = '\u{e014}';

/// A desktop browser that shows a view of the page.
fn open(tallycast: &Tallycast, view: &str) -> Browser {
    let browser = Browser::start();
    browser.open(tallycast, &format!("/admin/#{view}"));
    browser.wait_until(READY, "");
    browser
}

fn demo() -> Tallycast {
    let mut demo = command();
    demo.args(["demo", "--rate", "500"]);
    Tallycast::spawn(demo)
}

/// JavaScript for the text of the first element that matches `selector`.
fn text(selector: &str) -> String {
    format!("document.querySelector('{selector}').textContent")
}

/// JavaScript for whether that text includes `part`.
fn includes(selector: &str, part: &str) -> String {
    format!("document.querySelector('{selector}')?.textContent.includes('{part}')")
}

fn is_visible(selector: &str) -> String {
    format!("document.querySelector('{selector}').checkVisibility()")
}

#[test]
fn lost_broker_is_an_alarm_that_says_what_to_do() {
    let mut redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let browser = open(&tallycast, "");
    browser.wait_until(&includes("#all-well", "All is well. Sources up: 1 of 1."), true);
    assert_eq!(browser.eval(&text("#alarm-summary")), "No alarms");
    redis.kill();
    let alarm = "[data-alarm=source-down]";
    browser.wait_until(&includes(alarm, "What to do: Check that the broker runs"), true);
    browser.wait_until(&includes(alarm, "default: lost"), true);
    browser.wait_until(&includes("#sources", "lost"), true);
    assert_eq!(browser.eval(&is_visible("#all-well")), false);
    // Screen readers, other views and other tabs of the browser.
    browser.wait_until(&includes("#announcement", "critical alarm: A source is not subscribed"), true);
    assert_eq!(browser.eval("document.querySelector('#alarm-summary').dataset.severity"), "critical");
    assert_eq!(browser.eval("document.title.includes('A source is not subscribed')"), true);
    browser.screenshot("admin-alarm-light-1280");
    browser.click(&format!("{alarm} a"));
    browser.wait_until(&includes("#runbook-table [aria-current=true]", "source-down"), true);
    browser.click("[data-link=warnings]");
    browser.wait_until(&includes("#records", "subscription lost"), true);
    browser.click("[data-link=overview]");
    redis.run();
    browser.wait_until(&format!("document.querySelector('{alarm}')"), serde_json::Value::Null);
    browser.wait_until(&includes("#announcement", "no longer: A source is not subscribed"), true);
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn charts_show_values_at_the_pointer_and_by_keyboard() {
    let tallycast = demo();
    let browser = open(&tallycast, "");
    let plot = "#chart-received .chart-plot";
    let value = text("#chart-received .chart-value");
    eventually("the chart has values", || browser.eval(&value).as_str().unwrap().ends_with("/s"));
    browser.hover("#chart-delivered .u-over");
    // All charts show the same time.
    browser.wait_until(&format!("/ at [0-9:]+$/.test({value})"), true);
    browser.run(&format!("document.querySelector('{plot}').focus()"));
    browser.press(RIGHT);
    let point = format!("document.querySelector('{plot}').getAttribute('aria-valuetext')");
    browser.press(HOME);
    browser.wait_until(&format!("{point}.startsWith('no value at ')"), true);
    browser.press(RIGHT);
    browser.wait_until(&format!("/^[0-9,]+\\/s at [0-9:]+$/.test({point})"), true);
    let chosen = browser.eval(&point);
    browser.press(ESCAPE);
    browser.wait_until(&format!("{point} === '{}'", chosen.as_str().unwrap()), false);
    // The range: by keyboard as well.
    let span =
        format!("['min', 'max'].map((end) => +document.querySelector('{plot}').getAttribute('aria-value' + end))");
    let seconds = format!("{span}[1] - {span}[0]");
    assert_eq!(browser.eval(&seconds), 600);
    browser.run("document.querySelector('[name=range]').focus()");
    for seconds_of_range in [3600, 21_600, 86_400] {
        browser.press(RIGHT);
        browser.wait_until(&seconds, seconds_of_range);
    }
    browser.press(LEFT);
    browser.wait_until(&seconds, 21_600);
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn namespaces_can_be_explored_tailed_and_published_to() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--route", "news.*=/news/*"]);
    let reader = EventSource::open(&tallycast, "/subscribe/news/world");
    let browser = open(&tallycast, "explore/");
    browser.wait_until(&includes("#children", "news/"), true);
    browser.run("[...document.querySelectorAll('#children a')].find((link) => link.textContent === 'news/').click()");
    browser.wait_until("location.hash", "#explore/news");
    browser.wait_until(&includes("#children tbody tr", "world"), true);
    browser.wait_until("document.querySelector('#children tbody td:nth-child(3)').textContent", "1");
    browser.click("#tail-start");
    browser.wait_until(&text("#tail-status"), "tailing /news");
    browser.run("const field = document.querySelector('#publish-namespace'); field.value = '/news/world'");
    browser.type_text("#publish-data", "<b>stop</b> press");
    browser.click("#publish-form button");
    browser.wait_until(&includes("#publish-result", "Published to /news/world at "), true);
    assert_eq!(reader.next(), Event::message("<b>stop</b> press"));
    browser.wait_until(&includes("#tail", "<b>stop</b> press"), true);
    // A paused list shows nothing new, and everything after that.
    let to_top = "scrollTo(0, 0)";
    browser.run(to_top);
    browser.click("#tail-pause");
    redis.publish([("news.world", "later")]);
    browser.wait_until(&includes("#tail-counts", "1 waiting"), true);
    assert_eq!(browser.eval(&includes("#tail", "later")), false);
    browser.click("#tail-pause");
    browser.wait_until(&includes("#tail li", "later"), true);
    // More messages than the server passes on are counted.
    let burst: Vec<_> = (0..2000).map(|n| ("news.world", n.to_string())).collect();
    redis.publish(burst);
    browser.wait_until(&includes("#tail-counts", "skipped by the server"), true);
    browser.run("const field = document.querySelector('#publish-namespace'); field.value = 'news'");
    browser.click("#publish-form button");
    browser.wait_until(&includes("#publish-result", "Not published: "), true);
    // Back to all namespaces by the path.
    browser.run(to_top);
    browser.click("#explore-path a");
    browser.wait_until("location.hash", "#explore/");
    browser.screenshot("admin-explore-light-1280");
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn link_of_a_namespace_keeps_the_focus_while_its_row_moves() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--route", "news.*=/news/*"]);
    let _readers = ["/subscribe/news/moon", "/subscribe/news/sun"].map(|path| EventSource::open(&tallycast, path));
    let browser = open(&tallycast, "explore/news");
    browser.wait_until(&includes("#children tbody tr:last-child", "sun"), true);
    browser.wait_until("document.querySelectorAll('#children tbody tr').length", 2);
    browser.run("document.querySelector('#children tr:last-child a').focus()");
    // Those with the most messages are first.
    eventually("the row is the first", || {
        redis.publish([("news.sun", "rises")]);
        browser.eval(&includes("#children tbody tr", "sun")) == true
    });
    assert_eq!(browser.eval("document.activeElement.textContent"), "sun");
}

#[test]
fn stream_can_be_disconnected_after_a_confirmation() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--admin-token", "secret"]);
    let (client, _other) =
        (EventSource::open(&tallycast, "/subscribe/raw"), EventSource::open(&tallycast, "/subscribe/eps"));
    let browser = Browser::start();
    browser.open_url(&tallycast.url("/admin/#streams").replace("://", "://operator:secret@"));
    browser.wait_until("document.querySelectorAll('[data-connection-path]').length", 2);
    browser.type_text("#filter", "/raw");
    browser.wait_until("document.querySelectorAll('[data-connection-path]').length", 1);
    browser.click("[data-connection-path='/subscribe/raw'] button");
    browser.wait_until("document.activeElement.id", "disconnect-cancel");
    assert_eq!(browser.eval(&text("#disconnect-path")), "/subscribe/raw");
    browser.press(ENTER);
    browser.wait_until("document.querySelector('#disconnect').open", false);
    redis.publish_scores(["1F602"]);
    assert_eq!(client.next(), Event::message("1F602"));
    browser.click("[data-connection-path='/subscribe/raw'] button");
    browser.click("#disconnect-confirm");
    assert_eq!(client.rest(), []);
    browser.wait_until(&includes("#disconnect-result", "Disconnected 127.0.0.1, /subscribe/raw"), true);
    browser.wait_until("document.querySelectorAll('[data-connection-path]').length", 0);
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn read_only_page_says_why_nothing_can_be_changed() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--admin-read-only"]);
    let _client = EventSource::open(&tallycast, "/subscribe/raw");
    let browser = open(&tallycast, "explore/");
    browser.wait_until(&is_visible("#publish-read-only"), true);
    assert_eq!(browser.eval("document.querySelector('#publish-data').matches(':disabled')"), true);
    browser.click("[data-link=streams]");
    browser.wait_until("document.querySelector('[data-connection-path] button')?.disabled", true);
}

#[test]
fn configuration_shows_what_was_set_and_no_secret() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--publish-key", "hunter2", "--keep-alive", "7s"]);
    let browser = open(&tallycast, "config");
    browser.wait_until(&includes("#options", "keep-alive"), true);
    assert_eq!(browser.eval(&includes("#options", "stall-limit")), false);
    assert_eq!(browser.eval(&includes("#options", "publish-key")), true);
    assert_eq!(browser.eval("document.body.textContent.includes('hunter2')"), false);
    browser.click("#option-all");
    browser.type_text("#option-filter", "stall");
    browser.wait_until(&includes("#options", "stall-limit"), true);
    assert_eq!(browser.eval(&includes("#options", "keep-alive")), false);
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn values_look_stale_while_the_server_is_silent() {
    let tallycast = demo();
    let browser = open(&tallycast, "");
    browser.wait_until(STALE, "false");
    let colour = "getComputedStyle(document.querySelector('#messages-out')).color";
    let current = browser.eval(colour);
    tallycast.signal(Signal::STOP);
    browser.wait_until(STALE, "true");
    browser.wait_until(&format!("{}.startsWith('last update ')", text("#age")), true);
    browser.wait_until(&includes("[data-alarm=silence]", "What to do: "), true);
    assert_eq!(browser.eval(&includes("#chart-memory .chart-note", "no data since ")), true);
    assert_ne!(browser.eval(colour), current);
    assert_eq!(browser.accessibility_violations(), [""; 0]);
    browser.screenshot("admin-stale-light-1280");
    tallycast.signal(Signal::CONT);
    browser.wait_until(STALE, "false");
    browser.wait_until(&is_visible("#all-well"), true);
    drop(tallycast);
    browser.wait_until(STATE, "reconnecting");
    browser.wait_until(STALE, "true");
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn page_says_that_the_token_has_changed() {
    let redis = RedisServer::start();
    let file = File::new("admin-token = \"first\"\n");
    let tallycast = Tallycast::start(&redis, &["--config", &file.path().display().to_string()]);
    let browser = Browser::start();
    browser.open_url(&tallycast.url("/admin/").replace("://", "://operator:first@"));
    browser.wait_until(READY, "");
    assert_eq!(browser.eval(&is_visible("#unauthorized")), false);
    file.write("admin-token = \"second\"\n");
    tallycast.signal(Signal::HUP);
    tallycast.wait_for_log("configuration reloaded");
    browser.click("[data-link=config]");
    browser.wait_until(&is_visible("#unauthorized"), true);
}

#[test]
fn everything_can_be_reached_by_keyboard() {
    let tallycast = demo();
    let browser = open(&tallycast, "");
    let mut reached = Vec::new();
    let focus = "(({ id, className, dataset, name }) => dataset.link ?? (id || className || name || ''))(document.activeElement)";
    while reached.last().is_none_or(|last| last != "errors-all") && reached.len() < 40 {
        browser.press(TAB);
        reached.push(browser.eval(focus).as_str().unwrap().to_owned());
    }
    for part in ["alarm-summary", "overview", "explore", "range", "chart-plot", "errors-all"] {
        assert!(reached.iter().any(|id| id == part), "{part} is not in {reached:?}");
    }
    browser.run("document.querySelector('[data-link=explore]').focus()");
    browser.press(ENTER);
    browser.wait_until("document.activeElement.id", "explore-title");
    browser.press(TAB);
    assert_eq!(browser.eval("document.activeElement.id"), "explore-namespace");
    browser.run("document.activeElement.select()");
    for key in "/details".chars().chain([ENTER]) {
        browser.press(key);
    }
    browser.wait_until("location.hash", "#explore/details");
}

/// Saves screenshots of all views in both themes and at both widths.
#[test]
fn views_fit_desktops_and_phones_and_are_accessible_in_both_themes() {
    let mut redis = RedisServer::start();
    let () = redis.connect().zadd("emojitrack_score", "1F602", 1).unwrap();
    let tallycast = Tallycast::start(&redis, &["--cluster", "--sessions"]);
    let _clients = [0, 1, 2].map(|_| EventSource::open(&tallycast, "/subscribe/raw"));
    let browsers = [(1280, false), (360, true)].map(|(width, dark)| {
        let browser = Browser::start_with(width, dark);
        browser.open(&tallycast, "/admin/");
        browser.wait_until(READY, "");
        browser.wait_until("matchMedia('(prefers-color-scheme: dark)').matches", dark);
        eventually("the page shows a rate", || browser.eval(&text("#messages-out")).as_str() != Some("–"));
        assert_eq!(browser.layout_shifts(), [""; 0], "at {width} pixels");
        assert_eq!(browser.accessibility_violations(), [""; 0], "at {width} pixels");
        (width, dark, browser)
    });
    redis.kill();
    for (width, dark, browser) in &browsers {
        for (view, content, part) in VIEWS {
            browser.run(&format!("location.hash = '{view}'"));
            let (name, _) = view.split_once('/').unwrap_or((view, ""));
            browser.wait_until(&is_visible(&format!("[data-view={name}]")), true);
            browser.wait_until(&includes(content, part), true);
            let what = format!("{name} at {width} pixels");
            assert_eq!(browser.accessibility_violations(), [""; 0], "{what}");
            assert_eq!(browser.eval(OVERFLOW), 0, "{what} is too wide");
            browser.screenshot(&format!("admin-{name}-{}-{width}", if *dark { "dark" } else { "light" }));
        }
        assert_eq!(browser.console_messages(), [""; 0]);
    }
}
