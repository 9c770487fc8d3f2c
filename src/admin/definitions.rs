//! The definition of every metric, in the order of the data flow. After a change here, `UPDATE_DOCS=1 cargo test --lib docs`
//! rewrites the tables in `docs/operations.md`.

use std::collections::BTreeMap;

use prometheus_client::registry::Unit;

use super::counters::{Metric, Reading, Scrape, Section, Values};
use super::status::unix_seconds;
use crate::source::BrokerState;
use crate::trace::STAGES;
use tallycast_fanout::inbox::Depth;

/// All metrics.
pub(super) static SECTIONS: [Section; 12] = [
    Section { title: "Source", metrics: SOURCE },
    Section { title: "Push sources", metrics: PUSH },
    Section { title: "Decode and tally", metrics: PIPELINE },
    Section { title: "Tokens", metrics: TOKENS },
    Section { title: "Connect hook", metrics: CONNECT_HOOK },
    Section { title: "Delivery", metrics: DELIVERY },
    Section { title: "Traces", metrics: TRACES },
    Section { title: "Sessions", metrics: SESSIONS },
    Section { title: "ws-hub", metrics: WS_HUB },
    Section { title: "Subscriptions", metrics: SUBSCRIPTIONS },
    Section { title: "Cluster", metrics: CLUSTER },
    Section { title: "Process", metrics: PROCESS },
];

const SOURCE: &[Metric] = &[
    Metric {
        name: "source_up",
        values: Values::State(|scrape| Some(f64::from(u8::from(scrape.status.is_ready())))),
        help: "Whether all sources are subscribed at their brokers: 1 or 0.",
        watch: "0 for more than a few seconds: a broker is unreachable or refuses the subscription. The log has the reason, \
                once for each outage. tallycast reconnects by itself.",
    },
    Metric {
        name: "source_subscribed",
        values: Values::FoundStates("source", |scrape| {
            let by_name = scrape.status.states.by_name().into_iter().filter(|source| source.state != BrokerState::Idle);
            let is_subscribed = |state| f64::from(u8::from(state == BrokerState::Subscribed));
            by_name.map(|source| (source.name.to_string(), is_subscribed(source.state))).collect()
        }),
        help: "Whether a source is subscribed at its broker: 1 or 0. Sources without routes are left out.",
        watch: "Which source it is if `tallycast_source_up` is 0.",
    },
    Metric {
        name: "source_events",
        values: Values::Counter(Reading::new("source", "received", |status| status.source.received.get())),
        help: "Events received from the broker.",
        watch: "Drops to zero while the source is up: the feeder has stopped, or it publishes on channels that no \
                `--route` names.",
    },
    Metric {
        name: "source_backlog",
        values: Values::Counter(Reading::new("source", "backlog", |status| status.source.backlog.get())),
        help: "Entries of streams read for the history of their routes, besides `tallycast_source_events_total`.",
        watch: "Grows after the start, and again only after a stream was replaced. Until it stands still, the process is not \
                ready.",
    },
    Metric {
        name: "source_stream_gaps",
        values: Values::Counter(
            Reading::new("source", "stream_gaps", |status| status.source.stream_gaps.get()).error("Stream gaps"),
        ),
        help: "Times that entries of a stream were lost before they were read, or that its positions became void.",
        watch: "Any increase: a stream was trimmed to less than tallycast needs to catch up, deleted or replaced, or Redis has \
                lost its newest entries. The log has the key and the reason; readers receive a reset.",
    },
    Metric {
        name: "source_lag",
        values: Values::FoundGauges(
            "stream",
            Reading::new("source", "lag", |status| status.source.lag.total()),
            |scrape| scrape.status.source.lag.all(),
        ),
        help: "Records of a Kafka topic that were there at the last look, every two seconds, and had not been read.",
        watch: "Grows: this process cannot keep up with the topic. Missing: the cluster is away.",
    },
    Metric {
        name: "source_trimmed",
        values: Values::Counter(Reading::new("source", "trimmed", |status| status.source.trimmed.get())),
        help: "Entries that this process trimmed from streams.",
        watch: "Constant without `--stream-maxlen` and `--stream-minid`.",
    },
    Metric {
        name: "source_overflowed",
        values: Values::Counter(
            Reading::new("source", "overflowed", |status| status.source.overflowed.get())
                .error("Events dropped: inbox full"),
        ),
        help: "Events and totals lost because the first inbox was full.",
        watch: "Any increase: too little CPU for the rate of events. Add CPU, or raise `--inbox` and \
                `--inbox-bytes` for short bursts. \
                Lost totals are read again automatically.",
    },
    Metric {
        name: "source_subscriptions",
        values: Values::Counter(Reading::new("source", "subscriptions", |status| status.source.subscriptions.get())),
        help: "Successful subscriptions at the broker.",
        watch: "More than one: see `tallycast_source_gaps_total`.",
    },
    Metric {
        name: "source_gaps",
        values: Values::Counter(
            Reading::new("source", "gaps", |status| status.source.gaps.get()).error("Subscription gaps"),
        ),
        help: "Interruptions of the subscription.",
        watch: "`/raw` and `/details` lose the events of a gap; `/eps` is corrected. Typical causes: Redis restarts, or \
                disconnects a slow subscriber (`client-output-buffer-limit pubsub`).",
    },
    Metric {
        name: "source_gap_seconds",
        values: Values::Time(Reading::new("source", "gap_milliseconds", |status| status.source.gap_milliseconds.get())),
        help: "Total length of all gaps.",
        watch: "See `tallycast_source_gaps_total`.",
    },
    Metric {
        name: "source_cuts",
        values: Values::Counter(Reading::new("source", "cuts", |status| status.source.cuts.get())),
        help: "Snapshots of totals received, without those of sorted sets that have never existed.",
        watch: "See `tallycast_source_readings_total`. Totals of a relay count here alone.",
    },
    Metric {
        name: "source_readings",
        values: Values::Counter(Reading::new("source", "readings", |status| status.source.readings.get())),
        help: "Successful readings of totals at the broker.",
        watch: "No increase for longer than `--totals-interval`: the Redis user has no permission for `EVAL` or the \
                channels `tallycast.cut.*`, or the sorted set is larger than `--max-totals` or `--max-totals-bytes`. The \
                log has the reason.",
    },
    Metric {
        name: "skipped_members",
        values: Values::Counters(
            "reader",
            &[
                (
                    "totals",
                    Reading::new("source", "skipped_members", |status| status.source.skipped_members.get())
                        .error("Members skipped in totals: not UTF-8"),
                ),
                (
                    "rankings",
                    Reading::new("store", "skipped_members", |status| status.store.skipped_members.get())
                        .error("Members skipped in rankings: not UTF-8"),
                ),
            ],
        ),
        help: "Members of sorted sets left out of a reading because they are not UTF-8.",
        watch: "Any increase: something other than the feeder writes to the sorted set. The members count again at each \
                reading.",
    },
];

const PUSH: &[Metric] = &[
    Metric {
        name: "push_events",
        values: Values::Counter(Reading::new("push", "received", |status| status.push.received.get())),
        help: "Events taken of requests to push sources: sent on, or published with `publish=`.",
        watch: "Drops to zero: the senders have stopped, or are refused.",
    },
    Metric {
        name: "push_duplicates",
        values: Values::Counter(Reading::new("push", "duplicates", |status| status.push.duplicates.get())),
        help: "Events of push sources that were answered as taken, and not sent on again, because one with their id was taken before.",
        watch: "A few: senders repeat what they had no answer to. Many: their answers are lost on the way, or come too late.",
    },
    Metric {
        name: "push_rejected",
        values: Values::Counter(
            Reading::new("push", "rejected", |status| status.push.rejected.get()).error("Pushed events rejected"),
        ),
        help: "Events of push sources that were rejected for good: malformed, not UTF-8, too large, or without a route.",
        watch: "Any increase: these events are lost. The log names the source and the reason, at a limited rate.",
    },
    Metric {
        name: "push_refused",
        values: Values::Counter(
            Reading::new("push", "refused", |status| status.push.refused.get()).error("Pushed requests refused"),
        ),
        help: "Requests to push sources without a valid signature or token.",
        watch: "Any increase: a secret was changed on one side only, a clock is wrong, or someone tries.",
    },
    Metric {
        name: "push_retried",
        values: Values::Counter(Reading::new("push", "retried", |status| status.push.retried.get())),
        help: "Requests to push sources that were answered with 503 or 429, so that their senders try again.",
        watch: "Any increase: more than `rate=` of the source arrives, the broker of `publish=` is away, or the process is \
                overloaded or ends.",
    },
];

const PIPELINE: &[Metric] = &[
    Metric {
        name: "published_messages",
        values: Values::Counter(Reading::new("publishing", "published", |status| status.publishing.published.get())),
        help: "Messages published, and counts added, by `POST /publish` and `POST /count`.",
        watch: "Drops to zero: the publishers have stopped, or are refused.",
    },
    Metric {
        name: "publishing_refused",
        values: Values::Counter(Reading::new("publishing", "refused", |status| status.publishing.refused.get())),
        help: "Requests to publish that were refused: without a valid key, invalid, or over `--publish-rate`.",
        watch: "Any increase: a publisher has a wrong key or sends too much. The response says which.",
    },
    Metric {
        name: "publishing_failed",
        values: Values::Counter(
            Reading::new("publishing", "failed", |status| status.publishing.failed.get())
                .error("Requests to publish failed: broker away"),
        ),
        help: "Requests to publish that were answered with 503 because the broker did not take them.",
        watch: "Any increase: Redis is unreachable or refuses the command. Publishers try again.",
    },
    Metric {
        name: "decode_events",
        values: Values::FoundCounters(
            "route",
            Reading::new("decode", "decoded", |status| status.decode.decoded.get()),
            |scrape| scrape.status.decode.by_route().into_iter().map(|(route, n)| (route.to_string(), n)).collect(),
        ),
        help: "Events decoded.",
        watch: "A route at zero: nothing is published on its channels.",
    },
    Metric {
        name: "decode_rejected",
        values: Values::Counter(
            Reading::new("decode", "rejected", |status| status.decode.rejected.get()).error("Events rejected: invalid"),
        ),
        help: "Events that match no route or are invalid.",
        watch: "Any increase: a publisher sends events that are not UTF-8, are too large, or have no valid namespace. \
                The log names the channel, at a limited rate.",
    },
    Metric {
        name: "tally_keys",
        values: Values::Counter(Reading::new("tally", "counted", |status| status.tally.counted.get())),
        help: "Keys counted.",
        watch: "Grows with the events of routes with `tally=`.",
    },
    Metric {
        name: "tally_sent",
        values: Values::Counter(Reading::new("tally", "sent", |status| status.tally.sent.get())),
        help: "The sum of all counts in the tallies sent.",
        watch: "Stays behind `tallycast_tally_keys_total` for more than a `--tally-period`: the hub is the bottleneck.",
    },
    Metric {
        name: "tally_flushes",
        values: Values::Counter(Reading::new("tally", "flushes", |status| status.tally.flushes.get())),
        help: "Tallies sent.",
        watch: "At most one per `--tally-period` and namespace.",
    },
    Metric {
        name: "tally_flush_keys",
        values: Values::Histogram(None, |status| &status.tally.flush_keys),
        help: "Distinct keys in a tally.",
        watch: "Close to `--tally-keys`: counting waits for flushes. Raise `--tally-keys`.",
    },
    Metric {
        name: "inbox_depth",
        values: Values::States("stage", |scrape| inboxes(scrape, |depth| depth.len)),
        help: "Items waiting in the inbox of a stage.",
        watch: "Above zero for long: this stage is the bottleneck. Close to the capacity: \
                `tallycast_source_overflowed_total` is about to grow.",
    },
    Metric {
        name: "inbox_capacity",
        values: Values::State(|scrape| largest(scrape, |depth| depth.capacity)),
        help: "Capacity of each inbox.",
        watch: "Constant: `--inbox`.",
    },
    Metric {
        name: "inbox_bytes",
        values: Values::States("stage", |scrape| inboxes(scrape, |depth| depth.bytes)),
        help: "Bytes of the items that wait in the inbox of a stage, or that it is processing.",
        watch: "As `tallycast_inbox_depth`, for large payloads.",
    },
    Metric {
        name: "inbox_capacity_bytes",
        values: Values::State(|scrape| largest(scrape, |depth| depth.capacity_bytes)),
        help: "Capacity of each inbox in bytes.",
        watch: "Constant: `--inbox-bytes`.",
    },
];

const TOKENS: &[Metric] = &[
    Metric {
        name: "tokens",
        values: Values::Counters(
            "outcome",
            &[
                ("accepted", Reading::new("auth", "accepted", |status| status.auth.accepted.get())),
                ("expired", Reading::new("auth", "expired", |status| status.auth.expired.get())),
                ("wrong_key", Reading::new("auth", "wrong_key", |status| status.auth.wrong_key.get())),
                ("invalid", Reading::new("auth", "invalid", |status| status.auth.invalid.get())),
                ("unavailable", Reading::new("auth", "unavailable", |status| status.auth.unavailable.get())),
            ],
        ),
        help: "Tokens verified.",
        watch: "`expired` grows faster than clients come: their clocks or those of the issuer are wrong. `wrong_key`: a key was \
                rotated here and not at the issuer, or someone tries keys. `unavailable`: no key of the issuer could be fetched.",
    },
    Metric {
        name: "tickets",
        values: Values::Counters(
            "outcome",
            &[
                ("made", Reading::new("auth", "tickets", |status| status.auth.tickets.get())),
                ("refused", Reading::new("auth", "refused_tickets", |status| status.auth.refused_tickets.get())),
            ],
        ),
        help: "Tickets made by `POST /tickets`, and those refused because they were unknown, used or too old.",
        watch: "`refused`: a client uses a ticket twice, such as an EventSource that reconnects with the same URL.",
    },
    Metric {
        name: "jwks_fetches",
        values: Values::Counters(
            "outcome",
            &[
                ("fetched", Reading::new("auth", "jwks_fetched", |status| status.auth.jwks_fetched.get())),
                (
                    "failed",
                    Reading::new("auth", "jwks_failed", |status| status.auth.jwks_failed.get())
                        .error("Attempts to fetch a JWK set failed"),
                ),
            ],
        ),
        help: "Attempts to fetch the sets of `--token-jwks`.",
        watch: "`failed`: the issuer is away; the keys fetched before stay in use. The log has the reason, once for each outage.",
    },
];

const CONNECT_HOOK: &[Metric] = &[
    Metric {
        name: "connect_hook_asked",
        values: Values::Counter(Reading::new("connect_hook", "asked", |status| status.connect_hook.asked.get())),
        help: "Clients that the endpoint of `--connect-url` was asked about, each once; zero without one.",
        watch: "The rate at which clients open session streams.",
    },
    Metric {
        name: "connect_hook_refused",
        values: Values::Counter(Reading::new("connect_hook", "refused", |status| status.connect_hook.refused.get())),
        help: "Clients that the endpoint refused, or whose requests are too large to ask about.",
        watch: "A sudden increase: the application no longer knows its clients, or someone tries credentials.",
    },
    Metric {
        name: "connect_hook_failed",
        values: Values::Counter(
            Reading::new("connect_hook", "failed", |status| status.connect_hook.failed.get())
                .error("Connect hook: no valid answer"),
        ),
        help: "Clients about whom the endpoint gave no valid answer in time.",
        watch: "Any increase: the application is down, too slow for `--connect-timeout`, or answers with something else. The log \
                has the reason. `--connect-when-down` says what happens to these clients.",
    },
    Metric {
        name: "connect_hook_seconds",
        values: Values::Histogram(Some(Unit::Seconds), |status| &status.connect_hook.seconds),
        help: "Time from a question to its answer or failure, with repetitions and the wait for its turn.",
        watch: "Part of the time that clients need to connect. Close to `--connect-timeout`: the application cannot keep up.",
    },
];

const DELIVERY: &[Metric] = &[
    Metric {
        name: "hub_messages",
        values: Values::Counter(Reading::new("hub", "broadcast", |status| status.handle.stats().broadcast.get())),
        help: "Messages that reached the hub.",
        watch: "One for each event and for each tally.",
    },
    Metric {
        name: "hub_corrections",
        values: Values::Counter(
            Reading::new("hub", "corrections", |status| status.handle.stats().corrections.get())
                .error("Total corrections"),
        ),
        help: "Corrections sent because the totals differed from the tallies sent.",
        watch: "Expected after a gap. Without a gap: another process changes the sorted set, or the feeder does not count \
                and publish in one transaction (see [the API](api.md#totals)).",
    },
    Metric {
        name: "hub_without_totals",
        values: Values::Counter(
            Reading::new("hub", "without_totals", |status| status.handle.stats().without_totals.get())
                .error("Snapshots refused: totals unknown"),
        ),
        help: "Readers refused because the totals are unknown.",
        watch: "The sorted set is larger than `--max-totals` or `--max-totals-bytes`, or cannot be read: see \
                `tallycast_source_readings_total`.",
    },
    Metric {
        name: "hub_feeds",
        values: Values::Gauge(Reading::new("hub", "feeds", |status| status.handle.stats().feeds.get())),
        help: "Feeds with readers. A feed with readers in several shards counts in each of them.",
        watch: "Memory grows with the logs of the feeds.",
    },
    Metric {
        name: "delivered_messages",
        values: Values::Counter(Reading::new("hub", "delivered", |status| status.handle.stats().delivered.get())),
        help: "Messages written to connections.",
        watch: "The outgoing rate of messages.",
    },
    Metric {
        name: "delivered_bytes",
        values: Values::Counter(Reading::new("hub", "bytes", |status| status.handle.stats().bytes.get())),
        help: "Bytes written to connections.",
        watch: "The outgoing bandwidth, before TLS.",
    },
    Metric {
        name: "lag_seconds",
        values: Values::Histogram(Some(Unit::Seconds), |status| &status.handle.stats().lag),
        help: "Time from the receipt of a message until it is written to the readers of a feed.",
        watch: "A tally waits up to its period, 17 ms. More than 100 ms at the 99th percentile: too little CPU; see \
                `tallycast_inbox_depth`.",
    },
    Metric {
        name: "connections",
        values: Values::FoundGauges(
            "transport",
            Reading::new("hub", "connections", |status| status.handle.stats().connections.get()),
            readers_by_transport,
        ),
        help: "Open streams.",
        watch: "`sse+chunked`: HTTP/1.1; `sse`: HTTP/1.0, HTTP/2; with `+gzip` or `+zstd`: compressed; \
                `websocket`, `websocket+raw`. A sudden drop: a proxy restarted, or a deploy.",
    },
    Metric {
        name: "connections_opened",
        values: Values::Counter(Reading::new("hub", "connected", |status| status.handle.stats().connected.get())),
        help: "Streams opened.",
        watch: "Grows much faster than `tallycast_connections`: clients reconnect. Often a proxy closes idle responses; \
                its read timeout must be longer than `--keep-alive`.",
    },
    Metric {
        name: "slow_readers",
        values: Values::Counters(
            "policy",
            &[
                (
                    "disconnect",
                    Reading::new("hub", "slow_disconnected", |status| status.handle.stats().slow_disconnected.get())
                        .error("Slow readers: disconnected"),
                ),
                (
                    "skip",
                    Reading::new("hub", "slow_skipped", |status| status.handle.stats().slow_skipped.get())
                        .error("Slow readers: skips"),
                ),
                (
                    "merge",
                    Reading::new("hub", "slow_merged", |status| status.handle.stats().slow_merged.get())
                        .error("Slow readers: merges"),
                ),
                (
                    "latest",
                    Reading::new("hub", "slow_latest", |status| status.handle.stats().slow_latest.get())
                        .error("Slow readers: continued with the newest messages"),
                ),
                ("history", Reading::new("hub", "slow_replayed", |status| status.handle.stats().slow_replayed.get())),
                (
                    "memory",
                    Reading::new("hub", "shed", |status| status.handle.stats().shed.get())
                        .error("Slow readers: disconnected to free memory"),
                ),
                (
                    "stall",
                    Reading::new("hub", "stalled", |status| status.handle.stats().stalled.get())
                        .error("Stalled readers: disconnected"),
                ),
                (
                    "pong",
                    Reading::new("hub", "unanswered", |status| status.handle.stats().unanswered.get())
                        .error("Unanswered pings"),
                ),
            ],
        ),
        help: "Readers that fell behind their log, by the action taken; history: continued with messages from \
               the history, which loses nothing; memory: disconnected because too \
               much waited for all readers together; stall: no progress for too long; pong: a ping \
               unanswered for too long.",
        watch: "`disconnect`, `stall`: slow networks, or logs that are too small (`--log-batches`, `--log-bytes`). \
                `merge` loses nothing. `memory`: \
                `--total-log-bytes` is reached. `skip` and `latest` send the reader the number of skipped messages. `pong`: a WebSocket client \
                did not answer a ping within `--pong-limit`; usually its network is gone.",
    },
    Metric {
        name: "conflated_messages",
        values: Values::Counter(Reading::new("hub", "conflated", |status| status.handle.stats().conflated.get())),
        help: "Messages that streams with `max-rate` were not sent because newer ones of the same namespace came \
               before they were due.",
        watch: "Nothing: their clients asked for it.",
    },
    Metric {
        name: "resumed_streams",
        values: Values::Counters(
            "outcome",
            &[
                ("complete", Reading::new("hub", "resumed", |status| status.handle.stats().resumed.get())),
                (
                    "reset",
                    Reading::new("hub", "resets", |status| status.handle.stats().resets.get())
                        .error("Streams reset: messages lost"),
                ),
            ],
        ),
        help: "Streams that continued where an earlier one ended or that started in the past; reset: what followed their \
               position was not available, as their clients were sent.",
        watch: "`reset`: `history=` of the route is shorter than clients are away, or their positions are of another process: \
                routes for channels have positions of one process only.",
    },
    Metric {
        name: "replayed_messages",
        values: Values::Counter(Reading::new("hub", "replayed", |status| status.handle.stats().replayed.get())),
        help: "Messages found in the history for streams that start in the past or fell behind. Streams at the same place share them.",
        watch: "Peaks after deploys and network failures.",
    },
    Metric {
        name: "history_messages",
        values: Values::Gauge(Reading::new("hub", "history_messages", |status| {
            status.handle.stats().history_messages.get()
        })),
        help: "Messages that are kept by `history=`.",
        watch: "Nothing by itself.",
    },
    Metric {
        name: "history_bytes",
        values: Values::Gauge(Reading::new("hub", "history_bytes", |status| status.handle.stats().history_bytes.get())),
        help: "Memory of the messages that are kept by `history=`.",
        watch: "Close to `--history-bytes`: less is kept than the routes ask for.",
    },
    Metric {
        name: "repeated_entries",
        values: Values::Counter(Reading::new("hub", "repeated", |status| status.handle.stats().repeated.get())),
        help: "Entries of streams that came again and were dropped.",
        watch: "Nothing: the source reads a stream again after a failure.",
    },
    Metric {
        name: "expired_grants",
        values: Values::Counter(
            Reading::new("hub", "expired", |status| status.handle.stats().expired.get()).error("Expired grants"),
        ),
        help: "Streams ended because the grant of their client had expired.",
        watch: "Clients that do not renew their authorization in time.",
    },
    Metric {
        name: "http_accepted",
        values: Values::Counter(Reading::new("http", "accepted", |status| status.server.accepted.get())),
        help: "Connections accepted.",
        watch: "The rate of new connections.",
    },
    Metric {
        name: "http_refused",
        values: Values::Counters(
            "limit",
            &[
                (
                    "connections",
                    Reading::new("http", "refused", |status| status.server.refused.get())
                        .error("Refused: total connections"),
                ),
                (
                    "address",
                    Reading::new("http", "refused_address", |status| status.server.refused_address.get())
                        .error("Refused: connections per address"),
                ),
                (
                    "rate",
                    Reading::new("http", "refused_rate", |status| status.server.refused_rate.get())
                        .error("Refused: connection rate"),
                ),
                (
                    "namespace",
                    Reading::new("http", "refused_namespace", |status| status.server.refused_namespace.get())
                        .error("Refused: streams per namespace"),
                ),
                (
                    "topics_address",
                    Reading::new("http", "refused_topics_address", |status| status.server.refused_topics_address.get())
                        .error("Refused: topics per address"),
                ),
                (
                    "topics",
                    Reading::new("http", "refused_topics", |status| status.server.refused_topics.get())
                        .error("Refused: topics of all streams"),
                ),
                (
                    "origin",
                    Reading::new("websocket", "refused_origin", |status| status.server.refused_origin.get())
                        .error("Refused: origin"),
                ),
                (
                    "authorization",
                    Reading::new("http", "denied", |status| status.server.denied.get()).error("Refused: authorization"),
                ),
            ],
        ),
        help: "Connections and streams refused, by limit.",
        watch: "`connections`: `--max-connections` is reached; `/healthz`, `/readyz` and the admin routes still answer. \
                `address`, `rate`: one client has too many connections or opens them too fast; if the client is a proxy, add \
                `--trusted-proxy`. `namespace`: `--namespace-limit`. `topics_address`, `topics`: \
                `--max-topic-bytes-per-address`, `--max-topic-bytes`. \
                `origin`: a page whose origin is not in `--allowed-origin` tried to open a WebSocket. `authorization`: the \
                authorizer of an embedding program denied a stream or a change of topics.",
    },
    Metric {
        name: "http_rate_unknown",
        values: Values::Counter(Reading::new("http", "rate_unknown", |status| status.server.rate_unknown.get())),
        help: "Connections accepted without a rate check because too many addresses connected.",
        watch: "More than 100,000 addresses connected within a second: a distributed attack.",
    },
    Metric {
        name: "http_accept_errors",
        values: Values::Counter(
            Reading::new("http", "accept_errors", |status| status.server.accept_errors.get()).error("Failed accepts"),
        ),
        help: "Failed attempts to accept a connection.",
        watch: "The limit of open files is reached: raise it (`ulimit -n`, `LimitNOFILE=`).",
    },
    Metric {
        name: "http_head_timeouts",
        values: Values::Counter(
            Reading::new("http", "head_timeouts", |status| status.server.head_timeouts.get())
                .error("Request header timeouts"),
        ),
        help: "Requests whose headers did not arrive in time.",
        watch: "Browsers that preconnect add to it. A burst: slow or hostile clients.",
    },
    Metric {
        name: "http_stalled",
        values: Values::Counter(
            Reading::new("http", "stalled", |status| status.server.stalled.get()).error("Stalled clients"),
        ),
        help: "Connections and HTTP/2 streams reset because their client took no data for `--stall-limit`; for event streams \
               on plain HTTP/1 see `tallycast_slow_readers_total`.",
        watch: "Slow networks. A burst: clients that request pages and do not read them.",
    },
    Metric {
        name: "http_tls_failures",
        values: Values::Counter(
            Reading::new("http", "tls_failures", |status| status.server.tls_failures.get())
                .error("TLS handshake failures"),
        ),
        help: "Failed TLS handshakes.",
        watch: "Scanners, clients that trust another authority, or an expired certificate.",
    },
    Metric {
        name: "websocket_opened",
        values: Values::Counter(Reading::new("websocket", "opened", |status| status.server.websocket.opened.get())),
        help: "WebSockets opened.",
        watch: "The rate of new WebSockets.",
    },
    Metric {
        name: "websocket_refused",
        values: Values::Counters(
            "reason",
            &[
                (
                    "message",
                    Reading::new("websocket", "refused_messages", |status| status.server.websocket.refused.get())
                        .error("Client messages refused: invalid"),
                ),
                (
                    "rate",
                    Reading::new("websocket", "over_rate", |status| status.server.websocket.over_rate.get())
                        .error("Client messages refused: rate"),
                ),
                (
                    "protocol",
                    Reading::new("websocket", "failed", |status| status.server.websocket.failed.get())
                        .error("Client messages refused: protocol"),
                ),
            ],
        ),
        help: "Client messages refused, by reason; rate and protocol end the connection.",
        watch: "`message`: not a valid command; the client gets an error. `rate`: more than `--message-rate`. \
                `protocol`: a violation of RFC 6455, or a message larger than `--max-message-bytes` or in too many frames.",
    },
];

const SESSIONS: &[Metric] = &[
    Metric {
        name: "session_connections",
        values: Values::Gauge(Reading::new("sessions", "connections", |status| status.sessions.connections.get())),
        help: "Open connections of sessions; zero without `--sessions`.",
        watch: "At most `tallycast_connections`.",
    },
    Metric {
        name: "session_refused",
        values: Values::Counter(Reading::new("sessions", "refused", |status| status.sessions.refused.get())),
        help: "Connections that their session did not take: its policy, a limit, or Redis was away.",
        watch: "Grows together with `tallycast_session_failures_total`: Redis is away.",
    },
    Metric {
        name: "session_changes",
        values: Values::Counter(Reading::new("sessions", "applied", |status| status.sessions.applied.get())),
        help: "Changes of topics and rights of connections by their sessions.",
        watch: "The rate at which backends and clients change sessions.",
    },
    Metric {
        name: "session_messages",
        values: Values::Counter(Reading::new("sessions", "sent", |status| status.sessions.sent.get())),
        help: "Messages for single sessions that were sent, one for each connection.",
        watch: "The rate at which backends send to single sessions.",
    },
    Metric {
        name: "session_messages_dropped",
        values: Values::Counter(
            Reading::new("sessions", "dropped", |status| status.sessions.dropped.get())
                .error("Messages to sessions dropped"),
        ),
        help: "Messages for single sessions that were lost: more than 256 waited, or the reader was too far behind.",
        watch: "Any increase: backends send to single sessions faster than their clients read.",
    },
    Metric {
        name: "session_received",
        values: Values::Counter(Reading::new("sessions", "received", |status| status.sessions.received.get())),
        help: "Messages of clients that were published for the backend.",
        watch: "The rate at which clients send.",
    },
    Metric {
        name: "session_commands",
        values: Values::Counter(Reading::new("sessions", "commands", |status| status.sessions.commands.get())),
        help: "Commands of backends through the broker. One node at a time takes them.",
        watch: "Zero on all nodes while `LLEN tallycast:sessions:commands` grows: no node can take them; the log has the reason.",
    },
    Metric {
        name: "session_failures",
        values: Values::Counter(
            Reading::new("sessions", "failures", |status| status.sessions.failures.get())
                .error("Sessions not shared: broker away"),
        ),
        help: "Attempts to share sessions through Redis that failed.",
        watch: "Grows for longer than 15 s: the other nodes take this one for dead. Redis is unreachable, or its user lacks \
                [permissions](sessions.md#redis). The log has the reason, once for each outage.",
    },
    Metric {
        name: "session_inherited",
        values: Values::Counter(Reading::new("sessions", "inherited", |status| status.sessions.inherited.get())),
        help: "Dead nodes whose connections of sessions this one has ended.",
        watch: "A node was killed, or was cut off from Redis for more than 15 s.",
    },
];

const WS_HUB: &[Metric] = &[
    Metric {
        name: "ws_hub_closed",
        values: Values::Counters(
            "reason",
            &[
                (
                    "unanswered",
                    Reading::new("ws_hub", "unanswered", |status| status.ws_hub.unanswered.get())
                        .error("ws-hub clients closed: no listener answered"),
                ),
                ("refused", Reading::new("ws_hub", "refused", |status| status.ws_hub.refused.get())),
            ],
        ),
        help: "Clients of ws-hub that were closed: they were in no group in time, or a listener refused them.",
        watch: "`unanswered`: no listener is subscribed to `ws-hub:client-new`, or it takes longer than `--ws-hub-timeout`.",
    },
    Metric {
        name: "ws_hub_rejected",
        values: Values::Counter(
            Reading::new("ws_hub", "rejected", |status| status.ws_hub.rejected.get())
                .error("Groups of ws-hub clients rejected"),
        ),
        help: "Messages `ws-hub:groups-new` that were not followed: an invalid group, too many groups, or Redis was away.",
        watch: "Any increase: clients lack groups. The log has the reason. `--max-topics` bounds the groups of a client.",
    },
    Metric {
        name: "ws_hub_messages_lost",
        values: Values::Counter(
            Reading::new("ws_hub", "lost", |status| status.ws_hub.lost.get()).error("Messages of ws-hub clients lost"),
        ),
        help: "Messages of ws-hub clients that Redis did not take. Those that it took are in `tallycast_session_received_total`, too.",
        watch: "Grows while Redis is away.",
    },
    Metric {
        name: "ws_hub_failures",
        values: Values::Counter(
            Reading::new("ws_hub", "failures", |status| status.ws_hub.failures.get())
                .error("ws-hub groups not received: broker away"),
        ),
        help: "Subscriptions to `ws-hub:groups-new` that ended or failed. Clients without groups are announced again after each.",
        watch: "Grows while Redis is away. The log has the reason, once for each outage.",
    },
];

const SUBSCRIPTIONS: &[Metric] = &[
    Metric {
        name: "subscriptions",
        values: Values::Gauge(Reading::new("subscriptions", "open", |status| status.presence.subscriptions.get())),
        help: "Subscriptions of open streams, one for each topic; zero without `--subscriptions`.",
        watch: "Follows `tallycast_connections`.",
    },
    Metric {
        name: "subscriptions_overflow",
        values: Values::Gauge(
            Reading::new("subscriptions", "overflow", |status| status.presence.overflow.get())
                .error("Subscriptions unknown: too many topics"),
        ),
        help: "Subscriptions that are not known because the node has too many topics.",
        watch: "Above zero: `GET /subscriptions` lacks these. See [limits](limits.md#subscriptions).",
    },
    Metric {
        name: "subscriptions_events",
        values: Values::Counter(Reading::new("subscriptions", "events", |status| status.presence.events.get())),
        help: "Connect, disconnect and count events sent.",
        watch: "The rate at which clients come and go.",
    },
    Metric {
        name: "subscriptions_silenced",
        values: Values::Counter(Reading::new("subscriptions", "silenced", |status| status.presence.silenced.get())),
        help: "Listed subscriptions without events of their own because their topics have too many, or too many in a second.",
        watch: "Expected for popular topics, whose events are counts.",
    },
    Metric {
        name: "subscriptions_failures",
        values: Values::Counter(
            Reading::new("subscriptions", "failures", |status| status.presence.failures.get())
                .error("Subscriptions not shared: broker away"),
        ),
        help: "Attempts to share subscriptions through Redis that failed.",
        watch: "Grows for longer than 15 s: the other nodes take this one for dead. Redis is unreachable, or its user lacks \
                [permissions](api.md#subscriptions). The log has the reason, once for each outage.",
    },
    Metric {
        name: "subscriptions_inherited",
        values: Values::Counter(Reading::new("subscriptions", "inherited", |status| status.presence.inherited.get())),
        help: "Dead nodes whose subscriptions this one has ended.",
        watch: "A node was killed, or was cut off from Redis for more than 15 s.",
    },
];

const CLUSTER: &[Metric] = &[
    Metric {
        name: "cluster_nodes",
        values: Values::Gauge(Reading::new("cluster", "nodes", |status| status.cluster.nodes.get())),
        help: "Nodes that have announced themselves at the same broker within 15 s, this one included; zero without \
               `--cluster`.",
        watch: "Fewer than you run: a node was killed, cannot reach the broker, or lacks `--cluster`. Nodes that disagree: see \
                `tallycast_cluster_failures_total`.",
    },
    Metric {
        name: "cluster_failures",
        values: Values::Counter(
            Reading::new("cluster", "failures", |status| status.cluster.failures.get())
                .error("Node not announced: broker away"),
        ),
        help: "Attempts to announce this node and to read the others that failed.",
        watch: "Grows for longer than 15 s: the other nodes no longer show this one, and what it shows of them is stale. Redis is \
                unreachable, or its user lacks [permissions](api.md#clusterjson). The log has the reason, once for each outage.",
    },
    Metric {
        name: "cluster_skipped_records",
        values: Values::Counter(
            Reading::new("cluster", "skipped", |status| status.cluster.skipped.get())
                .error("Records of nodes skipped: invalid"),
        ),
        help: "Records of nodes that were left out because they are not valid.",
        watch: "Any increase: something other than tallycast, or an incompatible version of it, writes to \
                `{tallycast:cluster}:records`. A record counts again at each reading.",
    },
];

const PROCESS: &[Metric] = &[
    Metric {
        name: "alarm",
        values: Values::States("id", |scrape| scrape.status.alarms.gauges()),
        help: "Whether an [alarm](#alarms) is raised: 1 or 0.",
        watch: "1: the action of the alarm.",
    },
    Metric {
        name: "admin_actions",
        values: Values::Counters(
            "action",
            &[
                ("publish", Reading::new("admin", "published", |status| status.actions.published.get())),
                ("disconnect", Reading::new("admin", "disconnected", |status| status.actions.disconnected.get())),
                ("refused", Reading::new("admin", "refused", |status| status.actions.refused.get())),
            ],
        ),
        help: "What operators did through the admin routes: messages published, connections ended, and requests for either that were \
               refused or failed.",
        watch: "The log has each action with the address of the client. Zero with `--admin-read-only`, but for `refused`.",
    },
    Metric {
        name: "build_info",
        values: Values::Info(|scrape| {
            vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("node", scrape.status.node.to_string())]
        }),
        help: "Version and node name, as labels; always 1.",
        watch: "Changes with a deploy.",
    },
    Metric {
        name: "start_time_seconds",
        values: Values::State(|scrape| Some(unix_seconds(scrape.status.started_at) as f64)),
        help: "Start time of the process, in seconds since the Unix epoch.",
        watch: "A restart: totals are read again, streams reconnect.",
    },
    Metric {
        name: "process_resident_memory_bytes",
        values: Values::State(|scrape| scrape.usage.memory_bytes.map(|bytes| bytes as f64)),
        help: "Resident memory.",
        watch: "About 1 KB for each idle connection, plus what waits for slow readers, which `--total-log-bytes` limits.",
    },
    Metric {
        name: "process_cpu_seconds",
        values: Values::StateTime(|scrape| scrape.usage.cpu_seconds),
        help: "CPU time, user and system.",
        watch: "A rate close to the number of cores: see `tallycast_lag_seconds`.",
    },
    Metric {
        name: "process_open_fds",
        values: Values::State(|scrape| scrape.usage.open_files.map(|files| files as f64)),
        help: "Open file descriptors.",
        watch: "Close to `tallycast_process_max_fds`: raise the limit.",
    },
    Metric {
        name: "process_max_fds",
        values: Values::State(|scrape| scrape.usage.max_files.map(|files| files as f64)),
        help: "Limit of open file descriptors.",
        watch: "Constant.",
    },
];

/// One number of the depth of each inbox.
fn inboxes(scrape: &Scrape, number: fn(&Depth) -> usize) -> Vec<(&'static str, f64)> {
    let depths = scrape.status.inboxes.depths(&scrape.status.handle);
    depths.iter().map(|(stage, depth)| (*stage, number(depth) as f64)).collect()
}

/// The largest of these numbers: a stage that has ended has none.
fn largest(scrape: &Scrape, number: fn(&Depth) -> usize) -> Option<f64> {
    inboxes(scrape, number).into_iter().map(|(_, number)| number).reduce(f64::max)
}

/// Open streams by transport: the framings of all feeds, and the two most common ones from the start.
fn readers_by_transport(scrape: &Scrape) -> Vec<(String, u64)> {
    let mut readers = BTreeMap::from([("sse", 0), ("sse+chunked", 0)]);
    for feed in &scrape.feeds {
        *readers.entry(feed.framing).or_default() += feed.readers as u64;
    }
    readers.into_iter().map(|(transport, readers)| (transport.to_owned(), readers)).collect()
}

const TRACES: &[Metric] = &[
    Metric {
        name: "stage_seconds",
        values: Values::Histograms("stage", |status| {
            STAGES.iter().map(|stage| (stage.name(), status.trace.stage(*stage))).collect()
        }),
        help: "Time that sampled events spend in each stage (`--trace-sample`).",
        watch: "The stage that grows is the one that makes messages late: see [Trace latency](how-to/trace-latency.md). `tally` is as \
                long as `--tally-period` by design. `broker` compares the clocks of two machines.",
    },
    Metric {
        name: "traces_sampled",
        values: Values::Counter(Reading::new("trace", "sampled", |status| status.trace.sampled.get())),
        help: "Events that were traced.",
        watch: "One in `--trace-sample` events, at most 100 per second.",
    },
    Metric {
        name: "traces_exported",
        values: Values::Counter(Reading::new("trace", "exported", |status| status.trace.exported.get())),
        help: "Traces that the collector of `--otlp-endpoint` has taken.",
        watch: "As many as were sampled; zero without a collector.",
    },
    Metric {
        name: "traces_dropped",
        values: Values::Counter(
            Reading::new("trace", "dropped", |status| status.trace.dropped.get()).error("Traces lost on export"),
        ),
        help: "Traces that were lost: the collector did not take them, or too many waited.",
        watch: "Any increase: the collector is away or refuses them. The log has the reason. Events are not affected.",
    },
];
