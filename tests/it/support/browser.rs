//! Headless Chromium, driven by WebDriver (<https://www.w3.org/TR/webdriver2/>). The tests need only a few JSON commands;
//! a WebDriver crate would add more dependencies than all other tests together.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use super::redis::TempDir;
use super::{LIMIT, Tallycast, block_on, eventually};

/// The JSON key of an element reference (§12, "web element identifier").
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How often a chromedriver is started that exits before it serves.
const DRIVER_ATTEMPTS: usize = 5;

/// A chromedriver, ended on drop: also if it starts no browser.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        // Errors are ignored: the test has already reported its result.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A browser window, closed on drop.
pub(crate) struct Browser {
    /// The session URL.
    session: String,
    _driver: Driver,
    _profile: TempDir,
}

impl Browser {
    /// Opens a desktop window with the light theme.
    pub(crate) fn start() -> Self {
        Self::start_with(1280, false)
    }

    /// As [`Browser::start`], but over TLS it uses HTTP/1.1 as well.
    pub(crate) fn start_without_http2() -> Self {
        Self::launch(1280, false, &["--disable-http2"], false)
    }

    /// Opens a window of `width` pixels with the dark or the light theme. Below 500 pixels it emulates a phone.
    pub(crate) fn start_with(width: u32, dark: bool) -> Self {
        Self::launch(width, dark, &[], false)
    }

    /// As [`Browser::start`], for readers who have asked their system for less motion.
    pub(crate) fn start_with_reduced_motion() -> Self {
        Self::launch(1280, false, &["--force-prefers-reduced-motion"], false)
    }

    /// As [`Browser::start`], for [`Browser::longest_task`].
    pub(crate) fn start_with_trace() -> Self {
        Self::launch(1280, false, &[], true)
    }

    fn launch(width: u32, dark: bool, flags: &[&str], trace: bool) -> Self {
        let profile = TempDir::new();
        let (driver, port) = start_driver();
        let scheme = u8::from(!dark);
        let mut arguments: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            // The certificates of the tests are self-signed.
            "--ignore-certificate-errors",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        arguments.push(format!("--blink-settings=preferredColorScheme={scheme}"));
        arguments.push(format!("--window-size={width},800"));
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let mut options = json!({ "args": arguments });
        if width < 500 {
            options["mobileEmulation"] = json!({"deviceMetrics": {"width": width, "height": 740, "pixelRatio": 2.0}});
        }
        let mut logs = json!({"browser": "ALL"});
        if trace {
            logs["performance"] = "ALL".into();
            options["perfLoggingPrefs"] = json!({"traceCategories": "toplevel,blink.user_timing"});
        }
        let capabilities = json!({"goog:chromeOptions": options, "goog:loggingPrefs": logs});
        let sessions = format!("http://127.0.0.1:{port}/session");
        let answer = call(Method::POST, &sessions, &json!({"capabilities": {"alwaysMatch": capabilities}}));
        let session = format!("{sessions}/{}", answer["sessionId"].as_str().unwrap());
        Self { session, _driver: driver, _profile: profile }
    }

    pub(crate) fn open(&self, tallycast: &Tallycast, path: &str) {
        self.open_url(&tallycast.url(path));
    }

    pub(crate) fn open_url(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
    }

    /// Runs JavaScript statements.
    pub(crate) fn run(&self, statements: &str) {
        self.post("execute/sync", &json!({"script": statements, "args": []}));
    }

    /// Evaluates a JavaScript expression; of a promise, what it is resolved with.
    pub(crate) fn eval(&self, expression: &str) -> Value {
        self.post("execute/sync", &json!({"script": format!("return {expression}"), "args": []}))
    }

    /// Waits until a JavaScript expression equals `expected`.
    #[track_caller]
    pub(crate) fn wait_until(&self, expression: &str, expected: impl Into<Value>) {
        let expected = expected.into();
        let mut last = Value::Null;
        eventually(&format!("{expression} is {expected}"), || {
            last = self.eval(expression);
            last == expected
        });
    }

    pub(crate) fn click(&self, selector: &str) {
        self.post(&format!("element/{}/click", self.find(selector)), &json!({}));
    }

    pub(crate) fn type_text(&self, selector: &str, text: &str) {
        self.post(&format!("element/{}/value", self.find(selector)), &json!({ "text": text }));
    }

    /// Moves the pointer to the middle of an element.
    pub(crate) fn hover(&self, selector: &str) {
        let origin = json!({ ELEMENT: self.find(selector) });
        let moves = json!([{"type": "pointerMove", "duration": 0, "origin": origin, "x": 0, "y": 0}]);
        self.post("actions", &json!({"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]}));
    }

    /// Presses and releases a key: a character, or a code of WebDriver (§17.4.2).
    pub(crate) fn press(&self, key: char) {
        let strokes = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        self.post("actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]}));
    }

    /// The reference of the first element that matches `selector`.
    fn find(&self, selector: &str) -> String {
        let found = self.post("element", &json!({"using": "css selector", "value": selector}));
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        call(Method::POST, &format!("{}/{command}", self.session), body)
    }

    /// Saves a screenshot of the window in `target/tmp/`, for inspection.
    pub(crate) fn screenshot(&self, name: &str) {
        let picture = call(Method::GET, &format!("{}/screenshot", self.session), &Value::Null);
        let picture = BASE64_STANDARD.decode(picture.as_str().unwrap()).unwrap();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
        std::fs::write(path, picture).unwrap();
    }

    /// The violations of accessibility rules that axe-core finds in the page (<https://github.com/dequelabs/axe-core>).
    pub(crate) fn accessibility_violations(&self) -> Vec<String> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/web/node_modules/axe-core/axe.min.js");
        let axe = std::fs::read_to_string(path).expect("install axe-core: npm --prefix web ci");
        // It examines each element.
        self.post("timeouts", &json!({"script": LIMIT.as_millis()}));
        self.run(&axe);
        let violations = self.eval(
            "axe.run().then(({ violations }) => violations.map(({ id, help, nodes }) => \
             `${id}: ${help}: ${nodes.map((node) => node.target.join(' ')).join(', ')}`))",
        );
        serde_json::from_value(violations).unwrap()
    }

    /// The elements that have moved since the page was opened, except just after input (<https://web.dev/articles/cls>). On a busy machine
    /// a page is painted before all of it is read; a header that then gets its second row counts for less than 0.002, and is left out.
    pub(crate) fn layout_shifts(&self) -> Vec<String> {
        let shifts = self.eval(
            "new Promise((resolve) => {
                const found = [];
                const name = ({ node }) => node?.id || node?.className || node?.nodeName || 'removed';
                new PerformanceObserver((list) => {
                    for (const shift of list.getEntries().filter((shift) => !shift.hadRecentInput && shift.value > 0.002)) {
                        found.push(`${shift.value} at ${shift.startTime} ms: ${shift.sources.map(name).join(', ')}`);
                    }
                }).observe({ type: 'layout-shift', buffered: true });
                setTimeout(() => resolve(found), 100);
            })",
        );
        serde_json::from_value(shifts).unwrap()
    }

    /// The CPU time in milliseconds of the longest task of the page's main thread since its script called
    /// `performance.mark("start")`, and the number of tasks. CPU time, because other processes take the time of the clock. Can be called
    /// once.
    pub(crate) fn longest_task(&self) -> (f64, usize) {
        let log = self.post("se/log", &json!({"type": "performance"}));
        let messages = log.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap());
        let events: Vec<Value> = messages
            .map(|message| serde_json::from_str::<Value>(message).unwrap()["message"].take())
            .filter(|message| message["method"] == "Tracing.dataCollected")
            .map(|mut message| message["params"].take())
            .collect();
        let is_mark = |event: &&Value| event["cat"] == "blink.user_timing" && event["name"] == "start";
        let mark = events.iter().find(is_mark).expect("a mark");
        let of_thread = |event: &&Value| event["pid"] == mark["pid"] && event["tid"] == mark["tid"];
        let tasks: Vec<f64> = events
            .iter()
            .filter(of_thread)
            .filter(|event| event["ts"].as_f64() > mark["ts"].as_f64())
            // The clock of a thread may jump when it changes its core, but a task takes no more than the time that passes.
            .filter_map(|event| Some(event["tdur"].as_f64()?.min(event["dur"].as_f64()?) / 1000.0))
            .collect();
        (tasks.iter().copied().fold(0.0, f64::max), tasks.len())
    }

    /// The console messages of the page, except network errors, which some tests cause on purpose.
    pub(crate) fn console_messages(&self) -> Vec<String> {
        // A ChromeDriver extension to WebDriver.
        let log = self.post("se/log", &json!({"type": "browser"}));
        let messages = log.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned());
        messages
            .filter(|message| !message.contains("Failed to load resource") && !message.contains("net::ERR_"))
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser, which would outlive the driver. Errors are ignored, as by the driver.
        let session = self.session.clone();
        let _ = std::thread::spawn(move || call(Method::DELETE, &session, &Value::Null)).join();
    }
}

/// Starts a chromedriver on a free port, and returns the port. A driver chooses a port before it binds it, so another process
/// may take it first; the driver then exits, and the next attempt gets another port.
fn start_driver() -> (Driver, String) {
    for _ in 0..DRIVER_ATTEMPTS {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver must be installed");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.by_ref().inspect(|line| eprintln!("chromedriver: {line}")).find_map(|line| {
            let (_, port) = line.rsplit_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        if let Some(port) = port {
            // Keep reading, so that a full pipe never blocks the driver.
            std::thread::spawn(move || lines.for_each(drop));
            return (Driver(driver), port);
        }
        driver.wait().unwrap();
    }
    panic!("chromedriver exited {DRIVER_ATTEMPTS} times before it served");
}

/// Sends a WebDriver command and returns its value.
#[track_caller]
fn call(method: Method, url: &str, body: &Value) -> Value {
    let answer: Value = block_on(async {
        let client = reqwest::Client::builder().timeout(LIMIT).pool_max_idle_per_host(0).build().unwrap();
        let request = client.request(method, url).header("content-type", "application/json");
        let request = if body.is_null() { request } else { request.body(body.to_string()) };
        let text = request.send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap()
    });
    let value = &answer["value"];
    assert!(value["error"].is_null(), "{url}: {value}");
    value.clone()
}
