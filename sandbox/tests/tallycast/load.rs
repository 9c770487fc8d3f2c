//! `sandbox load`: short runs with few connections, in which every reader receives exactly what it is due.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::sandbox;

/// The figures of a run of 30 connections with `arguments`.
fn load(arguments: &[&str]) -> Value {
    load_of("30", arguments)
}

/// The figures of a run of `connections` with `arguments`.
fn load_of(connections: &str, arguments: &[&str]) -> Value {
    let output = sandbox()
        .args(["load", "--json", "--connections", connections])
        .args(["--rate", "300", "--drain-seconds", "60"])
        .args(if arguments.contains(&"--seconds") { &[][..] } else { &["--seconds", "1"] })
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

#[test]
fn newest_messages_arrive_at_a_maximum_rate() {
    let figures = load(&["--max-rate", "4/s", "--subject", "tallycast"]);
    let measured = &figures["subjects"]["tallycast_max-rate"];
    let figure = |key: &str| measured[key].as_f64().unwrap();
    assert_eq!(figure("delivered_percent"), 100.0, "{figures}");
    // Of 300 messages for each of 30 readers.
    assert!(figure("conflated_count") > 0.0 && figure("conflated_count") < 9_000.0, "{figures}");
    assert!(figure("batches_per_second") > 0.0, "{figures}");
    for wrong in ["duplicate_count", "out_of_order_count", "unexpected_count", "connections_lost"] {
        assert_eq!(figure(wrong), 0.0, "{wrong}: {figures}");
    }
    assert_eq!(measured["missing_count"], Value::Null, "{figures}");
}

#[test]
fn changes_of_topics_are_answered_and_lose_nothing() {
    let figures = load(&["--watch-lists", "4", "--of", "20", "--ws", "--topic-changes", "5", "--subject", "tallycast"]);
    assert_delivered(&figures, &["tallycast_WebSocket", "tallycast_WebSocket_topic_changes"]);
    let measured = &figures["subjects"]["tallycast_WebSocket_topic_changes"];
    let figure = |key: &str| measured[key].as_f64().unwrap();
    // As many as are due, except those that wait for an answer.
    assert!(figure("changes_answered") > 0.0 && figure("changes_answered") <= 150.0, "{figures}");
    assert_eq!((figure("changes_refused"), figure("changes_lost_count")), (0.0, 0.0), "{figures}");
    assert!(figure("change_p50_us") > 0.0 && figure("cpu_per_change_us") >= 0.0, "{figures}");
}

#[test]
fn changes_of_sessions_are_acknowledged_beside_live_readers() {
    let arguments = ["--sessions", "50", "--session-changes", "200", "--seconds", "2", "--subject", "tallycast"];
    let figures = load_of("20", &arguments);
    assert_delivered(&figures, &["tallycast_sessions", "tallycast_sessions_changes"]);
    assert_eq!(figures["subjects"]["tallycast_sessions"]["session_changes_acknowledged"], Value::Null, "{figures}");
    let measured = &figures["subjects"]["tallycast_sessions_changes"];
    let figure = |key: &str| measured[key].as_f64().unwrap();
    assert_eq!(figure("session_changes_acknowledged"), 400.0, "{figures}");
    let wrong = (figure("session_changes_failed"), figure("session_changes_unanswered"));
    assert_eq!(wrong, (0.0, 0.0), "{figures}");
    assert!(figure("session_changes_per_second") > 0.0 && figure("session_change_p50_us") > 0.0, "{figures}");
    let ratios = &figures["ratios"]["tallycast_sessions_changes:tallycast_sessions"];
    assert!(ratios["latency_p99_us"].as_f64().unwrap() > 0.0, "{figures}");
    // Beside plain streams of the same topics, and with several processes.
    let arguments = ["--sessions", "50", "--client-processes", "2", "--idle", "--subject", "tallycast"];
    let figures = load_of("20", &arguments);
    assert_eq!(figures["ratios"].as_object().unwrap().keys().collect::<Vec<_>>(), ["tallycast_sessions:tallycast"]);
    for subject in ["tallycast", "tallycast_sessions"] {
        assert_eq!(figures["subjects"][subject]["connections_lost"], 0, "{figures}");
    }
}

#[test]
fn client_processes_share_the_connections() {
    let arguments = ["--client-processes", "3", "--churn", "10", "--discarding", "20", "--distinct-topics", "--tls"];
    let figures = load(&arguments);
    assert_delivered(&figures, &["write_loop", "tallycast", "tallycast_TLS"]);
    for measured in figures["subjects"].as_object().unwrap().values() {
        let figure = |key: &str| measured[key].as_f64().unwrap();
        assert!(figure("reconnections") > 0.0 && figure("churning_delivered") > 0.0, "{figures}");
        assert_eq!((figure("churning_missing"), figure("churning_wrong_count")), (0.0, 0.0), "{figures}");
    }
    let figures = load(&["--client-processes", "2", "--http2=4", "--watch-lists", "3", "--subject", "tallycast"]);
    assert_delivered(&figures, &["tallycast", "tallycast_HTTP/2"]);
}

#[test]
fn readers_with_tokens_receive_what_these_allow() {
    // So many that connecting takes the server several ticks of 10 ms: there is no ratio to a baseline of none.
    let figures = load_of("300", &["--tokens", "--distinct-topics", "--client-processes", "2"]);
    assert_delivered(&figures, &["write_loop", "tallycast", "tallycast_tokens"]);
    for ratio in ["connects_per_second", "cpu_per_connect_us", "idle_user_bytes"] {
        assert!(figures["ratios"]["tallycast_tokens:tallycast"][ratio].as_f64().unwrap() > 0.0, "{ratio}: {figures}");
    }
    let figures = load(&["--tokens", "--ws", "--watch-lists", "3", "--of", "12", "--subject", "variant"]);
    assert_delivered(&figures, &["tallycast_WebSocket_tokens"]);
    let figures = load(&["--tokens", "--http2=4", "--subject", "variant"]);
    assert_delivered(&figures, &["tallycast_HTTP/2_tokens"]);
}

#[test]
fn readers_of_the_mercure_protocol_receive_what_their_tokens_allow() {
    let figures = load(&["--tokens", "--mercure", "--subject", "tallycast"]);
    assert_delivered(&figures, &["tallycast_tokens", "tallycast_tokens_Mercure"]);
}

#[test]
fn runs_are_recorded_one_per_line() {
    let file = std::env::temp_dir().join(format!("sandbox-record-{}.jsonl", std::process::id()));
    for name in ["first", "second"] {
        let path = file.to_str().unwrap();
        load(&["--idle", "--subject", "write-loop", "--record", path, "--workload", name]);
    }
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = records.iter().map(|record| record["workload"].as_str().unwrap()).collect();
    assert_eq!(names, ["first", "second"]);
    assert!(records[0]["subjects"]["write_loop"]["connect_us"].as_f64().unwrap() > 0.0, "{text}");
    assert!(records[0]["cores"].as_u64().unwrap() > 0 && records[0]["time"].as_u64().unwrap() > 0, "{text}");
}

#[test]
fn too_few_descriptors_for_the_server_are_named() {
    let program = sandbox();
    // Enough for two client processes, but not for one server.
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 150 && exec \"$0\" load --connections 90 --idle --seconds 1"])
        .arg(program.get_program())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expected =
        "write loop cannot open 90 connections: its limit of open files (`ulimit -Hn`) is 150, which allows 50";
    assert!(stderr.contains(expected), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
}
