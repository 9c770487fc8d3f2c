//! Tests of the definition of the flags as a whole: docs/configuration.md lists them, and none shows a secret.

use std::collections::BTreeMap;

use clap::builder::ArgAction;

use super::flags::{self, Cli};
use super::reload::RELOADABLE;
use super::secret::is_secret;

/// The commands of the server. The flags of those that use a running one are not options of the file, and their help says what they
/// do.
fn definition() -> clap::Command {
    let commands = Cli::definition(Some("serve"));
    ["publish", "count", "tail", "token"]
        .into_iter()
        .fold(commands, |commands, client| commands.mut_subcommand(client, |_| clap::Command::new(client)))
}

/// The rows of the tables that the page should have, by flag.
fn expected() -> BTreeMap<String, String> {
    let definition = definition();
    let rows = flags::all(&definition).map(|(name, argument)| (name.to_owned(), row(name, argument)));
    // Address and port of the healthcheck are those of the server.
    rows.filter(|(_, row)| !row.contains("running tallycast")).collect()
}

fn row(name: &str, argument: &clap::Arg) -> String {
    let variable = argument.get_env().unwrap_or_else(|| panic!("--{name} has no variable")).to_string_lossy();
    let help = argument.get_help().unwrap_or_else(|| panic!("--{name} has no help")).to_string();
    let (text, stated) = match help.split_once("[default: ") {
        Some((text, default)) => (text.trim().to_owned(), Some(default.trim_end_matches(']').to_owned())),
        None => (help, None),
    };
    let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = match (defaults.is_empty(), argument.get_action(), stated) {
        (false, _, None) => format!("`{}`", defaults.join(";")),
        (true, ArgAction::SetTrue, None) => "`false`".to_owned(),
        (true, _, Some(stated)) => stated,
        other => panic!("--{name} needs either a default or \"[default: ...]\" in its help: {other:?}"),
    };
    let mut sentence = text.split(". ").next().unwrap_or_default().trim_end_matches('.').to_owned();
    if matches!(argument.get_action(), ArgAction::Append) {
        assert!(text.contains(". Repeatable"), "--{name} is repeatable, but its help does not say so");
        sentence.push_str(". Repeatable");
    }
    let reload = if RELOADABLE.contains(&name) { "SIGHUP" } else { "" };
    format!("| `--{name}` | `{variable}` | {default} | {sentence} | {reload} |").replace("|  |", "| |")
}

#[test]
fn configuration_page_lists_every_flag() {
    let page = include_str!("../../docs/configuration.md");
    let rows: BTreeMap<String, String> = page
        .lines()
        .filter_map(|line| Some((line.strip_prefix("| `--")?.split_once('`')?.0.to_owned(), line.to_owned())))
        .filter(|(_, line)| line.matches('|').count() == 6)
        .collect();
    let expected = expected();
    let missing: Vec<&str> =
        expected.iter().filter(|(name, row)| rows.get(*name) != Some(row)).map(|(_, row)| row.as_str()).collect();
    assert!(missing.is_empty(), "docs/configuration.md lacks these rows:\n{}", missing.join("\n"));
    let stale: Vec<&String> = rows.keys().filter(|name| !expected.contains_key(*name)).collect();
    assert!(stale.is_empty(), "docs/configuration.md has flags that do not exist: {stale:?}");
}

/// What the options are called whose values are limits.
const LIMITS: [&str; 4] = ["BYTES", "COUNT", "DURATION", "NAMESPACE=COUNT"];
/// Options whose values look like limits, but are not.
const NO_LIMITS: [&str; 10] = [
    "drain",
    "drain-delay",
    "keep-alive",
    "redis-ping",
    "retry",
    "shards",
    "status-interval",
    "tally-period",
    "token-leeway",
    "totals-interval",
];

#[test]
fn limits_page_has_the_default_of_every_limit() {
    let page = include_str!("../../docs/limits.md");
    let rows: Vec<Vec<&str>> =
        page.lines().filter(|line| line.starts_with("| ")).map(|line| line.split(" | ").collect()).collect();
    let bound_of = |name: &str| {
        let option = format!("`--{name}`");
        rows.iter().find(|row| row.get(2) == Some(&option.as_str())).map(|row| row[1])
    };
    let definition = definition();
    for (name, argument) in flags::all(&definition) {
        let value_name = argument.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str());
        if !LIMITS.contains(&value_name) || NO_LIMITS.contains(&name) {
            continue;
        }
        let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let bound = if defaults.is_empty() { "no limit".to_owned() } else { format!("`{}`", defaults.join(";")) };
        assert_eq!(bound_of(name), Some(bound.as_str()), "docs/limits.md, row of --{name}");
    }
    let kib = |bytes: usize| format!("{} KiB", bytes / 1024);
    for (what, bound) in [
        ("wildcards of a topic", tallycast_fanout::MAX_WILDCARDS.to_string()),
        ("bytes of a namespace or topic", tallycast_fanout::MAX_NAMESPACE_BYTES.to_string()),
        ("segments of a namespace or topic", tallycast_fanout::MAX_NAMESPACE_DEPTH.to_string()),
        ("requests at the same time over HTTP/2", tallycast_server::Config::default().max_http2_streams.to_string()),
        ("payload of an event", format!("{} MiB", crate::decode::MAX_PAYLOAD_BYTES >> 20)),
        ("routes", crate::decode::MAX_ROUTES.to_string()),
    ] {
        let row = rows.iter().find(|row| row[0] == format!("| {what}")).unwrap_or_else(|| panic!("no row {what:?}"));
        assert_eq!(row[1], bound, "docs/limits.md, {what}");
    }
    let body = format!("{}; {} s", kib(crate::routes::MAX_BODY_BYTES), crate::routes::REQUEST_TIMEOUT.as_secs());
    assert!(
        page.contains(&format!("| request body; time until it has arrived | {body} |")),
        "docs/limits.md, request body"
    );
}

#[test]
fn reloadable_options_exist() {
    let definition = Cli::definition(None);
    for name in RELOADABLE {
        assert!(flags::find(&definition, name).is_some(), "{name}");
    }
}

#[test]
fn debug_output_of_a_config_shows_no_secret() {
    let arguments = ["tallycast", "--redis-url", "rediss://:hunter2@host", "--admin-token", "hunter2"];
    let config = super::read(arguments.map(Into::into)).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
}

#[test]
fn help_never_shows_a_secret() {
    let definition = Cli::definition(None);
    let secrets: Vec<&str> =
        flags::all(&definition).filter(|(_, argument)| is_secret(argument)).map(|(name, _)| name).collect();
    assert!(["redis-url", "admin-token"].iter().all(|name| secrets.contains(name)), "{secrets:?}");
    for (name, argument) in flags::all(&definition).filter(|(_, argument)| is_secret(argument)) {
        assert!(argument.is_hide_env_values_set(), "--{name}");
    }
}
