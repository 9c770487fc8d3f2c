//! Traces: exported to a collector that knows the protocol by PyPI's `opentelemetry-proto`, in `/metrics` and in the log.

use std::collections::HashMap;

use serde::Deserialize;

use crate::support::{
    Event, EventSource, PYTHON, Printer, RedisServer, Tallycast, command, eventually, libraries, run,
};

/// As `collector.py` prints it. Times are nanoseconds.
#[derive(Debug, Deserialize)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    start: u64,
    end: u64,
    status: u32,
    attributes: HashMap<String, serde_json::Value>,
    resource: HashMap<String, serde_json::Value>,
    key: Option<String>,
}

impl Span {
    fn length(&self) -> u64 {
        self.end.checked_sub(self.start).expect("no negative time")
    }

    fn namespace(&self) -> Option<&str> {
        self.attributes.get("tallycast.namespace")?.as_str()
    }

    fn shard(&self) -> Option<u64> {
        self.attributes.get("tallycast.shard")?.as_u64()
    }
}

/// A trace: the span of the message, and those of its stages.
struct Trace {
    root: Span,
    stages: Vec<Span>,
}

impl Trace {
    fn names(&self) -> Vec<&str> {
        self.stages.iter().map(|span| span.name.as_str()).collect()
    }

    /// The stages of one delivery to the readers of a shard, from the source on.
    fn path(&self, namespace: &str, shard: u64) -> Vec<&Span> {
        let is_on = |span: &&Span| {
            span.namespace().is_none_or(|of| of == namespace) && span.shard().is_none_or(|of| of == shard)
        };
        self.stages.iter().filter(is_on).collect()
    }
}

/// A running collector.
struct Collector {
    printer: Printer,
    endpoint: String,
    traces: Vec<Trace>,
}

impl Collector {
    fn start() -> Self {
        let script = libraries().join("collector.py");
        let printer = Printer::start(PYTHON, script.to_str().unwrap(), &[]);
        let endpoint = format!("http://127.0.0.1:{}", printer.line());
        Self { printer, endpoint, traces: Vec::new() }
    }

    /// Waits for the trace of a message, whose spans come in one request.
    #[track_caller]
    fn until(&mut self, is_wanted: impl Fn(&Trace) -> bool) -> Trace {
        loop {
            if let Some(place) = self.traces.iter().position(&is_wanted) {
                return self.traces.swap_remove(place);
            }
            let mut spans: Vec<Span> = serde_json::from_str(&self.printer.line()).unwrap();
            for root in spans.extract_if(.., |span| span.name == "message").collect::<Vec<_>>() {
                let stages = spans.extract_if(.., |span| span.trace == root.trace).collect();
                self.traces.push(Trace { root, stages });
            }
            assert!(spans.is_empty(), "spans without a root: {spans:?}");
        }
    }
}

#[test]
fn stages_of_a_message_are_exported_as_one_trace() {
    let redis = RedisServer::start();
    let mut collector = Collector::start();
    let mut serve = command();
    serve.arg("serve").env("REDIS_URL", redis.url());
    serve.args(["--trace-sample", "1", "--tally-period", "5s", "--instance", "test"]);
    serve.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint).env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=hunter2");
    serve.env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=other");
    serve.env("OTEL_SERVICE_NAME", "board");
    let tallycast = Tallycast::spawn(serve);
    tallycast.until_ready();
    let readers: Vec<_> = (0..4).map(|_| EventSource::open(&tallycast, "/subscribe/raw")).collect();
    let tallies = EventSource::open(&tallycast, "/subscribe/eps");
    // The first flush need not wait, the second one must.
    for id in ["1F602", "2665"] {
        redis.publish_scores([id]);
        assert_eq!(readers[0].next(), Event::message(id));
        assert_eq!(tallies.next(), Event::message(&format!("{{\"{id}\":1}}")));
    }
    let size = |trace: &Trace| trace.root.attributes["messaging.message.body.size"].as_u64();
    let trace = collector.until(|trace| size(trace) == Some(4));
    let Trace { root, stages } = &trace;
    assert_eq!((root.parent.as_str(), root.status, root.namespace()), ("", 0, Some("/raw")));
    assert!(root.attributes["tallycast.source"].as_str().unwrap().starts_with("redis://"), "{root:?}");
    for (key, value) in [
        ("service.name", "board"),
        ("service.instance.id", "rust-development-test"),
        ("deployment.environment.name", "test"),
    ] {
        assert_eq!(root.resource[key], value);
    }
    assert_eq!(root.key.as_deref(), Some("hunter2"));
    for span in stages {
        assert_eq!((&span.parent, &span.trace), (&root.id, &root.trace));
        assert!(root.start <= span.start && span.end <= root.end, "{span:?} {root:?}");
    }
    for (namespace, names) in [
        ("/raw", &["decode_wait", "decode", "hub_wait", "hub", "shard_wait", "frame", "write"][..]),
        ("/eps", &["decode_wait", "decode", "tally", "hub_wait", "hub", "shard_wait"]),
    ] {
        for shard in [0, 1] {
            let path = trace.path(namespace, shard);
            let found: Vec<&str> = path.iter().map(|span| span.name.as_str()).collect();
            assert!(found.starts_with(names), "{namespace} {shard}: {found:?}");
            assert!(path.windows(2).all(|pair| pair[0].end <= pair[1].start), "{path:?}");
            let sum: u64 = path.iter().map(|span| span.length()).sum();
            assert!(sum <= root.length(), "{path:?} {root:?}");
        }
    }
    let written = |namespace| {
        let written = stages.iter().filter(|span| span.name == "write" && span.namespace() == Some(namespace));
        written.map(|span| span.attributes["tallycast.readers"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((written("/raw"), written("/eps")), (4, 1));
    // Where the time went.
    let longest = stages.iter().max_by_key(|span| span.length()).unwrap();
    assert_eq!((longest.name.as_str(), longest.namespace()), ("tally", Some("/eps")));
    // What was traced right before the end is exported, too.
    redis.publish([("stream.score_updates", b"\xff\xff\xff")]);
    tallycast.until_counter("/decode/rejected", 1);
    let ended = tallycast.terminate();
    let rejected = collector.until(|trace| size(trace) == Some(3));
    assert_eq!((rejected.root.status, rejected.names()), (2, vec!["decode_wait", "decode"]));
    assert_eq!((&ended.counters()["trace"]["exported"], &ended.counters()["trace"]["dropped"]), (&3.into(), &0.into()));
    assert!(!ended.log.contains("hunter2"), "{}", ended.log);
}

#[test]
fn trace_of_the_sender_continues() {
    let redis = RedisServer::start();
    let mut collector = Collector::start();
    let flags = [
        "--source",
        "hooks=cloudevents:?token=abcdef0123456789abcdef0123456789",
        "--route",
        "hooks:*=/hooks/*",
        "--route",
        "stream:orders=/orders",
        // Only what senders ask for.
        "--trace-sample",
        "1000000000",
        "--otlp-endpoint",
        &collector.endpoint,
    ];
    let tallycast = Tallycast::start(&redis, &flags);
    let orders = EventSource::open(&tallycast, "/subscribe/orders");
    let parent = |trace: &str, flags: &str| format!("00-{trace}-00f067aa0ba902b7-{flags}");
    let traces = ["4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"];
    let mut entries = redis::pipe();
    for (data, flags) in [("unsampled", "00"), ("sampled", "01")] {
        let fields = [("data", data), ("traceparent", &parent(traces[0], flags))];
        entries.cmd("XADD").arg("orders").arg("*").arg(&fields).ignore();
    }
    let () = entries.query(&mut redis.connect()).unwrap();
    assert_eq!([orders.next().data, orders.next().data], ["unsampled", "sampled"]);
    let Trace { root, stages } = collector.until(|trace| trace.root.trace == traces[0]);
    assert_eq!(root.parent, "00f067aa0ba902b7");
    assert_eq!((stages[0].name.as_str(), stages[0].start), ("broker", root.start));
    assert!(root.attributes["messaging.message.id"].as_str().unwrap().contains('-'), "{root:?}");

    let mut curl = std::process::Command::new("curl");
    curl.args(["--silent", "--max-time", "60", "--output", "/dev/null", "--write-out", "%{http_code}"]);
    let authorization = "authorization: Bearer abcdef0123456789abcdef0123456789";
    let context = format!("traceparent: {}", parent(traces[1], "01"));
    for header in [authorization, &context, "ce-specversion: 1.0", "ce-id: 1", "ce-source: /test", "ce-type: a"] {
        curl.args(["-H", header]);
    }
    curl.args(["-H", "content-type: text/plain", "--data-binary", "pushed"]).arg(tallycast.url("/push/hooks"));
    assert_eq!(String::from_utf8(run(&mut curl).stdout).unwrap(), "204");
    let pushed = collector.until(|trace| trace.root.trace == traces[1]);
    assert_eq!((pushed.root.parent.as_str(), pushed.root.namespace()), ("00f067aa0ba902b7", Some("/hooks/a")));
    assert_eq!(tallycast.counter("/trace/sampled"), 2);
}

#[test]
fn events_flow_while_the_collector_is_away() {
    let redis = RedisServer::start();
    // Nothing listens on its port.
    let away = RedisServer::absent();
    let endpoint = format!("http://127.0.0.1:{}", away.port());
    let log = "info,tallycast::trace=debug";
    let flags = ["--trace-sample", "1", "--otlp-endpoint", &endpoint, "--log", log];
    let tallycast = Tallycast::start(&redis, &flags);
    let reader = EventSource::open(&tallycast, "/subscribe/raw");
    redis.publish_scores(["1F602"]);
    assert_eq!(reader.next(), Event::message("1F602"));
    tallycast.wait_for_log("cannot export traces; events are not affected error=cannot connect");
    eventually("the trace is counted as lost", || tallycast.counter("/trace/dropped") == 1);
    redis.publish_scores(["2665"]);
    assert_eq!(reader.next(), Event::message("2665"));
    // Without a collector, the answer is in the log and in the metrics.
    let line = tallycast.wait_for_log("traced");
    assert!(line.contains("decode_wait") && line.contains("tally /eps") && line.contains("write /raw"), "{line}");
    let (_, metrics) = tallycast.get("/metrics");
    let count = |stage: &str| {
        let series = format!("tallycast_stage_seconds_count{{stage=\"{stage}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&series)).expect("the stage is measured");
        count.parse::<u64>().unwrap()
    };
    assert!(count("decode") >= 1 && count("tally") >= 1 && count("write") >= 1, "{metrics}");
    assert_eq!(count("broker"), 0);
}

#[test]
fn traces_that_a_collector_does_not_take_by_the_end_are_counted_as_lost() {
    let redis = RedisServer::start();
    // The kernel accepts its connections; nothing answers.
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let tallycast = Tallycast::start(&redis, &["--trace-sample", "1", "--otlp-endpoint", &endpoint]);
    let reader = EventSource::open(&tallycast, "/subscribe/raw");
    redis.publish_scores(["1F602"]);
    assert_eq!(reader.next(), Event::message("1F602"));
    let counters = tallycast.terminate().counters();
    assert_eq!((&counters["trace"]["sampled"], &counters["trace"]["dropped"]), (&1.into(), &1.into()));
}
