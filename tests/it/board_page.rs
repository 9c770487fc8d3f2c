//! The board in Chromium, and the headers of all pages.

use std::process::Command;

use redis::Commands;
use serde_json::Value;

use crate::support::{Browser, RedisServer, Tallycast, command, eventually, get, run};

const SCORES: &str = "emojitrack_score";
const STATE: &str = "document.documentElement.dataset.connection";
/// By how many pixels the page is wider than the window.
const OVERFLOW: &str = "document.documentElement.scrollWidth - document.documentElement.clientWidth";

/// Increments and publishes scores, like a feeder.
fn update(redis: &RedisServer, ids: &[&str]) {
    let mut transaction = redis::pipe();
    transaction.atomic();
    for id in ids {
        transaction.zincr(SCORES, id, 1).ignore().publish("stream.score_updates", id).ignore();
    }
    let () = transaction.query(&mut redis.connect()).unwrap();
}

/// JavaScript for all totals that the board shows, as `ID=score` sorted by ID; see [`scores`].
const SHOWN: &str = "[...document.querySelectorAll('[data-id]')].map(cell => cell.dataset.id + '=' + \
     (cell.matches('[data-total]') ? cell : cell.querySelector('[data-total]')).dataset.total).sort().join(' ')";

/// The totals in Redis, in the format of [`SHOWN`].
fn scores(redis: &RedisServer) -> String {
    let scores: Vec<(String, f64)> = redis.connect().zrange_withscores(SCORES, 0, -1).unwrap();
    let mut scores: Vec<String> = scores.into_iter().map(|(id, score)| format!("{id}={score}")).collect();
    scores.sort();
    scores.join(" ")
}

fn post(text: &str) -> String {
    let post = serde_json::json!({
        "id": "1", "text": text, "screen_name": "bob", "name": "Bob", "links": [],
        "profile_image_url": "http://example.com/a.png", "created_at": "2026-11-20T10:00:00+00:00",
    });
    post.to_string()
}

#[test]
fn board_totals_are_exact_after_an_outage() {
    let mut redis = RedisServer::start();
    let () = redis.connect().zadd_multiple(SCORES, &[(1234, "1F602"), (99, "2764"), (5, "ANZ.ASX")]).unwrap();
    let tallycast = Tallycast::start(&redis, &[]);
    let browser = Browser::start();
    browser.open(&tallycast, "/");
    browser.wait_until(STATE, "live");
    browser.wait_until(SHOWN, scores(&redis));
    update(&redis, &["1F602", "1F602", "2764", "1F525"]);
    browser.wait_until(SHOWN, scores(&redis));
    browser.wait_until("document.querySelector('[data-id=\"1F602\"]').textContent.includes('1,236')", true);
    // Redis has no persistence: after the restart its scores are lower than those shown.
    redis.kill();
    browser.wait_until("document.querySelector('#state').textContent", "source down");
    let colours = "getComputedStyle(document.querySelector('#state')).color";
    let bad = browser.eval(colours);
    redis.run();
    update(&redis, &["2764", "2764", "26"]);
    tallycast.until_ready();
    browser.wait_until("document.querySelector('#state').textContent", "live");
    assert_ne!(browser.eval(colours), bad);
    // Removed emoji are shown with zero.
    browser.wait_until(&format!("{SHOWN}.split(' ').filter(cell => !cell.endsWith('=0')).join(' ')"), scores(&redis));
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn board_shows_the_highest_of_many_totals() {
    const KEYS: usize = 150_000;
    let redis = RedisServer::start();
    let mut names: Vec<String> = (0..KEYS).map(|number| format!("key-{number:06}")).collect();
    // Names of properties that every object has, at both ends.
    names[0] = "valueOf".to_owned();
    names.splice(KEYS - 3.., ["__proto__", "constructor", "toString"].map(str::to_owned));
    let members: Vec<(usize, &String)> = names.iter().enumerate().map(|(score, name)| (score + 1, name)).collect();
    for members in members.chunks(10_000) {
        let () = redis.connect().zadd_multiple(SCORES, members).unwrap();
    }
    let tallycast = Tallycast::start(&redis, &["--max-totals", "200000", "--totals-interval", "5s"]);
    let browser = Browser::start();
    browser.open(&tallycast, "/");
    browser.wait_until(STATE, "live");
    browser.wait_until("document.querySelectorAll('[data-id]').length", 2000);
    browser.wait_until("document.querySelector('#more').textContent", "148,000 more with lower totals are not shown.");
    browser.wait_until("document.querySelector('#sum').textContent", "11,250,075,000");
    let total = |id: &str| format!("document.querySelector('[data-id=\"{id}\"] [data-total]')?.dataset.total ?? null");
    for (name, total_of) in [("toString", "150000"), ("constructor", "149999"), ("__proto__", "149998")] {
        browser.wait_until(&total(name), total_of);
    }
    assert_eq!(browser.eval(&total("valueOf")), Value::Null);
    update(&redis, &["__proto__", "constructor", "toString", "valueOf"]);
    browser.wait_until(&total("__proto__"), "149999");
    // A total that passes that of a cell takes its place. The reader learns it by a correction.
    let () = redis.connect().zadd(SCORES, "valueOf", 1_000_000).unwrap();
    browser.wait_until(&total("valueOf"), "1000000");
    assert_eq!(browser.eval("document.querySelectorAll('[data-id]').length"), 2000);
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn board_shows_that_totals_are_unavailable() {
    let notice = "document.querySelector('#notice').textContent";
    let visible = "document.querySelector('#notice').checkVisibility()";
    let redis = RedisServer::start();
    update(&redis, &["1F602", "2764"]);
    let tallycast = Tallycast::start(&redis, &["--totals-interval", "1s"]);
    let open = Browser::start_with(360, true);
    open.open(&tallycast, "/");
    open.wait_until(SHOWN, scores(&redis));
    assert_eq!(open.eval(visible), false);
    let () = redis.connect().set(SCORES, "text").unwrap();
    let reason = "the key has a value that is not a sorted set.";
    open.wait_until(notice, format!("These totals may be wrong: {reason}"));
    assert_eq!(open.eval(STATE), "live");
    open.screenshot("board-outdated-dark-360");
    let late = Browser::start();
    late.open(&tallycast, "/");
    late.wait_until(notice, format!("Not live: the totals of /eps are unavailable: {reason}"));
    assert_eq!(late.eval(STATE), "reconnecting");
    late.screenshot("board-refused-light-1280");
    let () = redis.connect().del(SCORES).unwrap();
    update(&redis, &["2764"]);
    let shown = format!("{SHOWN}.split(' ').filter(cell => !cell.endsWith('=0')).join(' ')");
    for browser in [&open, &late] {
        browser.wait_until(&shown, scores(&redis));
        browser.wait_until(visible, false);
        assert_eq!(browser.console_messages(), [""; 0]);
    }
}

#[test]
fn board_shows_that_totals_are_not_known_yet() {
    let mut serve = command();
    // No Redis listens there.
    serve.arg("serve").env("REDIS_URL", "redis://127.0.0.1:1");
    let tallycast = Tallycast::spawn(serve);
    let browser = Browser::start();
    browser.open(&tallycast, "/");
    // The server refuses each request after a while, when the page has begun the next attempt.
    let expected = "Not live: the totals of /eps are not known yet.";
    browser.wait_until("document.querySelector('#notice').textContent", expected);
}

#[test]
fn board_shows_lost_connection_and_recovers() {
    let redis = RedisServer::start();
    update(&redis, &["1F602"]);
    let tallycast = Tallycast::start(&redis, &[]);
    let address = tallycast.address;
    let browser = Browser::start();
    browser.open(&tallycast, "/");
    browser.wait_until(STATE, "live");
    browser.wait_until("document.querySelector('#rate').textContent", "0 counts/s");
    // The sparkline begins with the page, and ends with the connection.
    let drawn = |from: f32, to: f32| {
        format!(
            "((canvas) => canvas.getContext('2d').getImageData(canvas.width * {from}, 0, canvas.width * {to}, \
             canvas.height).data.some(value => value))(document.querySelector('#sparkline'))"
        )
    };
    browser.wait_until(&drawn(0.5, 0.5), true);
    assert_eq!(browser.eval(&drawn(0.0, 0.5)), false);
    tallycast.terminate();
    browser.wait_until(STATE, "reconnecting");
    browser.wait_until("document.querySelector('#rate').textContent", "– counts/s");
    browser.wait_until(&drawn(0.98, 0.02), false);
    update(&redis, &["1F602", "2764"]);
    let mut again = command();
    again.arg("serve").env("REDIS_URL", redis.url());
    let _again = Tallycast::spawn_at(again, address.port());
    browser.wait_until(STATE, "live");
    browser.wait_until(SHOWN, scores(&redis));
}

#[test]
fn panel_shows_posts_as_text() {
    let redis = RedisServer::start();
    update(&redis, &["1F602", "2764"]);
    let text = "<script>document.title = 'hit'</script><img src=x onerror=alert(1)> & so on 😂";
    let () = redis.connect().lpush("emojitrack_tweets_1F602", post("an older one")).unwrap();
    let tallycast = Tallycast::start(&redis, &[]);
    let browser = Browser::start();
    browser.open(&tallycast, "/");
    browser.wait_until(STATE, "live");
    browser.click("[data-id='1F602']");
    browser.wait_until("document.querySelectorAll('#panel .post').length", 1);
    tallycast.until_counter("/hub/connections", 2);
    redis.publish_post("1F602", &post(text));
    browser.wait_until("document.querySelectorAll('#panel .post').length", 2);
    // Newest first.
    assert_eq!(browser.eval(&format!("document.querySelector('#panel .post').textContent.includes({text:?})")), true);
    assert_ne!(browser.eval("document.title"), "hit");
    assert_eq!(browser.eval("document.querySelectorAll('#panel .post script, #panel .post img').length"), 0);
    // A paused panel shows no new posts.
    browser.click("#pause");
    redis.publish_post("1F602", &post("a third"));
    tallycast.until_counter("/hub/broadcast", 2);
    browser.wait_until("document.querySelector('#selection').textContent", ", 1 new");
    assert_eq!(browser.eval("document.querySelectorAll('#panel .post').length"), 2);
    browser.click("#pause");
    browser.wait_until("document.querySelectorAll('#panel .post').length", 3);
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn board_search_finds_names_and_keywords() {
    let redis = RedisServer::start();
    update(&redis, &["1F602", "1F63B", "2764", "ANZ.ASX"]);
    let tallycast = Tallycast::start(&redis, &[]);
    let browser = Browser::start();
    browser.open(&tallycast, "/");
    browser.wait_until(SHOWN, scores(&redis));
    let found = "[...document.querySelectorAll('[data-id]')].filter(cell => cell.checkVisibility()) \
         .map(cell => cell.dataset.id).sort().join(' ')";
    for (text, ids) in [
        ("heart", "1F63B 2764"),
        // A keyword that is not in the name.
        ("lol", "1F602"),
        (":heart_eyes", "1F63B"),
        ("anz", "ANZ.ASX"),
        ("😂", "1F602"),
        ("nothing like this", ""),
    ] {
        browser.run("document.querySelector('#search').value = ''");
        browser.type_text("#search", text);
        browser.wait_until(found, ids);
    }
    browser.wait_until("document.querySelector('#no-matches').textContent", "Nothing matches “nothing like this”.");
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn board_addresses_name_the_symbol_that_is_open() {
    let redis = RedisServer::start();
    update(&redis, &["1F602", "2764", "2764", "ANZ/ASX"]);
    let tallycast = Tallycast::start(&redis, &[]);
    let browser = Browser::start();
    let title = "document.querySelector('#panel').checkVisibility() ? document.querySelector('#panel-title').textContent : null";
    browser.open(&tallycast, "/#1F602");
    browser.wait_until(title, "Posts with face with tears of joy");
    browser.click("#close");
    browser.wait_until(title, Value::Null);
    assert_eq!(browser.eval("location.hash"), "");
    // Back closes the panel, whatever it has shown since it was opened.
    browser.click("[data-id='ANZ/ASX']");
    browser.wait_until("location.hash", "#ANZ%2FASX");
    browser.wait_until(title, "Posts with ANZ/ASX");
    browser.click("[data-id='2764']");
    browser.wait_until(title, "Posts with red heart");
    assert_eq!(browser.eval("document.querySelector('[data-id=\"2764\"]').ariaExpanded"), "true");
    browser.run("history.back()");
    browser.wait_until(title, Value::Null);
    assert_eq!(browser.eval("document.activeElement.dataset.id"), "2764");
    // So does the button, and a second click does not leave the board.
    browser.click("[data-id='2764']");
    browser.wait_until(title, "Posts with red heart");
    browser.run("for (const _ of [1, 2]) document.querySelector('#close').click()");
    browser.wait_until(title, Value::Null);
    // The arrow keys move the focus, Enter opens.
    browser.type_text("[data-id='2764']", "\u{e014}");
    assert_ne!(browser.eval("document.activeElement.dataset.id"), "2764");
    assert_eq!(browser.eval("document.querySelectorAll('#grid [tabindex=\"0\"]').length"), 1);
    browser.type_text("[data-id='1F602']", "\u{e007}");
    browser.wait_until("location.hash", "#1F602");
    browser.run("location.hash = '#NOPE'");
    browser
        .wait_until("document.querySelector('#panel-state').textContent.startsWith('No symbol has the ID NOPE')", true);
    assert_eq!(browser.eval("document.querySelector('#posts').checkVisibility()"), false);
}

#[test]
fn board_moves_cells_to_their_ranks_only_if_the_reader_wants_it() {
    let redis = RedisServer::start();
    update(&redis, &["1F602", "1F602", "2764"]);
    let tallycast = Tallycast::start(&redis, &[]);
    let browser = Browser::start();
    browser.open(&tallycast, "/");
    browser.wait_until(SHOWN, scores(&redis));
    let order = "[...document.querySelectorAll('[data-id]')].map(cell => cell.dataset.id).join(' ')";
    let rank = "document.querySelector('[data-id=\"2764\"] .rank')?.textContent ?? null";
    browser.wait_until(order, "1F602 2764");
    browser.click("#rerank");
    update(&redis, &["2764"; 3]);
    browser.wait_until(rank, "#1");
    assert_eq!(browser.eval(order), "1F602 2764");
    // The choice is remembered.
    browser.run("location.reload()");
    browser.wait_until("document.querySelector('#rerank')?.checked", false);
    browser.wait_until(rank, "#1");
    browser.wait_until(order, "2764 1F602");
    browser.click("#rerank");
    // Nothing moves under the focus.
    browser.run("document.querySelector('[data-id=\"1F602\"]').focus()");
    update(&redis, &["1F602"; 5]);
    browser.wait_until(rank, "#2");
    assert_eq!(browser.eval(order), "2764 1F602");
    browser.run("document.activeElement.blur()");
    browser.wait_until(order, "1F602 2764");
}

#[test]
fn empty_board_says_how_to_feed_it_and_links_say_what_they_need() {
    let redis = RedisServer::start();
    let key = "0123456789abcdef0123456789abcdef";
    let with_key = ["--admin-token", "secret", "--publish-key", key];
    for (arguments, link, by_http) in [
        (&[][..], "Admin", "POST /count is off."),
        (&with_key[..], "Admin sign-in", "/count/eps"),
        (&["--no-admin"], "", "POST /count is off."),
    ] {
        let tallycast = Tallycast::start(&redis, arguments);
        let browser = Browser::start();
        browser.open(&tallycast, "/");
        browser.wait_until("document.querySelector('#empty').checkVisibility()", true);
        let shown =
            "(link => link.checkVisibility() ? link.innerText : '')(document.querySelector('[data-page=admin]'))";
        assert_eq!(browser.eval(shown), link);
        let text = browser.eval("document.querySelector('#empty').innerText").to_string();
        assert!(text.contains("ZINCRBY emojitrack_score 1 1F602") && text.contains(by_http), "{text}");
        assert_eq!(browser.accessibility_violations(), [""; 0]);
        if by_http == "/count/eps" {
            // Both commands count.
            let commands =
                browser.eval("[...document.querySelectorAll('#empty pre')].slice(0, 2).map(pre => pre.textContent)");
            let redis_cli = format!("redis-cli -p {}", redis.port());
            for (command, total) in commands.as_array().unwrap().iter().zip(1..) {
                let script = command.as_str().unwrap().replace("redis-cli", &redis_cli);
                let ended = run(Command::new("sh").args(["-c", &script]).env("TALLYCAST_PUBLISH_KEY", key));
                assert!(ended.status.success(), "{ended:?}");
                browser.wait_until(SHOWN, format!("1F602={total}"));
                assert_eq!(browser.eval("document.querySelector('#empty').checkVisibility()"), false);
            }
            browser.wait_until(SHOWN, scores(&redis));
            let () = redis.connect().del(SCORES).unwrap();
        }
    }
}

#[test]
fn board_backs_glyphs_that_its_theme_would_swallow() {
    let redis = RedisServer::start();
    update(&redis, &["1F602", "2660", "2716", "2B1C"]);
    let tallycast = Tallycast::start(&redis, &[]);
    let backed = "[...document.querySelectorAll('[data-id]')].filter(cell => cell.querySelector('.backed')) \
         .map(cell => cell.dataset.id).sort().join(' ')";
    for dark in [true, false] {
        let browser = Browser::start_with(1280, dark);
        browser.open(&tallycast, "/");
        browser.wait_until(backed, if dark { "2660 2716" } else { "2B1C" });
    }
}

#[test]
fn pages_have_security_headers_and_etags() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    for path in ["/", "/admin/", "/assets/board.js", "/assets/style.css"] {
        let answer = get(&tallycast, path, &[("accept-encoding", "gzip")]);
        assert_eq!(answer.status, 200, "{path}");
        assert!(
            answer.header("content-security-policy").starts_with("default-src 'none'; script-src 'self'"),
            "{path}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        let again = get(&tallycast, path, &[("accept-encoding", "gzip"), ("if-none-match", answer.header("etag"))]);
        assert_eq!(again.status, 304, "{path}");
    }
    assert_eq!(get(&tallycast, "/assets/../Cargo.toml", &[]).status, 404);
    assert_eq!(get(&tallycast, "/admin", &[]).header("location"), "/admin/");
}

/// Saves a screenshot in both themes and at both widths.
#[test]
fn board_fits_desktops_and_phones_in_both_themes() {
    let mut demo = command();
    demo.args(["demo", "--rate", "500"]);
    let demo = Tallycast::spawn(demo);
    for (width, dark) in [(1280, false), (1280, true), (360, false), (360, true)] {
        let browser = Browser::start_with(width, dark);
        browser.open(&demo, "/");
        browser.wait_until(STATE, "live");
        browser.wait_until("matchMedia('(prefers-color-scheme: dark)').matches", dark);
        assert_eq!(browser.eval(OVERFLOW), 0, "wider than {width} pixels");
        let rate = "parseInt(document.querySelector('#rate').textContent) || 0";
        eventually("the page shows a rate", || browser.eval(rate).as_u64() > Some(0));
        browser.screenshot(&format!("board-{}-{width}", if dark { "dark" } else { "light" }));
        assert_eq!(browser.console_messages(), [""; 0]);
    }
}

#[test]
fn board_has_no_accessibility_violations_and_keeps_its_layout() {
    let mut demo = command();
    demo.args(["demo", "--rate", "200"]);
    let demo = Tallycast::spawn(demo);
    for (width, dark) in [(1280, false), (360, true)] {
        let browser = Browser::start_with(width, dark);
        browser.open(&demo, "/");
        browser.wait_until(STATE, "live");
        // The rate is the last figure that the page shows.
        let rate = "parseInt(document.querySelector('#rate').textContent) || 0";
        eventually("the page shows a rate", || browser.eval(rate).as_u64() > Some(0));
        assert_eq!(browser.layout_shifts(), [""; 0]);
        // Without hundreds of similar cells the examination is quick.
        browser.type_text("#search", "joy");
        browser.click("[data-id='1F602']");
        browser.wait_until("document.querySelectorAll('#panel .post').length > 5", true);
        assert_eq!(browser.accessibility_violations(), [""; 0]);
        // Posts of the demo are of now: within an hour, for the sake of a slow machine.
        let age = "Math.abs(Date.now() - Date.parse(document.querySelector('.post time').dateTime)) / 3600e3";
        assert!(browser.eval(age).as_f64() < Some(1.0));
        let time = browser.eval("document.querySelector('.post time').textContent").to_string();
        assert!(time.contains("now · ") || time.contains(" ago · "), "{time}");
        assert_eq!(browser.console_messages(), [""; 0]);
    }
}

#[test]
fn board_has_no_long_tasks_at_2000_events_per_second() {
    let mut demo = command();
    demo.args(["demo", "--rate", "2000"]);
    let demo = Tallycast::spawn(demo);
    let browser = Browser::start_with_trace();
    browser.open(&demo, "/");
    browser.wait_until(STATE, "live");
    browser.wait_until("document.querySelectorAll('.updated').length > 50", true);
    browser.run(
        "performance.mark('start');
         const sum = document.querySelector('#sum');
         window.before = sum.textContent;
         window.mostRenders = 0;
         let renders = 0;
         new MutationObserver((records) => (renders += records.length)).observe(sum, { childList: true });
         requestAnimationFrame(function next() {
             mostRenders = Math.max(mostRenders, renders);
             renders = 0;
             requestAnimationFrame(next);
         });",
    );
    let counted =
        "Number(document.querySelector('#sum').textContent.replaceAll(',', '')) - Number(before.replaceAll(',', ''))";
    eventually("some seconds have been counted", || browser.eval(counted).as_u64() > Some(6000));
    // What keeps tasks short on any machine: the page renders once in a frame, whatever the rate.
    assert_eq!(browser.eval("mostRenders"), 1);
    let (longest, tasks) = browser.longest_task();
    eprintln!("the longest of {tasks} tasks takes {longest} ms of CPU");
    // The aim is 50 ms. CPU time depends on the machine as well, so the bound is one that only a defect reaches.
    assert!(longest < 200.0, "a task takes {longest} ms of CPU");
    assert!(tasks > 100, "{tasks} tasks");
}

#[test]
fn board_does_not_move_for_readers_who_prefer_less_motion() {
    let mut demo = command();
    demo.args(["demo", "--rate", "2000"]);
    let demo = Tallycast::spawn(demo);
    let browser = Browser::start_with_reduced_motion();
    browser.open(&demo, "/");
    browser.run(
        "window.seen = 0; new MutationObserver(() => {
            seen += document.querySelectorAll('.updated').length + document.getAnimations().length;
        }).observe(document.querySelector('#grid'), { subtree: true, childList: true, characterData: true, attributes: true })",
    );
    let rate = "parseInt(document.querySelector('#rate').textContent) || 0";
    eventually("the page shows a rate", || browser.eval(rate).as_u64() > Some(0));
    assert_eq!(browser.eval("seen"), 0);
}
