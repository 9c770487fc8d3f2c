//! Alarms: rules about counters and states, evaluated once per second. The admin page, `/metrics` and `docs/operations.md` follow
//! from the same table.

mod nodes;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::process::Usage;
use super::status::StatusSource;
use crate::cluster::ClusterView;

pub(super) use nodes::Nodes;
pub(super) use rules::RULES;

/// The window in which counters are compared.
pub(super) const WINDOW: Duration = Duration::from_secs(300);
/// The evaluations between two samples of a counter, a second each. A window starts at one of these.
const STEP: usize = 10;
/// The samples of a rule.
const MAX_SAMPLES: usize = WINDOW.as_secs() as usize / STEP + 1;
/// Evaluations after which an alarm about a state ends, once the state is over.
const CALM: usize = 5;
/// The least number of which a share is an alarm.
pub(super) const MIN_PART: u64 = 10;
/// The window in words.
pub(super) const IN_WINDOW: &str = "in the last 5 min";

/// How urgent an alarm is. The most urgent is the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// Readers miss something now, or are refused.
    Critical,
    /// Something needs attention before it becomes critical.
    Warning,
}

/// What raises an alarm, and what to do about it.
#[derive(Debug)]
pub(super) struct Rule {
    /// Identifies it, as anchor in the docs as well.
    pub(super) id: &'static str,
    pub(super) severity: Severity,
    pub(super) title: &'static str,
    pub(super) condition: Condition,
    /// What to do, in one or two sentences.
    pub(super) action: &'static str,
}

/// When an alarm is raised, and for how long it stays.
#[derive(Debug)]
pub(super) enum Condition {
    /// A counter is higher by this number than at the start of the window.
    Grew(u64, &'static str, fn(&Look<'_>) -> u64),
    /// A counter, if it has to grow, has not done so within the window.
    Stands(&'static str, fn(&Look<'_>) -> Option<u64>),
    /// Of what was counted within the window, more than this percentage is in the first of two counters.
    Share(u64, &'static str, fn(&Look<'_>) -> (u64, u64)),
    /// A state, which the text describes, for this number of seconds.
    Holds(
        usize,
        #[cfg_attr(not(test), expect(dead_code, reason = "for the docs, which a test compares"))] &'static str,
        fn(&Look<'_>) -> Option<String>,
    ),
}

/// What rules look at.
#[derive(Debug)]
pub(super) struct Look<'a> {
    pub(super) status: &'a StatusSource,
    pub(super) usage: Usage,
    /// The limit of connections.
    pub(super) max_connections: usize,
    /// Whether snapshots of totals are due within the window.
    pub(super) has_totals: bool,
    pub(super) cluster: Option<&'a ClusterView>,
    /// The names of nodes that have vanished, if some have.
    pub(super) missing_nodes: Option<String>,
}

/// An alarm that is raised.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Alarm {
    id: &'static str,
    severity: Severity,
    title: &'static str,
    /// The numbers now.
    detail: String,
    action: &'static str,
    /// When it was raised, in seconds since the Unix epoch.
    since: f64,
    /// Its place in the docs.
    link: String,
}

/// The alarms that are raised now.
#[derive(Debug, Default)]
pub struct Alarms(Mutex<Vec<Alarm>>);

impl Alarms {
    fn lock(&self) -> MutexGuard<'_, Vec<Alarm>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The alarms, the most urgent first.
    pub(super) fn raised(&self) -> Vec<Alarm> {
        self.lock().clone()
    }

    /// Replaces the alarms.
    pub(super) fn set(&self, alarms: Vec<Alarm>) {
        *self.lock() = alarms;
    }

    /// 1 for each alarm that is raised, 0 for all others.
    pub(super) fn gauges(&self) -> Vec<(&'static str, f64)> {
        let raised = self.lock();
        let is_raised = |id| raised.iter().any(|alarm| alarm.id == id);
        RULES.iter().map(|rule| (rule.id, f64::from(u8::from(is_raised(rule.id))))).collect()
    }
}

/// Evaluates the rules.
#[derive(Debug)]
pub(super) struct Watcher {
    rules: &'static [Rule],
    memories: Vec<Memory>,
    evaluations: usize,
}

/// What is remembered for a rule.
#[derive(Debug, Default)]
struct Memory {
    /// The numbers within the window, one for each `STEP`.
    samples: VecDeque<(u64, u64)>,
    /// For how many evaluations the state has held.
    held: usize,
    /// For how many evaluations it has been over.
    calm: usize,
    raised: Option<Raised>,
}

#[derive(Debug)]
struct Raised {
    since: f64,
    detail: String,
}

impl Watcher {
    pub(super) fn new(rules: &'static [Rule]) -> Self {
        Self { rules, memories: rules.iter().map(|_| Memory::default()).collect(), evaluations: 0 }
    }

    /// Evaluates all rules at the time `now`, in seconds since the Unix epoch. Returns the alarms, the most urgent first.
    pub(super) fn evaluate(&mut self, look: &Look<'_>, now: f64) -> Vec<Alarm> {
        let is_step = self.evaluations.is_multiple_of(STEP);
        self.evaluations = self.evaluations.wrapping_add(1);
        let rules = self.rules.iter().zip(&mut self.memories);
        let alarms =
            rules.filter_map(|(rule, memory)| memory.evaluate(&rule.condition, look, is_step, now).alarm(rule));
        let mut alarms: Vec<Alarm> = alarms.collect();
        alarms.sort_by_key(|alarm| alarm.severity);
        alarms
    }
}

impl Memory {
    fn evaluate(&mut self, condition: &Condition, look: &Look<'_>, is_step: bool, now: f64) -> &Self {
        let detail = match condition {
            Condition::Holds(after, _, state) => return self.hold(*after, state(look), now),
            Condition::Grew(by, of, count) => {
                let count = count(look);
                let grown = count.saturating_sub(self.oldest((count, 0)).0);
                self.remember((count, 0), is_step);
                (grown >= *by).then(|| format!("{of} {IN_WINDOW}: {grown}"))
            }
            Condition::Stands(of, count) => {
                let Some(count) = count(look) else {
                    self.samples.clear();
                    return self.raise(None, now);
                };
                let is_known = self.samples.len() == MAX_SAMPLES;
                let oldest = self.oldest((count, 0)).0;
                self.remember((count, 0), is_step);
                (is_known && count == oldest).then(|| format!("{of} {IN_WINDOW}: 0"))
            }
            Condition::Share(percent, of, counts) => {
                let counts = counts(look);
                let oldest = self.oldest(counts);
                self.remember(counts, is_step);
                let [part, all] = [counts.0.saturating_sub(oldest.0), counts.1.saturating_sub(oldest.1)];
                (part >= MIN_PART && part * 100 > all * percent).then(|| format!("{of} {IN_WINDOW}: {part} of {all}"))
            }
        };
        self.raise(detail, now)
    }

    fn oldest(&self, now: (u64, u64)) -> (u64, u64) {
        self.samples.front().copied().unwrap_or(now)
    }

    fn remember(&mut self, sample: (u64, u64), is_step: bool) {
        if is_step {
            if self.samples.len() == MAX_SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back(sample);
        }
    }

    /// A state is on, as described, or off.
    fn hold(&mut self, after: usize, state: Option<String>, now: f64) -> &Self {
        let Some(detail) = state else {
            self.held = 0;
            self.calm += 1;
            return if self.calm >= CALM { self.raise(None, now) } else { self };
        };
        self.held += 1;
        self.calm = 0;
        if self.held >= after || self.raised.is_some() { self.raise(Some(detail), now) } else { self }
    }

    fn raise(&mut self, detail: Option<String>, now: f64) -> &Self {
        let since = self.raised.as_ref().map_or(now, |raised| raised.since);
        self.raised = detail.map(|detail| Raised { since, detail });
        self
    }

    fn alarm(&self, rule: &Rule) -> Option<Alarm> {
        let Raised { since, detail } = self.raised.as_ref()?;
        Some(Alarm {
            id: rule.id,
            severity: rule.severity,
            title: rule.title,
            detail: detail.clone(),
            action: rule.action,
            since: *since,
            link: format!("operations.md#{}", rule.id),
        })
    }
}
