//! The command line: error messages, help, environment variables and subcommands.

use std::process::{Command, Output};

use crate::contract::sum_windows;
use crate::support::{EventSource, RedisServer, Tallycast, command, eventually, run};

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs a command that must fail with a usage error, and returns its one line on standard error.
#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = run(command);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("tallycast: ") && stderr.ends_with('\n'), "{stderr}");
    assert!(output.stdout.is_empty());
    stderr
}

#[test]
fn invalid_flag_error_names_flag_and_value() {
    for (flag, value, expected) in [
        ("--port", "80001", "0..=65535"),
        ("--port", "http", "invalid"),
        ("--address", "localhost", "IP"),
        ("--route", "nonsense", "expected PATTERN=NAMESPACE"),
        ("--route", "a*b=/x", "* may only stand at the end"),
        ("--route", "a=/x,color=red", "unknown option"),
        ("--slow-reader", "/eps=drop", "expected disconnect, skip or merge"),
        ("--slow-reader", "eps=skip", "a namespace starts with '/'"),
        ("--tally-period", "17", "expected a number with a unit"),
        ("--tally-period", "0ms", "at least 1ms"),
        ("--app-env", "prod", "production"),
        ("--shards", "0", "at least 1"),
        ("--log-batches", "many", "at least 1"),
        ("--max-head-bytes", "100", "at least 8192"),
        ("--log", "tallycast=loud", "expected error, warn, info, debug or trace"),
    ] {
        let line = refused(command().args([flag, value]));
        assert!(line.contains(value) && line.contains(flag) && line.contains(expected), "{flag} {value}: {line}");
        assert!(!line.contains("environment"), "{line}");
    }
}

#[test]
fn invalid_variable_error_names_variable() {
    for (variable, value) in [
        ("PORT", "eighty"),
        ("REDIS_URL", "http://localhost"),
        ("APP_ENV", "prod"),
        ("TALLYCAST_ROUTES", "nonsense"),
        ("TALLYCAST_SLOW_READERS", "/eps=drop"),
        ("TALLYCAST_TALLY_PERIOD", "17"),
        ("TALLYCAST_KEEP_ALIVE", "soon"),
        ("TALLYCAST_REQUIRE_BROKER", "perhaps"),
    ] {
        for subcommand in [&[][..], &["serve"][..]] {
            let line = refused(command().args(subcommand).env(variable, value));
            assert!(line.contains(&format!("environment variable {variable}")), "{variable}={value}: {line}");
            // A URL can contain a password and is not repeated.
            assert_eq!(line.contains(value), variable != "REDIS_URL", "{line}");
        }
    }
}

#[test]
fn invalid_redis_url_error_hides_password() {
    for url in ["http://:hunter2@host", ":hunter2@host", "redis://:hunter2@host:port", "redis://:hunter2@host/zero"] {
        let by_flag = refused(command().args(["--redis-url", url]));
        let by_flag_with_equals = refused(command().arg(format!("--redis-url={url}")));
        let by_variable = refused(command().env("REDIS_URL", url));
        for line in [by_flag, by_flag_with_equals, by_variable] {
            assert!(!line.contains("hunter2"), "{line}");
            assert!(line.contains("--redis-url") && line.contains("expected"), "{line}");
        }
    }
}

#[test]
fn unknown_arguments_exit_with_one_line() {
    for arguments in [&["--prot", "80"][..], &["sing"], &["--port"], &["demo", "--redis-url", "redis://x"]] {
        refused(command().args(arguments));
    }
}

#[test]
fn occupied_port_exits_with_one_line() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let output =
        run(command().args(["--address", "127.0.0.1", "--log", "error", "--port", &address.port().to_string()]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(&format!("cannot listen on {address}")), "{stderr}");
}

/// The options in the help of a subcommand: each flag with its description.
fn options(help: &str) -> Vec<(String, String)> {
    let mut options: Vec<(String, String)> = Vec::new();
    for line in help.lines() {
        let trimmed = line.trim_start();
        if let Some(flag) = trimmed.split([' ', '=']).find(|word| word.starts_with("--"))
            && (trimmed.starts_with("--") || trimmed.starts_with("-h, ") || trimmed.starts_with("-V, "))
        {
            options.push((flag.to_owned(), String::new()));
        }
        if let Some((_, text)) = options.last_mut() {
            text.push_str(trimmed);
            text.push(' ');
        }
    }
    options
}

#[test]
fn help_lists_variable_and_default_of_every_flag() {
    for subcommand in ["serve", "demo"] {
        let help = stdout(&run(command().args([subcommand, "--help"])));
        let options = options(&help);
        let flags_with_values: Vec<_> = options.iter().filter(|(_, text)| text.contains('<')).collect();
        assert!(flags_with_values.len() > 15, "{help}");
        for (flag, text) in options.iter().filter(|(flag, _)| !["--help", "--version"].contains(&flag.as_str())) {
            assert!(text.contains("[env: "), "{flag} documents no variable: {text}");
            assert!(!text.contains('<') || text.contains("[default: "), "{flag} documents no default: {text}");
        }
        // Every option that --print-config shows must be in the help.
        let effective = stdout(&run(command().args([subcommand, "--print-config"])));
        for line in effective.lines() {
            let (name, rest) = line.split_once(" = ").unwrap();
            let (value, _) = rest.rsplit_once('#').unwrap();
            let (_, text) = options
                .iter()
                .find(|(flag, _)| *flag == format!("--{name}"))
                .unwrap_or_else(|| panic!("--{name} is not in the help"));
            if text.contains("[default: ") {
                let default = value.trim().replace(';', " ");
                assert!(text.contains(&format!("[default: {default}]")), "{name}: {value} is not in {text}");
            }
        }
    }
}

#[test]
fn variables_set_their_flags() {
    for (variable, value, line) in [
        ("PORT", "9000", "port = 9000"),
        ("REDIS_URL", "redis://other:1234/5", "redis-url = redis://other:1234/5"),
        ("APP_ENV", "staging", "app-env = staging"),
        ("DYNO", "web.7", "instance = web.7"),
        ("TALLYCAST_KEEP_ALIVE", "3s", "keep-alive = 3s"),
        ("TALLYCAST_ROUTES", "a=/a;b*=/b/*", "route = a=/a;b*=/b/*"),
        ("TALLYCAST_REQUIRE_BROKER", "true", "require-broker = true"),
    ] {
        let text = stdout(&run(command().arg("--print-config").env(variable, value)));
        let found =
            text.lines().find(|found| found.starts_with(line)).unwrap_or_else(|| panic!("no {line:?} in {text}"));
        assert!(found.ends_with(&format!("# {variable}")), "{found}");
    }
}

#[test]
fn flag_takes_precedence_over_variable() {
    let text = stdout(&run(command().args(["--port", "1", "--print-config"]).env("PORT", "2")));
    assert!(text.lines().any(|line| line.starts_with("port = 1 ") && line.ends_with("# flag")), "{text}");
}

#[test]
fn print_config_masks_password() {
    let url = "rediss://user:hunter2@host:6380/1#insecure";
    for command in [
        command().args(["--print-config", "--redis-url", url]),
        command().args(["serve", "--print-config"]).env("REDIS_URL", url),
    ] {
        let text = stdout(&run(command));
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("redis-url = rediss://user:***@host:6380/1#insecure"), "{text}");
    }
    // Help shows the values of variables, except this one.
    let help = stdout(&run(command().arg("--help").env("REDIS_URL", url)));
    assert!(!help.contains("hunter2"), "{help}");
}

#[test]
fn version_flag_prints_version() {
    assert_eq!(stdout(&run(command().arg("--version"))), format!("tallycast {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn serve_is_the_default_subcommand() {
    let redis = RedisServer::start();
    let mut bare = command();
    bare.env("REDIS_URL", redis.url());
    let tallycast = Tallycast::spawn(bare);
    tallycast.until_ready();
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    redis.publish_scores(["1F602"]);
    assert_eq!(raw.next().data, "1F602");
}

#[test]
fn demo_serves_the_whole_api_without_redis() {
    let mut demo = command();
    demo.args(["demo", "--rate", "2000"]);
    let tallycast = Tallycast::spawn(demo);
    tallycast.until_ready();
    let [eps, raw, details] =
        ["eps", "raw", "details"].map(|namespace| EventSource::open(&tallycast, &format!("/subscribe/{namespace}")));
    assert!(!sum_windows([eps.next().data]).is_empty());
    assert!(!raw.next().data.is_empty());
    let post = details.next();
    assert!(post.name.unwrap().starts_with("stream.tweet_updates."));
    assert!(serde_json::from_str::<serde_json::Value>(&post.data).unwrap().is_object());
    assert_eq!(tallycast.json("/admin/status.json")["status"], "OK");
    assert_eq!(tallycast.terminate().status.code(), Some(0));
    for client in [eps, raw, details] {
        client.rest();
    }
}

#[test]
fn demo_output_depends_on_seed() {
    let first_post = |seed: &str| {
        let mut demo = command();
        demo.args(["demo", "--rate", "1", "--seed", seed]);
        let tallycast = Tallycast::spawn(demo);
        let details = EventSource::open(&tallycast, "/subscribe/details");
        details.next()
    };
    // The stream may miss the first posts, but posts of different seeds never coincide.
    assert_ne!(first_post("1"), first_post("2"));
}

#[test]
fn healthcheck_exit_code_reports_liveness() {
    let tallycast = Tallycast::start_unready("redis://127.0.0.1:1", &[]);
    let port = tallycast.address.port().to_string();
    let by_flag = run(command().args(["healthcheck", "--port", &port]));
    assert_eq!(by_flag.status.code(), Some(0), "{by_flag:?}");
    let by_variable = run(command().arg("healthcheck").env("PORT", &port));
    assert_eq!(by_variable.status.code(), Some(0), "{by_variable:?}");
    tallycast.terminate();
    eventually("the healthcheck fails", || {
        let gone = run(command().args(["healthcheck", "--port", &port]));
        let stderr = String::from_utf8(gone.stderr).unwrap();
        gone.status.code() == Some(1) && stderr.lines().count() == 1 && stderr.contains(&port)
    });
}
