//! What an update costs when it reaches one of few readers, and one of many, by the kind of their topics: `cargo bench --bench topics`.
//!
//! The cost is to depend on the feeds that an update reaches, not on the number of other names and templates. Prints the time for each
//! update with few feeds and with many, and the ratio; best of several rounds, because other programs run too.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and ends with a panic")]

#[path = "support/delivery.rs"]
mod delivery;
mod support;

use std::sync::Arc;
use std::time::Duration;

use tallycast_fanout::{Grant, Message, Namespace, Topic, Topics, Update};

const FEW: usize = 10;
const ROUNDS: usize = 3;

/// Readers of one kind, and an update that reaches one of them.
struct Case {
    name: &'static str,
    many: usize,
    /// The selector of a reader with this name.
    topic: fn(&str) -> String,
    /// Of which topics the reader with this name gets private updates.
    private: Option<fn(&str) -> String>,
    /// The topics of the update for the reader with this name.
    sent: fn(&str) -> Vec<String>,
}

const CASES: [Case; 7] = [
    Case {
        name: "names",
        many: 100_000,
        topic: |name| format!("https://e/{name}"),
        private: None,
        sent: |name| vec![format!("https://e/{name}")],
    },
    Case {
        name: "names, with 3 alternates",
        many: 100_000,
        topic: |name| format!("https://e/{name}"),
        private: None,
        sent: |name| ["a", "b", "c", name].map(|name| format!("https://e/{name}")).to_vec(),
    },
    Case {
        name: "templates with other beginnings",
        many: 10_000,
        topic: |name| format!("https://e/{name}/{{id}}"),
        private: None,
        sent: |name| vec![format!("https://e/{name}/1")],
    },
    Case {
        name: "templates with the same beginning and other ends",
        many: 10_000,
        topic: |name| format!("https://e/{{id}}/{name}"),
        private: None,
        sent: |name| vec![format!("https://e/1/{name}")],
    },
    Case {
        name: "templates with the same beginning and end",
        many: 10_000,
        topic: |name| format!("https://e/{{id}}/{name}/{{part}}"),
        private: None,
        sent: |name| vec![format!("https://e/1/{name}/2")],
    },
    Case {
        name: "private, granted by name",
        many: 100_000,
        topic: |name| format!("https://e/{name}"),
        private: Some(|name| format!("user:{name}")),
        sent: |name| vec![format!("https://e/{name}"), format!("user:{name}")],
    },
    Case {
        name: "private, all granted everything",
        many: 100_000,
        topic: |name| format!("https://e/{name}"),
        private: Some(|_| "*".to_owned()),
        sent: |name| vec![format!("https://e/{name}")],
    },
];

fn topics(selector: &str) -> Topics {
    Topics::new(vec![Topic::selector(selector).unwrap()]).unwrap()
}

impl Case {
    /// The time of an update that reaches one of `feeds`.
    async fn measure(&self, feeds: usize) -> Duration {
        let reader = |name: &str| {
            let private = self.private.map(|private| Grant::default().with_private(topics(&private(name))));
            (topics(&(self.topic)(name)), private.map(Arc::new))
        };
        let mut sent = (self.sent)("read").into_iter().map(|text| Namespace::from_topic(&text).unwrap());
        let mut message = Message::text(sent.next().unwrap(), "x");
        let is_private = self.private.is_some();
        message.update = Some(Box::new(Update { alternates: sent.collect(), is_private, ..Update::default() }));
        delivery::measure((1..feeds).map(|number| reader(&number.to_string())), reader("read"), message).await
    }
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for case in CASES {
        let mut best = [Duration::MAX; 2];
        for _ in 0..ROUNDS {
            for (time, feeds) in best.iter_mut().zip([FEW, case.many]) {
                *time = (*time).min(runtime.block_on(case.measure(feeds)));
            }
        }
        let [few, many] = best.map(|time| time.as_secs_f64() * 1e6);
        let Case { name, many: count, .. } = case;
        println!("{name}: {few:.2} us with {FEW} feeds, {many:.2} us with {count}, ratio {:.2}", many / few);
    }
}
