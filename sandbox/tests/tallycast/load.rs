//! `sandbox load`: short runs with few connections, in which every reader receives exactly what it is due.

use serde_json::Value;

use crate::sandbox;

/// The figures of a run with `arguments`.
fn load(arguments: &[&str]) -> Value {
    let output = sandbox()
        .args(["load", "--json", "--connections", "30", "--rate", "300", "--seconds", "1", "--drain-seconds", "60"])
        .args(arguments)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Checks the figures of each of `subjects`, which are all that were measured.
fn assert_delivered(figures: &Value, subjects: &[&str]) {
    let measured = figures["subjects"].as_object().unwrap();
    assert_eq!(measured.len(), subjects.len(), "{figures}");
    for subject in subjects {
        let figure = |key: &str| measured[*subject][key].as_f64().unwrap();
        assert_eq!(figure("delivered_percent"), 100.0, "{figures}");
        for wrong in ["missing_count", "duplicate_count", "out_of_order_count", "unexpected_count", "connections_lost"]
        {
            assert_eq!(figure(wrong), 0.0, "{subject} {wrong}: {figures}");
        }
    }
}

#[test]
fn watch_lists_are_delivered_while_connections_come_and_go() {
    let figures = load(&["--watch-lists", "3", "--of", "12", "--churn", "20", "--tls"]);
    assert_delivered(&figures, &["write_loop", "tallycast", "tallycast_TLS"]);
    for subject in ["write_loop", "tallycast", "tallycast_TLS"] {
        let figure = |key: &str| figures["subjects"][subject][key].as_f64().unwrap();
        assert!(figure("reconnections") > 0.0 && figure("churning_delivered") > 0.0, "{subject}: {figures}");
        assert_eq!((figure("churning_missing"), figure("churning_wrong_count")), (0.0, 0.0), "{subject}: {figures}");
    }
    for ratio in ["tallycast:write_loop", "tallycast_TLS:write_loop", "tallycast_TLS:tallycast"] {
        assert!(figures["ratios"][ratio]["wire_bytes_per_delivery"].as_f64().unwrap() > 0.5, "{figures}");
    }
}

#[test]
fn streams_share_http2_connections() {
    let figures = load(&["--watch-lists", "3", "--of", "12", "--http2=4", "--tls", "--subject", "tallycast"]);
    assert_delivered(&figures, &["tallycast", "tallycast_HTTP/2_TLS"]);
}
