//! Tests of the state machine with numbers that the tests set, and of the table.

use tallycast_fanout::{Fanout, inbox};
use tokio_util::sync::CancellationToken;

use super::super::status::StageInboxes;
use super::*;
use crate::cluster::{ClusterNode, NodeReport};
use crate::source::StateBoard;

/// Evaluates rules about the counter of published messages, once per second.
struct Clock {
    status: StatusSource,
    watcher: Watcher,
    now: f64,
}

fn number(look: &Look<'_>) -> u64 {
    look.status.publishing.published.get()
}

impl Clock {
    fn new(rules: &'static [Rule]) -> Self {
        let inboxes =
            StageInboxes { decode: inbox::channel(1, 1).0.downgrade(), tally: inbox::channel(1, 1).0.downgrade() };
        let handle = Fanout::builder().shards(1).build().handle();
        let status = StatusSource::new("node", StateBoard::default(), handle, inboxes, CancellationToken::new());
        Self { status, watcher: Watcher::new(rules), now: 0.0 }
    }

    /// The alarms after `seconds` with this number.
    fn after(&mut self, seconds: usize, number: u64) -> Vec<Alarm> {
        self.status.publishing.published.set(number);
        let mut alarms = Vec::new();
        for _ in 0..seconds {
            let usage = Usage::default();
            let look = Look {
                status: &self.status,
                usage,
                max_connections: 1,
                has_totals: false,
                cluster: None,
                missing_nodes: None,
            };
            alarms = self.watcher.evaluate(&look, self.now);
            self.now += 1.0;
        }
        alarms
    }
}

const fn rule(severity: Severity, condition: Condition) -> Rule {
    Rule { id: "id", severity, title: "title", condition, action: "action" }
}

#[tokio::test]
async fn growth_is_an_alarm_until_the_window_is_over() {
    static RULES: [Rule; 1] = [rule(Severity::Warning, Condition::Grew(2, "Events lost", number))];
    let mut clock = Clock::new(&RULES);
    assert_eq!(clock.after(20, 7), [], "what was counted before the first evaluation");
    assert_eq!(clock.after(1, 8), [], "less than the rule says");
    let raised = clock.after(1, 9).remove(0);
    assert_eq!((&*raised.detail, raised.since), ("Events lost in the last 5 min: 2", 21.0));
    let longer = clock.after(250, 12).remove(0);
    assert_eq!((&*longer.detail, longer.since), ("Events lost in the last 5 min: 5", 21.0));
    assert_eq!(clock.after(70, 12), []);
    let again = clock.after(1, 20).remove(0);
    assert_eq!((&*again.detail, again.since), ("Events lost in the last 5 min: 8", 342.0));
}

#[tokio::test]
async fn state_is_an_alarm_once_it_has_held_and_until_it_is_over_for_long() {
    static RULES: [Rule; 1] = [rule(
        Severity::Critical,
        Condition::Holds(3, "down", |look| (number(look) > 0).then(|| format!("down: {}", number(look)))),
    )];
    let mut clock = Clock::new(&RULES);
    assert_eq!(clock.after(2, 1), []);
    assert_eq!(clock.after(1, 0), [], "not for long enough");
    assert_eq!(clock.after(2, 1), []);
    assert_eq!(clock.after(1, 1)[0].since, 5.0);
    assert_eq!(clock.after(CALM - 1, 0)[0].detail, "down: 1", "it may come back");
    assert_eq!(clock.after(1, 2)[0].detail, "down: 2");
    assert_eq!(clock.after(CALM - 1, 0)[0].since, 5.0);
    assert_eq!(clock.after(1, 0), []);
}

#[tokio::test]
async fn missing_growth_is_an_alarm_after_a_whole_window() {
    static RULES: [Rule; 1] =
        [rule(Severity::Warning, Condition::Stands("Readings", |look| (number(look) > 0).then(|| number(look))))];
    let mut clock = Clock::new(&RULES);
    assert_eq!(clock.after(1000, 0), [], "it does not have to grow");
    assert_eq!(clock.after(300, 1), []);
    assert_eq!(clock.after(2, 1)[0].detail, "Readings in the last 5 min: 0");
    assert_eq!(clock.after(1, 2), []);
}

#[tokio::test]
async fn share_is_an_alarm_and_the_most_urgent_comes_first() {
    static RULES: [Rule; 2] = [
        rule(Severity::Warning, Condition::Grew(0, "Messages", number)),
        rule(Severity::Critical, Condition::Share(9, "Late", |look| (20 - number(look), 10 * (20 - number(look))))),
    ];
    let mut clock = Clock::new(&RULES);
    clock.after(1, 20);
    assert_eq!(clock.after(1, 19).len(), 1, "a share of too few is no alarm");
    let alarms = clock.after(1, 10);
    let details: Vec<&str> = alarms.iter().map(|alarm| &*alarm.detail).collect();
    assert_eq!(details, ["Late in the last 5 min: 10 of 100", "Messages in the last 5 min: 0"]);
}

#[tokio::test]
async fn ids_are_unique_and_gauges_are_those_of_all_rules() {
    let mut ids: Vec<&str> = RULES.iter().map(|rule| rule.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), RULES.len());
    let mut clock = Clock::new(RULES);
    let alarms = Alarms::default();
    alarms.set(clock.after(1, 0));
    assert!(alarms.gauges().iter().all(|(_, value)| *value == 0.0));
    alarms.set(vec![
        Memory { raised: Some(Raised { since: 1.0, detail: String::new() }), ..Memory::default() }
            .alarm(&RULES[0])
            .unwrap(),
    ]);
    assert_eq!(alarms.gauges().len(), RULES.len());
    assert_eq!(alarms.gauges()[0], ("source-down", 1.0));
}

#[test]
fn node_is_missing_unless_it_has_ended_by_itself_or_is_back() {
    let node = |name: &str, id: &str, reported_at: u64, draining: bool| {
        let (node, version, status) = (name.to_owned(), String::new(), "OK".to_owned());
        let report = NodeReport { node, version, status, draining, startup_time: 0, connections: 0, msgs_broadcast: 0 };
        ClusterNode { report, reported_at, id: id.to_owned() }
    };
    let mut nodes = Nodes::default();
    let all = [("ends", 95, false), ("drains", 88, true), ("dies", 88, false), ("returns", 88, false)];
    let all = || all.map(|(name, at, draining)| node(name, name, at, draining)).to_vec();
    assert_eq!(nodes.look(100, &all(), 4), None);
    assert_eq!(nodes.look(100, &[], 0).as_deref(), Some("dies, returns"));
    let back = [node("returns", "another process", 100, false)];
    let looks: Vec<_> = (0..WINDOW.as_secs()).map(|_| nodes.look(100, &back, 1)).collect();
    assert_eq!((looks[0].as_deref(), looks.last().unwrap()), (Some("dies"), &None));
    assert_eq!([nodes.look(100, &all(), 4), nodes.look(100, &[], 300)], [None, None], "a part of the nodes");
}
