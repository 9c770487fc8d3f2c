//! Client processes: this program runs itself, so that readers are not limited by the descriptors and the thread of one process.
//!
//! A client process has the arguments of the run and a range of the connections. It reports a line of JSON from time to time,
//! and reads commands as lines of JSON. It exits with its parent, when its standard input ends.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    ops::Range,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    LoadArgs,
    client::CONNECT_WINDOW,
    publisher::Published,
    readers::{LocalReaders, ReaderResult, ReaderSetup},
    workload::Newest,
};
use crate::{
    process::{Scratch, this_program},
    resource_usage, signals,
};

/// The interval of reports.
const REPORT_PERIOD: Duration = Duration::from_millis(100);

/// The longest time between two looks at the commands.
const COMMAND_POLL: Duration = Duration::from_millis(20);

/// Reports and instructions that wait to be handled.
const QUEUED_REPORTS: usize = 64;

/// The time limit for the results of all processes.
const RESULT_LIMIT: Duration = Duration::from_secs(60);

/// Read some of the connections of `load` for another process
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadClientArgs {
    /// Server to read from
    #[arg(long = "read-from")]
    server: SocketAddr,

    /// Start of the time of stamps: nanoseconds of the monotonic clock
    #[arg(long)]
    epoch_nanos: u64,

    /// Place of the subject among those of the run
    #[arg(long)]
    subject_place: usize,

    /// First connection
    #[arg(long)]
    first: usize,

    /// Number of connections
    #[arg(long)]
    count: usize,

    /// Number of client processes
    #[arg(long)]
    processes: usize,

    /// Directory of the server's certificate
    #[arg(long)]
    certificate: Option<PathBuf>,

    #[command(flatten)]
    load: LoadArgs,
}

/// What a client process reports.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// Connections with response headers.
    Ready(usize),
    /// All of them have these.
    Connected,
    Progress {
        delivered: u64,
        newest: Newest,
    },
    Result(Box<ReaderResult>),
    Failed(String),
}

/// Instructions to a client process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Instruction {
    /// Messages follow.
    Begin,
    /// This number of messages was published.
    Published(u64),
    /// Report the result and exit.
    Finish,
}

/// The client processes of a subject, killed on drop.
#[derive(Debug)]
pub(super) struct ClientProcesses {
    processes: Vec<ClientProcess>,
    reports: Receiver<(usize, Result<Report>)>,
}

#[derive(Debug)]
struct ClientProcess {
    child: Child,
    input: ChildStdin,
    log: PathBuf,
    ready: usize,
    is_connected: bool,
    delivered: u64,
    newest: Newest,
    result: Option<ReaderResult>,
}

impl ClientProcesses {
    /// Starts `count` processes for the connections of `setup`. `subject_place` is the place of the subject among those of the
    /// run.
    ///
    /// # Errors
    /// If a process cannot be started.
    pub(super) fn start(count: usize, setup: &ReaderSetup, subject_place: usize, scratch: &Scratch) -> Result<Self> {
        let (sender, reports) = mpsc::sync_channel(QUEUED_REPORTS);
        let epoch = resource_usage::monotonic_time().saturating_sub(setup.epoch.elapsed());
        let streams = setup.stack.http2.unwrap_or(1);
        let mut processes = Vec::new();
        for (number, range) in divide(setup.roles.total(), count, streams).into_iter().enumerate() {
            let log = scratch.path().join(format!("client-{subject_place}-{number}.log"));
            let mut command = Command::new(this_program()?);
            command
                .arg("load-client")
                .args(["--read-from", &setup.server.to_string()])
                .args(["--epoch-nanos", &epoch.as_nanos().to_string()])
                .args(["--subject-place", &subject_place.to_string()])
                .args(["--first", &range.start.to_string(), "--count", &range.len().to_string()])
                .args(["--processes", &count.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?);
            if setup.tls.is_some() {
                command.arg("--certificate").arg(scratch.path());
            }
            // The options of `load`, after the name of the program and the command.
            let mut child = command.args(env::args_os().skip(2)).spawn().context("cannot start a client process")?;
            let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
                bail!("a client process has no pipes");
            };
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines() {
                    let report = line.map_err(Into::into).and_then(|line| Ok(serde_json::from_str(&line)?));
                    if sender.send((number, report)).is_err() {
                        return;
                    }
                }
                // Fails once the subject is measured.
                let _ = sender.send((number, Err(anyhow!("a client process exited"))));
            });
            processes.push(ClientProcess {
                child,
                input,
                log,
                ready: 0,
                is_connected: false,
                delivered: 0,
                newest: Newest::default(),
                result: None,
            });
        }
        Ok(Self { processes, reports })
    }

    pub(super) fn connect(&mut self, mut on_progress: impl FnMut(usize) -> Result<()>) -> Result<Duration> {
        let started = Instant::now();
        // The processes have a time limit.
        while !self.processes.iter().all(|process| process.is_connected) {
            self.poll(REPORT_PERIOD)?;
            on_progress(self.processes.iter().map(|process| process.ready).sum())?;
        }
        Ok(started.elapsed())
    }

    pub(super) fn begin(&mut self) -> Result<()> {
        self.instruct(Instruction::Begin)
    }

    pub(super) fn published(&mut self, messages: u64) -> Result<()> {
        self.instruct(Instruction::Published(messages))
    }

    pub(super) fn poll(&mut self, limit: Duration) -> Result<()> {
        signals::check()?;
        let deadline = Instant::now() + limit;
        loop {
            match self.reports.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((number, report)) => self.processes[number].take(report)?,
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                // They exit after their results.
                Err(RecvTimeoutError::Disconnected)
                    if self.processes.iter().all(|process| process.result.is_some()) =>
                {
                    return Ok(());
                }
                Err(RecvTimeoutError::Disconnected) => bail!("all client processes exited"),
            }
        }
    }

    pub(super) fn delivered(&self) -> u64 {
        self.processes.iter().map(|process| process.delivered).sum()
    }

    pub(super) fn newest(&self) -> Newest {
        let mut newest = Newest::default();
        self.processes.iter().for_each(|process| newest += process.newest);
        newest
    }

    pub(super) fn finish(mut self) -> Result<ReaderResult> {
        self.instruct(Instruction::Finish)?;
        let deadline = Instant::now() + RESULT_LIMIT;
        while self.processes.iter().any(|process| process.result.is_none()) {
            ensure!(Instant::now() < deadline, "no result of a client process within {} s", RESULT_LIMIT.as_secs());
            self.poll(COMMAND_POLL)?;
        }
        let mut results = self.processes.iter_mut().filter_map(|process| process.result.take());
        let mut sum = results.next().context("no client process")?;
        results.try_for_each(|result| sum.add(result))?;
        Ok(sum)
    }

    fn instruct(&mut self, instruction: Instruction) -> Result<()> {
        let line = serde_json::to_string(&instruction)?;
        self.processes
            .iter_mut()
            .try_for_each(|process| writeln!(process.input, "{line}").context("a client process exited"))
    }
}

impl ClientProcess {
    fn take(&mut self, report: Result<Report>) -> Result<()> {
        match report {
            Ok(Report::Ready(ready)) => self.ready = ready,
            Ok(Report::Connected) => self.is_connected = true,
            Ok(Report::Progress { delivered, newest }) => (self.delivered, self.newest) = (delivered, newest),
            Ok(Report::Result(result)) => self.result = Some(*result),
            Ok(Report::Failed(error)) => bail!("{error}"),
            // It exits after its result.
            Err(_) if self.result.is_some() => {}
            Err(error) => {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                return Err(error.context(log.trim().to_owned()));
            }
        }
        Ok(())
    }
}

impl Drop for ClientProcess {
    fn drop(&mut self) {
        // Both fail only if it has exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Divides `total` connections evenly among `count` processes, without dividing groups of `group`.
fn divide(total: usize, count: usize, group: usize) -> Vec<Range<usize>> {
    let groups = total.div_ceil(group);
    let bound = |number: usize| (groups * number / count * group).min(total);
    (0..count).map(|number| bound(number)..bound(number + 1)).filter(|range| !range.is_empty()).collect()
}

/// How many connections each of `processes` processes opens at a time, so that all together are fewer than the usual listen
/// backlog.
pub(super) fn connect_window(processes: usize) -> usize {
    (CONNECT_WINDOW * 4 / processes).clamp(1, CONNECT_WINDOW)
}

/// Reads some connections until the parent process has its result.
///
/// # Errors
/// If the parent has exited.
pub(crate) fn run_client(args: &LoadClientArgs) -> Result<()> {
    // The parent reports it.
    if let Err(error) = serve(args) {
        report(&Report::Failed(format!("{error:#}")))?;
    }
    Ok(())
}

fn serve(args: &LoadClientArgs) -> Result<()> {
    let LoadClientArgs { load, .. } = args;
    resource_usage::raise_open_files()?;
    signals::install()?;
    let subjects = load.subjects();
    let subject = subjects.get(args.subject_place).context("no such subject")?;
    let age = resource_usage::monotonic_time().saturating_sub(Duration::from_nanos(args.epoch_nanos));
    let epoch = Instant::now().checked_sub(age).context("the epoch is too early")?;
    let certificate = args.certificate.as_deref().map(crate::certificate::Certificate::in_directory);
    let mut setup =
        subject.reader_setup(load, args.server, Arc::new(load.published_and_read()), certificate.as_ref(), epoch)?;
    setup.range = args.first..args.first + args.count;
    setup.connect_window = connect_window(args.processes);

    let (sender, instructions) = mpsc::sync_channel(QUEUED_REPORTS);
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if let Ok(instruction) = serde_json::from_str::<Instruction>(&line) {
                // Fails at the end.
                let _ = sender.send(instruction);
            }
        }
    });

    let mut readers = LocalReaders::new(setup)?;
    let mut next_report = Instant::now();
    readers.connect(|ready| {
        if Instant::now() >= next_report {
            next_report = Instant::now() + REPORT_PERIOD;
            report(&Report::Ready(ready))?;
        }
        Ok(())
    })?;
    report(&Report::Connected)?;
    let mut published = None;
    loop {
        match instructions.try_recv() {
            Ok(Instruction::Begin) => readers.begin()?,
            Ok(Instruction::Published(messages)) => {
                readers.end();
                published = Some(Published { messages, elapsed: Duration::ZERO, times: Vec::new() });
            }
            Ok(Instruction::Finish) => {
                let result = readers.finish(published.as_ref())?;
                return report(&Report::Result(Box::new(result)));
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => bail!("the parent process exited"),
        }
        readers.poll(COMMAND_POLL)?;
        if Instant::now() >= next_report {
            next_report = Instant::now() + REPORT_PERIOD;
            let newest = published.as_ref().map(|published| readers.newest(published)).unwrap_or_default();
            report(&Report::Progress { delivered: readers.delivered(), newest })?;
        }
    }
}

fn report(report: &Report) -> Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{}", serde_json::to_string(report)?)?;
    Ok(output.flush()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_connection_is_of_one_process_and_groups_stay_together(
            total in 1..1_000_usize,
            count in 1..20_usize,
            group in 1..10_usize,
        ) {
            let ranges = divide(total, count, group);
            prop_assert!(ranges.len() <= count && ranges.iter().all(|range| range.start % group == 0));
            let sizes: Vec<usize> = ranges.iter().map(|range| range.len().div_ceil(group)).collect();
            prop_assert!(ranges.len() < count || sizes.iter().max() <= sizes.iter().min().map(|least| least + 1).as_ref());
            prop_assert_eq!(ranges.into_iter().flatten().collect::<Vec<_>>(), (0..total).collect::<Vec<_>>());
        }
    }
}
