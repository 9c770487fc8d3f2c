//! The admin page in Chromium.

use crate::support::{Browser, RedisServer, Tallycast, command, eventually};

const STATE: &str = "document.documentElement.dataset.connection";
/// By how many pixels the page is wider than the window.
const OVERFLOW: &str = "document.documentElement.scrollWidth - document.documentElement.clientWidth";

#[test]
fn admin_page_lists_connections() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--admin-token", "secret"]);
    let board = Browser::start();
    board.open(&tallycast, "/");
    board.wait_until(STATE, "live");
    let browser = Browser::start();
    browser.open_url(&tallycast.url("/admin/").replace("://", "://operator:secret@"));
    browser.wait_until(STATE, "live");
    browser.wait_until("document.querySelectorAll('[data-connection-path=\"/subscribe/eps\"]').length", 1);
    browser.wait_until("document.querySelector('#connections').textContent.trim() !== ''", true);
    browser.type_text("#filter", "/raw");
    browser.wait_until("document.querySelectorAll('[data-connection-path]').length", 0);
    assert_eq!(browser.console_messages(), [""; 0]);
}

/// Saves a screenshot in both themes and at both widths.
#[test]
fn admin_page_fits_desktops_and_phones_in_both_themes() {
    let mut demo = command();
    demo.args(["demo", "--rate", "500"]);
    let demo = Tallycast::spawn(demo);
    for (width, dark) in [(1280, false), (1280, true), (360, false), (360, true)] {
        let browser = Browser::start_with(width, dark);
        browser.open(&demo, "/admin/");
        browser.wait_until(STATE, "live");
        browser.wait_until("matchMedia('(prefers-color-scheme: dark)').matches", dark);
        assert_eq!(browser.eval(OVERFLOW), 0, "wider than {width} pixels");
        let rate = "parseInt(document.querySelector('#messages-out').textContent) || 0";
        eventually("the page shows a rate", || browser.eval(rate).as_u64() > Some(0));
        browser.screenshot(&format!("admin-{}-{width}", if dark { "dark" } else { "light" }));
        assert_eq!(browser.console_messages(), [""; 0]);
    }
}
