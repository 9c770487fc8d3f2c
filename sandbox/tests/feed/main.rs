//! Tests of `sandbox feed`: the built binary with a private Redis server per test.

#![cfg(feature = "cli")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests fail with a panic and a message")]

mod redis;

use std::collections::HashMap;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use ::redis::cmd;
use rustix::process::{Pid, Signal, kill_process};
use sandbox::{Generator, Update, catalogue};

use self::redis::{Client, LIMIT, POLL, Redis};

const SCORES: &str = "emojitrack_score";

/// Exit status and output of a run.
#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    stderr: String,
}

/// A running feeder, killed on drop.
struct Feeder(Child);

impl Feeder {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(&[], arguments)
    }

    fn start_with(variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_sandbox"))
            .env_clear()
            .env("FEED_SIMULATED_DATES", "true")
            .envs(variables.iter().copied())
            .arg("feed")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for the process to exit. Its output must fit into a pipe buffer.
    fn ended(mut self) -> Ended {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the feeder did not exit");
            thread::sleep(POLL);
        };
        let read = |pipe: &mut dyn std::io::Read| std::io::read_to_string(pipe).unwrap();
        assert_eq!(read(self.0.stdout.as_mut().unwrap()), "", "all output goes to standard error");
        Ended { status, stderr: read(self.0.stderr.as_mut().unwrap()) }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        // Both fail only if the process has exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn feed(arguments: &[&str]) -> Ended {
    Feeder::start(arguments).ended()
}

/// Runs the feeder, which must succeed, and returns its output.
fn feed_ok(redis: &Redis, arguments: &[&str]) -> String {
    let ended = feed(&[&["--redis", &redis.url()], arguments].concat());
    assert!(ended.status.success(), "{ended:?}");
    ended.stderr
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting until: {what}");
        thread::sleep(POLL);
    }
}

fn scores(client: &mut Client) -> HashMap<String, u64> {
    client.query(cmd("ZRANGE").arg(SCORES).arg(0).arg(-1).arg("WITHSCORES"))
}

fn total(client: &mut Client) -> u64 {
    scores(client).values().sum()
}

fn posts(client: &mut Client, id: &str) -> Vec<String> {
    client.query(cmd("LRANGE").arg(format!("emojitrack_tweets_{id}")).arg(0).arg(-1))
}

/// The messages that a feeder publishes for `updates`.
fn messages(updates: impl Iterator<Item = Update>) -> Vec<(String, String)> {
    updates
        .flat_map(|Update { id, tweet }| {
            [("stream.score_updates".to_owned(), id.to_string()), (format!("stream.tweet_updates.{id}"), tweet)]
        })
        .collect()
}

#[test]
fn updates_are_counted_stored_and_published_once() {
    let redis = Redis::start();
    let mut client = redis.connect();
    let expected: Vec<Update> = Generator::new(7).take(500).collect();
    let mut scores_expected: HashMap<String, u64> =
        Generator::new(7).standings().map(|(emoji, score)| (emoji.id.to_string(), score)).collect();

    for _ in 0..2 {
        let listener = redis.listen(1_000);
        let stderr = feed_ok(&redis, &["--count", "500", "--seed", "7", "--rate", "5000"]);
        assert!(stderr.contains("\n500 updates published in "), "{stderr}");

        assert_eq!(listener.join().unwrap(), messages(expected.iter().cloned()));
        for update in &expected {
            *scores_expected.get_mut(&*update.id).unwrap() += 1;
        }
        // The second run adds to the scores of the first.
        assert_eq!(scores(&mut client), scores_expected);
        for emoji in catalogue() {
            let posts = posts(&mut client, &emoji.id);
            let newest = expected.iter().rev().filter(|update| update.id == emoji.id).map(|update| &update.tweet);
            assert_eq!(posts.len(), 10, "{emoji:?}");
            assert!(newest.take(10).zip(&posts).all(|(expected, post)| expected == post), "{emoji:?}");
        }
    }
}

#[test]
fn seed_changes_the_updates() {
    let redis = Redis::start();
    let listener = redis.listen(20);
    feed_ok(&redis, &["--count", "10", "--seed", "8"]);
    let published = listener.join().unwrap();
    assert_eq!(published, messages(Generator::new(8).take(10)));
    assert_ne!(published, messages(Generator::new(7).take(10)));
}

#[test]
fn existing_scores_are_kept() {
    let redis = Redis::start();
    let mut client = redis.connect();
    let () = client.query(cmd("ZADD").arg(SCORES).arg(5).arg("1F4A9"));
    feed_ok(&redis, &["--count", "100", "--rate", "5000"]);
    let scores = scores(&mut client);
    assert_eq!(scores.values().sum::<u64>(), 105);
    assert!(scores["1F4A9"] >= 5);
    for id in scores.keys() {
        assert!(posts(&mut client, id).len() <= 10);
    }
}

#[test]
fn scores_and_publishes_are_atomic() {
    const SAMPLES: u32 = 50;
    let redis = Redis::start();
    let mut client = redis.connect();
    let calls = |client: &mut Client| -> HashMap<String, u64> {
        let text: String = client.query(cmd("INFO").arg("commandstats"));
        let calls = text.lines().filter_map(|line| {
            let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), figures.split(',').next()?.parse().ok()?))
        });
        calls.collect()
    };
    let feeder = Feeder::start(&["--redis", &redis.url(), "--rate", "1000000"]);
    let (mut samples, mut last) = (0, 0);
    wait_until("the scores have grown", || {
        let calls = calls(&mut client);
        let [scores, publishes] = ["zincrby", "publish"].map(|name| calls.get(name).copied().unwrap_or(0));
        assert_eq!(publishes, 2 * scores);
        samples += u32::from(scores > last);
        last = scores;
        samples == SAMPLES
    });
    feeder.signal(Signal::TERM);
    assert!(feeder.ended().status.success());
}

#[test]
fn signals_end_the_run_gracefully() {
    for signal in [Signal::INT, Signal::TERM] {
        let redis = Redis::start();
        let mut client = redis.connect();
        let before: u64 = Generator::new(1).standings().map(|(_, score)| score).sum();
        let feeder = Feeder::start_with(&[("REDIS_URL", &redis.url()), ("FEED_RATE", "1000")], &[]);
        wait_until("an update is published", || total(&mut client) > before);
        feeder.signal(signal);
        let ended = feeder.ended();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        let published = total(&mut client) - before;
        assert!(ended.stderr.contains(&format!("\n{published} updates published in ")), "{published}: {ended:?}");
    }
}

#[test]
fn signal_ends_the_run_without_redis() {
    let mut redis = Redis::start();
    let url = redis.url();
    redis.kill();
    let mut feeder = Feeder::start(&["--redis", &url]);
    // Signal handlers are installed before the first connection attempt, whose failure is printed.
    let mut output = [0; 1];
    std::io::Read::read_exact(feeder.0.stderr.as_mut().unwrap(), &mut output).unwrap();
    feeder.signal(Signal::TERM);
    assert_eq!(feeder.ended().status.code(), Some(0));
}

#[test]
fn run_continues_after_outages_and_counts_unpublished_updates() {
    let mut redis = Redis::start();
    let initial: u64 = Generator::new(1).standings().map(|(_, score)| score).sum();
    let feeder = Feeder::start(&["--redis", &redis.url(), "--rate", "2000"]);
    let mut accepted = 0;
    for _ in 0..2 {
        let mut client = redis.connect();
        wait_until("an update is published", || total(&mut client) > initial);
        // From here on the server accepts no writes, so that the published updates can be counted.
        let () = client.query(cmd("CLIENT").arg("PAUSE").arg(LIMIT.as_millis() as u64).arg("WRITE"));
        accepted += total(&mut client) - initial;
        redis.kill();
        redis.restart();
    }
    let mut client = redis.connect();
    wait_until("an update is published again", || total(&mut client) > initial);
    feeder.signal(Signal::TERM);
    let ended = feeder.ended();
    assert!(ended.status.success(), "{ended:?}");

    let lines = |part: &str| ended.stderr.lines().filter(|line| line.contains(part)).collect::<Vec<_>>();
    let number = |line: &str, before: &str, after: &str| -> u64 {
        let rest = line.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {line:?}")).1;
        rest.split_once(after).unwrap().0.replace(',', "").parse().unwrap()
    };
    // One line at the start of an outage and one at its end.
    assert_eq!(lines(" is unavailable: ").len(), 2, "{ended:?}");
    let lost: Vec<u64> = lines(" is available again after ")
        .iter()
        .map(|line| number(line, " s; ", " updates were not published"))
        .collect();
    assert!(lost.len() == 2 && lost.iter().all(|lost| *lost > 0), "{ended:?}");
    let last = ended.stderr.lines().last().unwrap();
    let published = number(&format!("\n{last}"), "\n", " updates published (");
    assert_eq!(number(last, " (", " were not)"), lost.iter().sum::<u64>(), "{ended:?}");

    // Each server started empty and received the initial scores and then all updates until its end.
    accepted += total(&mut client) - initial;
    assert_eq!(published, accepted, "{ended:?}");
    let generated = usize::try_from(published + lost.iter().sum::<u64>()).unwrap();
    let newest = Generator::new(1).nth(generated - 1).unwrap();
    assert_eq!(posts(&mut client, &newest.id)[0], newest.tweet);
}

#[test]
fn run_fails_after_the_outage_limit() {
    let mut redis = Redis::start();
    let url = redis.url();
    redis.kill();
    let ended = feed(&["--redis", &url, "--outage-limit", "1"]);
    assert_eq!(ended.status.code(), Some(69), "{ended:?}");
    assert!(ended.stderr.contains("was unavailable for more than 1 s"), "{ended:?}");
}

#[test]
fn rejected_commands_exit_with_one_line() {
    let redis = Redis::start();
    let () = redis.connect().query(cmd("SET").arg(SCORES).arg("a string"));
    let ended = feed(&["--redis", &redis.url()]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let last = ended.stderr.lines().last().unwrap();
    assert!(last.contains("rejected a command: ") && last.contains("WRONGTYPE"), "{ended:?}");
    assert_eq!(last.matches("WRONGTYPE").count(), 1, "{ended:?}");
}

#[test]
fn passwords_are_used_but_not_shown() {
    let redis = Redis::start_with_password("open-sesame");
    let stderr = feed_ok(&redis, &["--count", "5"]);
    assert!(!stderr.contains("sesame"), "{stderr}");
    let ended = feed(&["--redis", &redis.url().replace("open", "close"), "--count", "5"]);
    assert!(ended.status.code() == Some(1) && !ended.stderr.contains("sesame"), "{ended:?}");
}

#[test]
fn invalid_options_exit_with_one_line_and_code_64() {
    let usage_error = |feeder: Feeder, expected: &str| {
        let ended = feeder.ended();
        assert_eq!(ended.status.code(), Some(64), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(ended.stderr.contains(expected) && !ended.stderr.contains("sesame"), "{expected}: {ended:?}");
    };
    for url in [
        "redis://example.org",
        "redis://10.0.0.1:6379",
        "redis://:open-sesame@redis.example:6379/1",
        "redis://8.8.8.8",
        "redis://134744072",
    ] {
        usage_error(Feeder::start(&["--redis", url]), "--yes-really");
        usage_error(Feeder::start_with(&[("REDIS_URL", url)], &[]), "--yes-really");
    }
    usage_error(Feeder::start(&["--redis", "http://:open-sesame@localhost"]), "redis://");
    usage_error(Feeder::start(&["--redis", "rediss://:open-sesame@localhost"]), "TLS");
    usage_error(Feeder::start(&["--redis", "redis://:open-sesame@localhost:port"]), "not a Redis URL");
    usage_error(Feeder::start(&["redis://:open-sesame@localhost"]), "unexpected argument");
    usage_error(Feeder::start(&["--rate", "1000001"]), "--rate");
    usage_error(Feeder::start(&["--count", "0"]), "--count");
    usage_error(Feeder::start(&["--outage-limit", "0"]), "--outage-limit");
    usage_error(Feeder::start_with(&[("FEED_SEED", "seven")], &[]), "FEED_SEED");
    usage_error(Feeder::start_with(&[("FEED_YES_REALLY", "perhaps")], &[]), "FEED_YES_REALLY");
}

#[test]
fn initial_only_writes_scores_and_publishes_nothing() {
    let redis = Redis::start();
    let mut client = redis.connect();
    let expected: HashMap<String, u64> =
        Generator::new(7).standings().map(|(emoji, score)| (emoji.id.to_string(), score)).collect();
    // The second run finds the scores.
    for _ in 0..2 {
        let listener = redis.listen(1);
        feed_ok(&redis, &["--initial-only", "--seed", "7"]);
        assert_eq!(scores(&mut client), expected);
        client.query::<u64>(cmd("PUBLISH").arg("stream.score_updates").arg("the first message"));
        assert_eq!(listener.join().unwrap()[0].1, "the first message");
    }
}
