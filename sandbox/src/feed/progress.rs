//! How the feeder tells what it does: a bar on a terminal, elsewhere a line now and then. Everything goes to standard error.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};

/// Between two lines where there is no terminal.
const REPORT_PERIOD: Duration = Duration::from_secs(10);

/// Writes lines, above the bar if there is one.
#[derive(Debug, Clone)]
pub(super) struct Lines(Option<ProgressBar>);

impl Lines {
    pub(super) fn say(&self, line: &str) {
        // Nobody is left to be told when standard error is closed.
        let write = || drop(writeln!(io::stderr(), "{line}"));
        match &self.0 {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// What has been done so far.
#[derive(Debug)]
pub(super) struct Progress {
    lines: Lines,
    published: u64,
    not_published: u64,
    started: Instant,
    reported: Instant,
    published_then: u64,
}

impl Progress {
    /// With a `goal`, a number of updates, the bar tells how much of it is done.
    pub(super) fn new(goal: Option<u64>) -> Result<Self> {
        let bar = io::stderr().is_terminal().then(|| bar(goal)).transpose()?;
        let now = Instant::now();
        Ok(Self { lines: Lines(bar), published: 0, not_published: 0, started: now, reported: now, published_then: 0 })
    }

    /// For lines that others write.
    pub(super) fn lines(&self) -> Lines {
        self.lines.clone()
    }

    /// The first update comes now.
    pub(super) fn start(&mut self, line: &str) {
        self.lines.say(line);
        (self.started, self.reported) = (Instant::now(), Instant::now());
        if let Some(bar) = &self.lines.0 {
            bar.reset();
        }
    }

    /// Counts `count` updates.
    pub(super) fn count(&mut self, count: u64, are_published: bool) {
        *if are_published { &mut self.published } else { &mut self.not_published } += count;
        match &self.lines.0 {
            Some(bar) => bar.set_position(self.published),
            None if self.reported.elapsed() >= REPORT_PERIOD => {
                let rate = rate(self.published - self.published_then, self.reported.elapsed());
                self.lines.say(&format!("{}, {rate}/s", self.totals()));
                (self.reported, self.published_then) = (Instant::now(), self.published);
            }
            None => {}
        }
    }

    /// The last line.
    pub(super) fn finish(self) {
        let elapsed = self.started.elapsed();
        if let Some(bar) = &self.lines.0 {
            bar.finish_and_clear();
        }
        let rate = rate(self.published, elapsed);
        self.lines.say(&format!("{} in {:.1} s, {rate}/s", self.totals(), elapsed.as_secs_f64()));
    }

    fn totals(&self) -> String {
        let missing = match self.not_published {
            0 => String::new(),
            count => format!(" ({} were not)", HumanCount(count)),
        };
        format!("{} updates published{missing}", HumanCount(self.published))
    }
}

fn bar(goal: Option<u64>) -> Result<ProgressBar> {
    let (bar, template) = match goal {
        Some(goal) => (ProgressBar::new(goal), "{bar:30} {human_pos}/{human_len} updates, {rate}/s, {eta} left"),
        None => (ProgressBar::no_length(), "{spinner} {human_pos} updates, {rate}/s, {elapsed}"),
    };
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // A bar that cannot be drawn is none of the feeder's business.
        let _ = write!(out, "{}", HumanCount(state.per_sec().round() as u64));
    };
    let style = ProgressStyle::with_template(template).context("cannot show progress")?;
    Ok(bar.with_style(style.with_key("rate", rate)))
}

/// Updates a second.
fn rate(updates: u64, elapsed: Duration) -> HumanCount {
    HumanCount((updates as f64 / elapsed.as_secs_f64().max(f64::EPSILON)).round() as u64)
}
