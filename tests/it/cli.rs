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
        ("--port", "80001", "expected a port number from 0 to 65535"),
        ("--port", "http", "expected a port number from 0 to 65535"),
        ("--address", "localhost", "expected an IP address"),
        ("--route", "nonsense", "expected PATTERN=NAMESPACE"),
        ("--route", "a*b=/x", "* may only stand at the end"),
        ("--route", "a=/x,color=red", "unknown option"),
        ("--slow-reader", "/eps=drop", "expected disconnect, skip, merge or latest"),
        ("--slow-reader", "eps=skip", "a namespace must start with '/'"),
        ("--tally-period", "17", "expected a number with a unit"),
        ("--tally-period", "0ms", "at least 1ms"),
        ("--app-env", "prod", "production"),
        ("--shards", "0", "at least 1"),
        ("--log-batches", "many", "at least 1"),
        ("--max-head-bytes", "100", "at least 8KiB"),
        ("--max-target-bytes", "16KiB", "expected less than --max-head-bytes (16KiB)"),
        ("--max-target-bytes", "64KiB", "at most 65534"),
        ("--max-topics", "4097", "expected a whole number from 1 to 4096"),
        ("--send-buffer", "8KB8", "expected bytes, such as 65536 or 64KiB"),
        ("--log-bytes", "4M", "expected bytes, such as 65536 or 64KiB"),
        ("--log-format", "xml", "expected text or json"),
        ("--log", "tallycast=loud", "expected error, warn, info, debug or trace"),
    ] {
        let line = refused(command().args([flag, value]));
        let start = format!("tallycast: invalid value {value:?} for {flag}: ");
        assert!(line.starts_with(&start) && line.contains(expected), "{flag} {value}: {line}");
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
fn invalid_admin_token_error_hides_its_value() {
    for command in [
        command().args(["--admin-token", "hunter2", "--admin-token="]),
        command().args(["--admin-token=hunter2", "--port", "x"]),
        command().args(["demo", "--redis-url", "redis://:hunter2@host"]),
        command().args(["--redis-url", "redis://:hunter2@host", "healthcheck"]),
        command().args(["--admin-tokne=hunter2"]),
        command().env("TALLYCAST_ADMIN_TOKEN", "hunter2").args(["--port", "x"]),
    ] {
        let line = refused(command);
        assert!(!line.contains("hunter2"), "{line}");
    }
}

#[test]
fn unknown_arguments_exit_with_one_line() {
    for (arguments, expected) in [
        (&["--prot", "80"][..], "unknown flag --prot; did you mean --port?"),
        (&["-x"], "unknown flag -x; see tallycast serve --help"),
        (
            &["sing"],
            "unknown command \"sing\": expected serve, demo, check, publish, count, tail, token or healthcheck",
        ),
        (&["--port"], "no value for --port: expected NUMBER"),
        (&["--no-admin=1"], "--no-admin takes no value"),
        (
            &["demo", "--redis-url", "redis://x"],
            "--redis-url is a flag of tallycast serve and check, not of tallycast demo",
        ),
        (
            &["--redis-url", "redis://x", "demo"],
            "--redis-url is a flag of tallycast serve and check, not of tallycast demo",
        ),
        (&["--rate", "5"], "--rate is a flag of tallycast demo, not of tallycast serve"),
        (&["check", "serve"], "unexpected argument \"serve\": expected a flag, see tallycast --help"),
    ] {
        assert_eq!(refused(command().args(arguments)), format!("tallycast: {expected}\n"));
    }
}

/// The line of an option in the output of `tallycast check` or `--print-config`.
#[track_caller]
fn option_line(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(&format!("{name} = ")));
    line.unwrap_or_else(|| panic!("{name} is missing in {text}")).to_owned()
}

#[test]
fn flags_may_stand_before_or_after_the_command() {
    for arguments in [
        &["--route", "a=/a", "--port", "7", "check"][..],
        &["check", "--route", "a=/a", "--port", "7"],
        &["--route=a=/a", "check", "--port", "7"],
        // A value that looks like a command is a value.
        &["--instance", "demo", "--port=7", "--no-admin", "check", "--route", "a=/a"],
    ] {
        let text = stdout(&run(command().args(arguments)));
        assert!(option_line(&text, "route").starts_with("route = a=/a "), "{text}");
        assert!(option_line(&text, "port").starts_with("port = 7 "), "{text}");
    }
    let demo = command().args(["--port", "1", "--print-config", "demo", "--rate", "5"]).output().unwrap();
    let text = stdout(&demo);
    assert!(option_line(&text, "port").starts_with("port = 1 "), "{text}");
    assert!(option_line(&text, "rate").starts_with("rate = 5 "), "{text}");
    let serve = stdout(&run(command().args(["--print-config", "serve", "--port", "1"])));
    assert!(option_line(&serve, "port").starts_with("port = 1 "), "{serve}");
}

#[test]
fn last_of_two_values_wins_and_repeatable_flags_add_up() {
    let arguments = ["--port", "1", "--route", "a=/a", "check", "--port", "2", "--route", "b=/b"];
    let text = stdout(&run(command().args(arguments).env("TALLYCAST_ROUTES", "c=/c")));
    assert!(option_line(&text, "port").starts_with("port = 2 "), "{text}");
    assert!(option_line(&text, "route").starts_with("route = a=/a;b=/b "), "{text}");
}

#[test]
fn demo_ignores_the_options_of_redis() {
    let mut demo = command();
    demo.args(["demo", "--print-config"]).env("REDIS_URL", "not a URL").env("TALLYCAST_REDIS_PING", "soon");
    let text = stdout(&run(&mut demo));
    assert!(!text.contains("redis"), "{text}");
}

#[test]
fn sizes_are_shown_with_units() {
    let mut check = command();
    check.args(["check", "--log-bytes", "8192KiB", "--send-buffer", "65536"]).env("TALLYCAST_MAX_HEAD_BYTES", "10kB");
    let text = stdout(&run(&mut check));
    for (name, size) in [
        ("log-bytes", "8MiB"),
        ("send-buffer", "64KiB"),
        ("max-head-bytes", "10000"),
        ("max-message-bytes", "16KiB"),
        ("total-log-bytes", "256MiB"),
    ] {
        assert!(option_line(&text, name).starts_with(&format!("{name} = {size} ")), "{text}");
    }
}

#[test]
fn json_log_is_one_object_per_line() {
    let output = run(command().args([
        "--log-format",
        "json",
        "--address",
        "127.0.0.1",
        "--port",
        "0",
        "--require-broker",
        "--redis-url",
        "redis://:hunter2@127.0.0.1:1",
    ]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{stderr}");
    let lines: Vec<serde_json::Value> = stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "{field} is missing in {line}");
        }
    }
    let serving = lines.iter().find(|line| line["message"] == "serving").unwrap_or_else(|| panic!("{stderr}"));
    assert!(serving["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{serving}");
    assert_eq!(serving["level"], "INFO");
    assert_eq!(lines.last().unwrap()["level"], "ERROR", "{stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");
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
        for line in effective.lines().filter(|line| !line.starts_with('#')) {
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
    let elsewhere = run(command().arg("healthcheck").env("PORT", &port).env("TALLYCAST_ADDRESS", "127.0.0.9"));
    assert_eq!(elsewhere.status.code(), Some(1), "{elsewhere:?}");
    let mut there = command();
    there.args(["serve", "--redis-url", "redis://127.0.0.1:1", "--address", "127.0.0.9"]);
    let there = Tallycast::spawn(there);
    let port_there = there.address.port().to_string();
    let asked = run(command().arg("healthcheck").env("PORT", &port_there).env("TALLYCAST_ADDRESS", "127.0.0.9"));
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    tallycast.terminate();
    eventually("the healthcheck fails", || {
        let gone = run(command().args(["healthcheck", "--port", &port]));
        let stderr = String::from_utf8(gone.stderr).unwrap();
        gone.status.code() == Some(1) && stderr.lines().count() == 1 && stderr.contains(&port)
    });
}

#[test]
fn procfile_accepts_a_url_with_and_without_insecure() {
    let procfile = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Procfile")).unwrap();
    let (_, web) = procfile.trim_end().split_once("web: ").unwrap();
    let check = format!("{} check", web.replace("target/release/tallycast", env!("CARGO_BIN_EXE_tallycast")));
    for end in ["", "#insecure", "#insecure#insecure"] {
        let url = format!("rediss://:hunter2@host:6380/1{end}");
        let output = run(Command::new("sh").args(["-c", &check]).env_clear().env("REDIS_URL", url));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("redis-url = rediss://:***@host:6380/1#insecure "), "{end}: {text}");
    }
}

#[test]
fn heroku_variables_are_valid() {
    let app = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/app.json")).unwrap();
    let app: serde_json::Value = serde_json::from_str(&app).unwrap();
    let variables = app["env"].as_object().unwrap();
    let mut check = command();
    for (name, variable) in variables {
        let generated = if variable["generator"] == "secret" { "hunter2" } else { "" };
        check.env(name, variable["value"].as_str().unwrap_or(generated));
    }
    let output = run(check.arg("check"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in variables.keys() {
        assert!(text.lines().any(|line| line.ends_with(&format!(" # {name}"))), "{name} is not read: {text}");
    }
    assert!(text.contains("admin-token = ***"), "{text}");
    // What slow readers, large events and topics can take, with send buffers that Linux doubles, fits into the dyno of 512 MB.
    let value = |name: &str| {
        let text = variables[&format!("TALLYCAST_{name}")]["value"].as_str().unwrap();
        let (number, unit) = text.split_at(text.find(char::is_alphabetic).unwrap_or(text.len()));
        let unit: u64 = match unit {
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            _ => 1,
        };
        number.parse::<u64>().unwrap() * unit
    };
    let buffers = value("MAX_CONNECTIONS") * 2 * value("SEND_BUFFER");
    let budgets =
        value("TOTAL_LOG_BYTES") + value("MERGED_BYTES") + 3 * value("INBOX_BYTES") + value("MAX_TOPIC_BYTES");
    assert!(buffers + budgets < 480_000_000, "{buffers} and {budgets} bytes");
}
