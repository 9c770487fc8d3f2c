//! The tables of `docs/operations.md` follow from the definitions: this test compares them, and rewrites them if
//! `UPDATE_DOCS` is set.

use std::fs;

use super::alarms::{Condition, IN_WINDOW, MIN_PART, RULES, Rule, Severity};
use super::counters::{Metric, Section, Values};
use super::definitions::SECTIONS;
use super::metrics::PREFIX;

const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");

/// The table of a section, between the comments that mark its place.
fn table(section: &Section) -> String {
    let mut text = "| metric | `counters.json` | meaning | what to watch |\n|---|---|---|---|\n".to_owned();
    for metric in section.metrics {
        let readings: Vec<String> =
            metric.readings().map(|reading| format!("`{}.{}`", reading.object, reading.key)).collect();
        text += &format!(
            "| `{}` | {} | {}{} | {} |\n",
            full_name(metric),
            readings.join(", "),
            metric.help,
            labels(&metric.values),
            metric.watch
        );
    }
    text
}

/// The table of the alarms.
fn alarms() -> String {
    let mut text = "| alarm | raised when | what to do |\n|---|---|---|\n".to_owned();
    for Rule { id, severity, title, condition, action } in RULES {
        let severity = if *severity == Severity::Critical { "**critical**" } else { "warning" };
        text +=
            &format!("| <a id=\"{id}\"></a>`{id}`, {severity} | {title}. {} | {action} |\n", condition_text(condition));
    }
    text
}

fn condition_text(condition: &Condition) -> String {
    match condition {
        Condition::Grew(by, of, _) => format!("{of} {IN_WINDOW}: {by} or more."),
        Condition::Stands(of, _) => format!("{of} {IN_WINDOW}: 0."),
        Condition::Share(percent, of, _) => format!("{of} {IN_WINDOW}: more than {percent} %, and {MIN_PART} or more."),
        Condition::Holds(after, state, _) => format!("{state}, for {after} s."),
    }
}

/// The name in `/metrics`.
fn full_name(metric: &Metric) -> String {
    let suffix = match metric.values {
        Values::Counter(_) | Values::Time(_) | Values::Counters(..) | Values::FoundCounters(..) => "_total",
        Values::StateTime(_) => "_total",
        _ => "",
    };
    format!("{PREFIX}_{}{suffix}", metric.name)
}

fn labels(values: &Values) -> String {
    match values {
        Values::Counters(label, labelled) => {
            let values: Vec<String> = labelled.iter().map(|(value, _)| format!("`{value}`")).collect();
            format!(" Label `{label}`: {}.", values.join(", "))
        }
        Values::FoundCounters(label, ..)
        | Values::FoundGauges(label, ..)
        | Values::FoundStates(label, _)
        | Values::States(label, _) => {
            format!(" Label `{label}`.")
        }
        Values::Histogram(..) => " Histogram.".to_owned(),
        Values::Histograms(label, _) => format!(" Histogram. Label `{label}`."),
        _ => String::new(),
    }
}

#[test]
fn operators_guide_has_the_tables_of_the_definitions() {
    let guide = fs::read_to_string(GUIDE).unwrap();
    let mut updated = guide.clone();
    let metrics = SECTIONS.iter().map(|section| (format!("metrics: {}", section.title), table(section)));
    for (name, table) in metrics.chain([("alarms".to_owned(), alarms())]) {
        let start = format!("<!-- {name} -->\n");
        let (before, rest) = updated.split_once(&start).unwrap_or_else(|| panic!("docs/operations.md has no {start}"));
        let (_, after) = rest.split_once("<!-- end -->").expect("a comment that ends the table");
        updated = format!("{before}{start}{table}<!-- end -->{after}");
    }
    #[expect(clippy::disallowed_methods, reason = "a switch of this test, not of the program")]
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(GUIDE, &updated).unwrap();
        return;
    }
    assert!(guide == updated, "docs/operations.md is out of date; run UPDATE_DOCS=1 cargo test --lib operators_guide");
}

#[test]
fn metrics_and_json_keys_are_unique() {
    let metrics = || SECTIONS.iter().flat_map(|section| section.metrics);
    let mut names: Vec<&str> = metrics().map(|metric| metric.name).collect();
    let mut keys: Vec<_> = metrics().flat_map(Metric::readings).map(|reading| (reading.object, reading.key)).collect();
    let before = (names.len(), keys.len());
    names.sort_unstable();
    names.dedup();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!((names.len(), keys.len()), before);
}
