//! The rules, in the order of the data flow. After a change here, `UPDATE_DOCS=1 cargo test --lib docs` rewrites the table in
//! `docs/operations.md`.

use super::Condition::{Grew, Holds, Share, Stands};
use super::Rule;
use super::Severity::{Critical, Warning};

/// The time from the receipt of a message until it is written above which a delivery is late, in seconds: a bound of the histogram.
const LATE: f64 = 0.25;

/// All rules.
pub(crate) static RULES: &[Rule] = &[
    Rule {
        id: "source-down",
        severity: Critical,
        title: "A source is not subscribed",
        condition: Holds(3, "It is connecting, or has lost its subscription", |look| {
            let down = look.status.states.by_name().into_iter().filter(|source| source.state.is_down());
            let down: Vec<String> = down.map(|source| format!("{}: {}", source.name, source.state.word())).collect();
            (!down.is_empty()).then(|| down.join(", "))
        }),
        action: "Check that the broker runs, is reachable, and permits the subscription; the log has the reason. tallycast \
                 reconnects by itself.",
    },
    Rule {
        id: "source-gap",
        severity: Warning,
        title: "A subscription was interrupted",
        condition: Grew(1, "Interruptions", |look| look.status.source.gaps.get()),
        action: "Look for restarts of the broker, or for `client-output-buffer-limit pubsub` in Redis. Events published in a gap \
                 are lost, except where the source reads streams.",
    },
    Rule {
        id: "stream-gap",
        severity: Critical,
        title: "Entries of a stream were lost",
        condition: Grew(1, "Gaps", |look| look.status.source.stream_gaps.get()),
        action: "Keep more entries in the stream (`--stream-maxlen`, `--stream-minid`, or the trimming of its writers). The log \
                 has the key and the reason; readers were sent a reset.",
    },
    Rule {
        id: "events-lost",
        severity: Critical,
        title: "Events were lost: inbox full",
        condition: Grew(1, "Events and totals lost", |look| look.status.source.overflowed.get()),
        action: "Add CPU, or raise `--inbox` and `--inbox-bytes` for short bursts.",
    },
    Rule {
        id: "source-behind",
        severity: Warning,
        title: "A source is behind its broker",
        condition: Holds(30, "More than 10,000 records of Kafka topics wait to be read", |look| {
            let lag = look.status.source.lag.total();
            (lag > 10_000).then(|| format!("Records not read: {lag}"))
        }),
        action: "Add CPU or nodes. After a start or an outage, wait until the records are read.",
    },
    Rule {
        id: "inbox-filling",
        severity: Warning,
        title: "An inbox is filling",
        condition: Holds(3, "The inbox of a stage is filled by more than 80 %", |look| {
            let depths = look.status.inboxes.depths(&look.status.handle);
            let (stage, percent) = depths
                .iter()
                .map(|(stage, depth)| {
                    let share = |len: usize, capacity: usize| len.saturating_mul(100) / capacity.max(1);
                    (stage, share(depth.len, depth.capacity).max(share(depth.bytes, depth.capacity_bytes)))
                })
                .max_by_key(|(_, percent)| *percent)?;
            (percent > 80).then(|| format!("Inbox of {stage}: {percent} %"))
        }),
        action: "This stage is the bottleneck: add CPU, or raise `--inbox` and `--inbox-bytes` for short bursts. Events are lost \
                 when the inbox is full.",
    },
    Rule {
        id: "totals-stale",
        severity: Warning,
        title: "Totals are not read",
        condition: Stands("Successful readings of totals", |look| {
            (look.has_totals && look.status.is_ready()).then(|| look.status.source.readings.get())
        }),
        action: "Give the Redis user `EVAL` and the channels `tallycast.cut.*`, and check `--max-totals` and \
                 `--max-totals-bytes`. The log has the reason.",
    },
    Rule {
        id: "totals-unknown",
        severity: Critical,
        title: "Readers were refused: totals unknown",
        condition: Grew(1, "Readers refused", |look| look.status.handle.stats().without_totals.get()),
        action: "Check that the sorted set can be read, and is not larger than `--max-totals` and `--max-totals-bytes`. The log \
                 has the reason.",
    },
    Rule {
        id: "decode-rejected",
        severity: Warning,
        title: "Events were rejected",
        condition: Grew(1, "Events rejected", |look| look.status.decode.rejected.get()),
        action: "Find the publisher by the channel in the log: its events are not UTF-8, too large, without a route or without a \
                 valid namespace.",
    },
    Rule {
        id: "push-rejected",
        severity: Warning,
        title: "Pushed events were rejected",
        condition: Grew(1, "Events rejected", |look| look.status.push.rejected.get()),
        action: "The log names the source and the reason. These events are lost.",
    },
    Rule {
        id: "push-refused",
        severity: Warning,
        title: "Senders were refused",
        condition: Grew(10, "Requests refused", |look| look.status.push.refused.get()),
        action: "Compare the secret or token of the push source with that of the sender, and the clocks of both.",
    },
    Rule {
        id: "publishing-failed",
        severity: Critical,
        title: "Publishing fails",
        condition: Grew(1, "Requests failed", |look| look.status.publishing.failed.get()),
        action: "Check that the broker runs and permits publishing. Publishers were answered with 503 and should try again.",
    },
    Rule {
        id: "late-delivery",
        severity: Warning,
        title: "Messages are late",
        condition: Share(1, "Turns that took more than 250 ms until messages were written", |look| {
            let late = |(bound, count): (f64, u64)| if bound > LATE { count } else { 0 };
            let lag = &look.status.handle.stats().lag;
            (lag.buckets().map(late).sum(), lag.buckets().map(|(_, count)| count).sum())
        }),
        action: "Add CPU or nodes, or send fewer messages per reader.",
    },
    Rule {
        id: "slow-readers",
        severity: Warning,
        title: "Slow readers were disconnected",
        condition: Grew(10, "Readers disconnected", |look| {
            let hub = look.status.handle.stats();
            hub.slow_disconnected.get() + hub.stalled.get()
        }),
        action: "Expected on slow networks. If many readers are concerned, raise `--log-batches` and `--log-bytes`, or send less per \
                 reader.",
    },
    Rule {
        id: "messages-skipped",
        severity: Warning,
        title: "Readers skipped messages",
        condition: Grew(10, "Skips", |look| {
            let hub = look.status.handle.stats();
            hub.slow_skipped.get() + hub.slow_latest.get()
        }),
        action: "Raise `--log-batches` and `--log-bytes`, or keep a `history=` for these routes, from which slow readers continue \
                 without a loss.",
    },
    Rule {
        id: "streams-reset",
        severity: Warning,
        title: "Resumed streams had lost messages",
        condition: Grew(10, "Streams reset", |look| look.status.handle.stats().resets.get()),
        action: "Raise `history=` of the routes and `--history-bytes` to cover the time for which clients are away. \
                 Expected after a restart, except for streams with positions of the broker.",
    },
    Rule {
        id: "memory-full",
        severity: Critical,
        title: "Readers were disconnected to free memory",
        condition: Grew(1, "Readers disconnected", |look| look.status.handle.stats().shed.get()),
        action: "More waits for slow readers than `--total-log-bytes`: raise it if there is memory, or add nodes.",
    },
    Rule {
        id: "connections-near-limit",
        severity: Warning,
        title: "Connections are near the limit",
        condition: Holds(3, "More than 90 % of `--max-connections` are open", |look| {
            let (open, limit) = (look.status.handle.stats().connections.get(), look.max_connections as u64);
            (open.saturating_mul(10) > limit.saturating_mul(9)).then(|| format!("Connections: {open} of {limit}"))
        }),
        action: "Raise `--max-connections` and the limit on open files, or add nodes.",
    },
    Rule {
        id: "connections-refused",
        severity: Critical,
        title: "Connections were refused: limit reached",
        condition: Grew(1, "Connections refused", |look| look.status.server.refused.get()),
        action: "Raise `--max-connections` and the limit on open files, or add nodes.",
    },
    Rule {
        id: "limits-refused",
        severity: Warning,
        title: "Clients were refused by limits",
        condition: Grew(10, "Connections and streams refused", |look| {
            let server = &look.status.server;
            let topics = server.refused_topics_address.get() + server.refused_topics.get();
            server.refused_address.get() + server.refused_rate.get() + server.refused_namespace.get() + topics
        }),
        action: "\"Errors and limits\" on the admin page says which limit. If the client is a proxy, add `--trusted-proxy`.",
    },
    Rule {
        id: "open-files-near-limit",
        severity: Warning,
        title: "Open files are near the limit",
        condition: Holds(3, "More than 90 % of the files that the process may open are open", |look| {
            let (open, limit) = (look.usage.open_files?, look.usage.max_files?);
            (open.saturating_mul(10) > limit.saturating_mul(9)).then(|| format!("Open files: {open} of {limit}"))
        }),
        action: "Raise the limit with `ulimit -n` or `LimitNOFILE=`.",
    },
    Rule {
        id: "accept-errors",
        severity: Critical,
        title: "Connections cannot be accepted",
        condition: Grew(1, "Failures", |look| look.status.server.accept_errors.get()),
        action: "Raise the limit on open files with `ulimit -n` or `LimitNOFILE=`. The log has the error.",
    },
    Rule {
        id: "authentication-failures",
        severity: Warning,
        title: "Many clients fail to authenticate",
        condition: Grew(100, "Tokens, tickets and streams denied", |look| {
            let auth = &look.status.auth;
            let tokens = auth.expired.get() + auth.wrong_key.get() + auth.invalid.get() + auth.refused_tickets.get();
            tokens + look.status.server.denied.get() + look.status.connect_hook.refused.get()
        }),
        action: "Compare keys and clocks with those of the issuer. Without a recent change, someone tries credentials.",
    },
    Rule {
        id: "keys-unavailable",
        severity: Warning,
        title: "Keys of tokens cannot be fetched",
        condition: Grew(1, "Attempts failed", |look| look.status.auth.jwks_failed.get()),
        action: "Check that the server of `--token-jwks` is reachable. Keys fetched before stay in use; the log has the reason.",
    },
    Rule {
        id: "connect-hook-failing",
        severity: Critical,
        title: "The connect hook fails",
        condition: Grew(1, "Clients without a valid answer", |look| look.status.connect_hook.failed.get()),
        action: "Check the application behind `--connect-url`: it is down, slower than `--connect-timeout`, or answers with \
                 something else. The log has the reason.",
    },
    Rule {
        id: "sessions-not-shared",
        severity: Critical,
        title: "Sessions are not shared",
        condition: Grew(3, "Attempts failed", |look| look.status.sessions.failures.get()),
        action: "Check that Redis is reachable and that its user has the permissions for sessions. After 15 s the other nodes take \
                 this one for dead.",
    },
    Rule {
        id: "session-messages-lost",
        severity: Warning,
        title: "Messages for sessions were lost",
        condition: Grew(1, "Messages lost", |look| look.status.sessions.dropped.get()),
        action: "Backends send to single sessions faster than their clients read: send less.",
    },
    Rule {
        id: "ws-hub-failing",
        severity: Critical,
        title: "The ws-hub contract fails",
        condition: Grew(1, "Clients without an answer, messages lost, and failed subscriptions", |look| {
            let ws_hub = &look.status.ws_hub;
            ws_hub.unanswered.get() + ws_hub.lost.get() + ws_hub.failures.get()
        }),
        action: "Check that Redis is reachable and that a listener is subscribed to `ws-hub:client-new`.",
    },
    Rule {
        id: "subscriptions-not-shared",
        severity: Warning,
        title: "Subscriptions are not shared",
        condition: Grew(3, "Attempts failed", |look| look.status.presence.failures.get()),
        action: "Check that Redis is reachable and that its user has the permissions for subscriptions.",
    },
    Rule {
        id: "cluster-unreachable",
        severity: Warning,
        title: "The other nodes are unknown",
        condition: Holds(3, "The list of nodes of `--cluster` is stale", |look| {
            let cluster = look.cluster.filter(|cluster| cluster.is_stale())?;
            Some(cluster.error.clone().unwrap_or_else(|| "No answer of the broker".to_owned()))
        }),
        action: "Check that the broker is reachable from this node and permits the commands of `--cluster`.",
    },
    Rule {
        id: "node-missing",
        severity: Warning,
        title: "A node is missing",
        condition: Holds(60, "A node has vanished in the last 5 min without being told to stop", |look| {
            look.missing_nodes.as_ref().map(|names| format!("Missing: {names}"))
        }),
        action: "Look at the log of the missing node. The alarm ends when it is back, or after 5 min.",
    },
];
