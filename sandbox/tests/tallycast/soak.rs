//! `sandbox soak`.

use std::process::Output;

use crate::sandbox;

/// A short run with few clients, of which many leave and come. `arguments` are added.
fn soak(arguments: &[&str]) -> Output {
    sandbox()
        .args(["soak", "--time", "6s", "--rounds", "2", "--connections", "40", "--churn", "20", "--kill-every", "2s"])
        .args(["--report-every", "1s", "--settle", "1s", "--rate", "200"])
        .args(arguments)
        .output()
        .unwrap()
}

/// The first number of a line with `text`.
fn number_before(text: &str, output: &str) -> u64 {
    let line = output.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text:?} in {output}"));
    line.split(text).next().unwrap().split(' ').next_back().unwrap().parse().unwrap()
}

#[test]
fn clients_come_and_go_and_nothing_grows() {
    let output = soak(&[]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stdout}{stderr}");
    // More than are connected at once.
    assert!(number_before(" clients came and went", &stdout) > 40, "{stdout}");
    assert!(number_before(" times", &stdout) >= 2, "{stdout}");
    let (_, quiet) = stdout.split_once("without clients").unwrap();
    for server in [" plain ", " tls "] {
        assert!(stdout.matches(server).count() > 6, "{stdout}");
        // Before the first client and after each round.
        let points: Vec<Vec<&str>> =
            quiet.lines().filter(|line| line.contains(server)).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(points.len(), 3, "{stdout}");
        assert!(points.iter().all(|point| point[2..5] == ["0", "0", "0"]), "{stdout}");
    }
}

#[test]
fn refused_messages_fail_the_run() {
    // Smaller than every change of topics.
    let output = soak(&["--servers", "plain", "--", "--max-message-bytes", "16"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(stdout.contains("FAILED plain: the counter websocket.failed is "), "{stdout}");
    assert!(stdout.contains(" clients failed; the first: the server closed the WebSocket: "), "{stdout}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "sandbox: the soak failed: 2 checks\n");
}
