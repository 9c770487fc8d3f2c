//! Headless Chromium, driven by WebDriver (<https://www.w3.org/TR/webdriver2/>). The few commands that the tests need are
//! requests of JSON; the crates for it would bring more crates than all other tests together.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use super::redis::TempDir;
use super::{LIMIT, Tallycast, block_on, eventually};

/// The name of an element's reference (§12, "web element identifier").
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A window, closed with its owner.
pub(crate) struct Browser {
    /// The URL of the session.
    session: String,
    driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// A desktop's window in the light theme.
    pub(crate) fn start() -> Self {
        Self::start_with(1280, false)
    }

    /// A window of `width` pixels, in the dark theme or the light one. One of less than 500 is a phone's.
    pub(crate) fn start_with(width: u32, dark: bool) -> Self {
        let profile = TempDir::new();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver must be installed");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines
            .find_map(|line| line.rsplit_once("started successfully on port ").map(|(_, port)| port.to_owned()))
            .expect("chromedriver tells its port");
        // Read on, so that it never waits for its log to be read.
        std::thread::spawn(move || lines.for_each(drop));
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
            // Those of the tests are vouched for by nobody.
            "--ignore-certificate-errors",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(format!("--blink-settings=preferredColorScheme={scheme}"));
        arguments.push(format!("--window-size={width},800"));
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let mut options = json!({ "args": arguments });
        if width < 500 {
            options["mobileEmulation"] = json!({"deviceMetrics": {"width": width, "height": 740, "pixelRatio": 2.0}});
        }
        let capabilities = json!({"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
        let sessions = format!("http://127.0.0.1:{}/session", port.trim_end_matches('.'));
        let answer = call(Method::POST, &sessions, &json!({"capabilities": {"alwaysMatch": capabilities}}));
        let session = format!("{sessions}/{}", answer["sessionId"].as_str().unwrap());
        Self { session, driver, _profile: profile }
    }

    pub(crate) fn open(&self, tallycast: &Tallycast, path: &str) {
        self.open_url(&tallycast.url(path));
    }

    pub(crate) fn open_url(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
    }

    /// What an expression of JavaScript gives.
    pub(crate) fn eval(&self, expression: &str) -> Value {
        self.post("execute/sync", &json!({"script": format!("return {expression}"), "args": []}))
    }

    /// Waits until an expression gives `expected`.
    #[track_caller]
    pub(crate) fn until(&self, expression: &str, expected: impl Into<Value>) {
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

    pub(crate) fn write(&self, selector: &str, text: &str) {
        self.post(&format!("element/{}/value", self.find(selector)), &json!({ "text": text }));
    }

    /// The reference of the first element that `selector` fits.
    fn find(&self, selector: &str) -> String {
        let found = self.post("element", &json!({"using": "css selector", "value": selector}));
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        call(Method::POST, &format!("{}/{command}", self.session), body)
    }

    /// Leaves a picture of the window in `target/tmp/`, for those who look.
    pub(crate) fn screenshot(&self, name: &str) {
        let picture = call(Method::GET, &format!("{}/screenshot", self.session), &Value::Null);
        let picture = BASE64_STANDARD.decode(picture.as_str().unwrap()).unwrap();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
        std::fs::write(path, picture).unwrap();
    }

    /// What the page complained of, but for requests that failed because a test wanted them to.
    pub(crate) fn complaints(&self) -> Vec<String> {
        // ChromeDriver's own command for the console's messages.
        let log = self.post("se/log", &json!({"type": "browser"}));
        let messages = log.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned());
        messages
            .filter(|message| !message.contains("Failed to load resource") && !message.contains("net::ERR_"))
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser; the driver alone would leave it behind. What failed has been told already.
        let session = self.session.clone();
        let _ = std::thread::spawn(move || call(Method::DELETE, &session, &Value::Null)).join();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Sends a command and returns its value.
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
