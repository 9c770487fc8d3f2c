//! Progress output on standard error: a progress bar on a terminal, periodic lines elsewhere.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};

/// The interval between lines without a terminal.
const REPORT_PERIOD: Duration = Duration::from_secs(10);

/// Prints lines on standard error, above the progress bar if there is one.
#[derive(Debug, Clone)]
pub(super) struct Console(Option<ProgressBar>);

impl Console {
    pub(super) fn print(&self, line: &str) {
        // A closed standard error is ignored.
        let write = || drop(writeln!(io::stderr(), "{line}"));
        match &self.0 {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// The counts of published and unpublished updates.
#[derive(Debug)]
pub(super) struct Progress {
    console: Console,
    published: u64,
    not_published: u64,
    started: Instant,
    last_report: Instant,
    published_at_last_report: u64,
}

impl Progress {
    /// With a `goal`, a number of updates, the bar shows the completed share.
    pub(super) fn new(goal: Option<u64>) -> Result<Self> {
        let bar = io::stderr().is_terminal().then(|| bar(goal)).transpose()?;
        let now = Instant::now();
        Ok(Self {
            console: Console(bar),
            published: 0,
            not_published: 0,
            started: now,
            last_report: now,
            published_at_last_report: 0,
        })
    }

    /// A handle for other output.
    pub(super) fn console(&self) -> Console {
        self.console.clone()
    }

    /// Prints `line` and starts the clock.
    pub(super) fn start(&mut self, line: &str) {
        self.console.print(line);
        (self.started, self.last_report) = (Instant::now(), Instant::now());
        if let Some(bar) = &self.console.0 {
            bar.reset();
        }
    }

    /// Counts `count` updates.
    pub(super) fn count(&mut self, count: u64, are_published: bool) {
        *if are_published { &mut self.published } else { &mut self.not_published } += count;
        match &self.console.0 {
            Some(bar) => bar.set_position(self.published),
            None if self.last_report.elapsed() >= REPORT_PERIOD => {
                let rate = rate(self.published - self.published_at_last_report, self.last_report.elapsed());
                self.console.print(&format!("{}, {rate}/s", self.totals()));
                (self.last_report, self.published_at_last_report) = (Instant::now(), self.published);
            }
            None => {}
        }
    }

    /// Prints the summary.
    pub(super) fn finish(self) {
        let elapsed = self.started.elapsed();
        if let Some(bar) = &self.console.0 {
            bar.finish_and_clear();
        }
        let rate = rate(self.published, elapsed);
        self.console.print(&format!("{} in {:.1} s, {rate}/s", self.totals(), elapsed.as_secs_f64()));
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
        // A bar that cannot be drawn does not stop the feeder.
        let _ = write!(out, "{}", HumanCount(state.per_sec().round() as u64));
    };
    let style = ProgressStyle::with_template(template).context("cannot show progress")?;
    Ok(bar.with_style(style.with_key("rate", rate)))
}

/// Updates per second.
fn rate(updates: u64, elapsed: Duration) -> HumanCount {
    HumanCount((updates as f64 / elapsed.as_secs_f64().max(f64::EPSILON)).round() as u64)
}
