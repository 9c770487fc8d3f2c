//! One measurement from start to end: start the program, connect, let it idle, publish, drain.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use indicatif::{HumanCount, ProgressBar};

use super::{
    LoadArgs,
    client::Client,
    figures::{Figures, IdleFigures, LoadFigures},
    interrupt,
    process::{self, Process, Scratch},
    publisher::{self, Plan},
    transport::Transport,
    usage,
};

/// Before memory is read: allocators and kernel take a moment to give back what a burst needed.
const SETTLE: Duration = Duration::from_secs(2);

/// How often the process is looked at and the progress is drawn.
const WATCH_PERIOD: Duration = Duration::from_millis(100);

/// A program to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    WriteLoop,
    Tallycast(Transport),
}

impl Subject {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::WriteLoop => "write loop",
            Self::Tallycast(transport) => transport.name(),
        }
    }

    /// # Errors
    /// When the program is not there.
    pub(super) fn check(self, args: &LoadArgs) -> Result<()> {
        let program = self.program(args)?;
        ensure!(
            program.is_file(),
            "no tallycast at {}: build it with `cargo build --release`, or say where it is with --server-bin",
            program.display()
        );
        Ok(())
    }

    /// Starts the program and measures it.
    ///
    /// # Errors
    /// When it does not start, ends, or does not take the connections; when publishing fails; when interrupted.
    pub(super) fn measure(self, args: &LoadArgs, redis: &str, scratch: &Scratch) -> Result<Figures> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, process::free_port()?));
        let mut server = self.start(args, redis, scratch, address)?;
        let mut watch = Watch::new(self.name());
        interrupt::sleep_until(Instant::now() + SETTLE)?;
        let memory_before = server.memory()?;

        let (slow_readers, transport) = match self {
            Self::WriteLoop => (0, Transport::EventStream),
            Self::Tallycast(transport) => (args.slow_readers, transport),
        };
        let connections = args.connections + slow_readers;
        let epoch = Instant::now();
        let mut client = Client::new(address, &args.path, transport, epoch, args.payload_bytes)?;
        let connect_time = client.connect(args.connections, slow_readers, |open| {
            watch.look(&mut server, || {
                format!("{} of {} connections", HumanCount(open as u64), HumanCount(connections as u64))
            })
        })?;

        let hold = if args.idle { Duration::from_secs(args.seconds.into()) } else { SETTLE };
        let held = Instant::now();
        while held.elapsed() < hold {
            client.turn(hold.saturating_sub(held.elapsed()))?;
            watch.look(&mut server, || format!("{} idle connections", HumanCount(connections as u64)))?;
        }
        let memory_idle = server.memory()?;

        let load =
            if args.idle { None } else { Some(publish(args, redis, epoch, &mut client, &mut server, &mut watch)?) };
        let (lost, first_loss) = client.lost();
        Ok(Figures {
            subject: self,
            idle: IdleFigures::new(connections, connect_time, memory_before, memory_idle),
            load,
            lost,
            first_loss: first_loss.map(str::to_owned),
            peak_memory: server.memory()?.peak,
            slow: (slow_readers > 0).then(|| client.read_slow_out(args.payload_bytes)).transpose()?,
        })
    }

    fn program(self, args: &LoadArgs) -> Result<PathBuf> {
        let this = env::current_exe().context("cannot find this program's own file")?;
        Ok(match (self, &args.server_bin) {
            (Self::WriteLoop, _) => this,
            (Self::Tallycast(_), Some(path)) => path.clone(),
            (Self::Tallycast(_), None) => this.with_file_name("tallycast"),
        })
    }

    /// Starts the program and waits until it serves.
    fn start(self, args: &LoadArgs, redis: &str, scratch: &Scratch, address: SocketAddr) -> Result<Process> {
        let mut command = Command::new(self.program(args)?);
        match self {
            Self::WriteLoop => {
                command
                    .args(["write-loop", "--redis", redis, "--channel", &args.channel])
                    .args(["--port", &address.port().to_string()]);
                let mut server = Process::start(self.name(), &mut command, scratch)?;
                server.wait_until_ready(|| process::accepts(address))?;
                Ok(server)
            }
            Self::Tallycast(_) => {
                command
                    .args(&args.server_args)
                    .env("TALLYCAST_ADDRESS", address.ip().to_string())
                    .env("PORT", address.port().to_string())
                    .env("REDIS_URL", redis);
                let mut server = Process::start(self.name(), &mut command, scratch)?;
                server.wait_until_ready(|| process::answers_ok(address, "/readyz"))?;
                Ok(server)
            }
        }
    }
}

/// Publishes, and reads until all is delivered or the time to drain is over.
fn publish(
    args: &LoadArgs,
    redis: &str,
    epoch: Instant,
    client: &mut Client,
    server: &mut Process,
    watch: &mut Watch,
) -> Result<LoadFigures> {
    let plan = Plan {
        redis: redis.to_owned(),
        channel: args.channel.clone(),
        rate: args.rate,
        duration: Duration::from_secs(args.seconds.into()),
        payload_bytes: args.payload_bytes,
    };
    let readers = args.connections as u64;
    let mut expected = plan.messages() * readers;
    let server_before = server.cpu_time()?;
    let bytes_before = client.bytes();
    let client_before = usage::cpu_time(usage::THIS_THREAD)?;
    let started = epoch.elapsed();

    let mut publisher = Some(publisher::start(plan, epoch)?);
    let mut published = None;
    let mut drain_until = None;
    while client.received().delivered < expected && drain_until.is_none_or(|limit| Instant::now() < limit) {
        client.turn(WATCH_PERIOD)?;
        if let Some(finished) = publisher.take_if(|publisher| publisher.is_finished()) {
            let result = finished.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;
            expected = result.messages * readers;
            published = Some(result);
            drain_until = Some(Instant::now() + Duration::from_secs(args.drain_seconds.into()));
        }
        watch.look(server, || {
            let delivered = client.received().delivered;
            format!("{} of {} deliveries", HumanCount(delivered), HumanCount(expected))
        })?;
    }
    let server_cpu = server.cpu_time()? - server_before;
    let client_cpu = usage::cpu_time(usage::THIS_THREAD)? - client_before;
    let took = epoch.elapsed() - started;
    // All may be delivered a moment before the publisher has its last answer.
    if let Some(publisher) = publisher {
        published = Some(publisher.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??);
    }
    Ok(LoadFigures {
        published: published.context("nothing was published")?,
        expected,
        received: client.received().clone(),
        delivering: client.received().last.saturating_sub(started),
        took,
        bytes: client.bytes() - bytes_before,
        server_cpu,
        client_cpu,
    })
}

/// Sees that the process is alive, and draws the progress on a terminal, but not on every turn.
struct Watch {
    bar: ProgressBar,
    next: Instant,
}

impl Watch {
    fn new(name: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_prefix(name);
        bar.set_style(
            indicatif::ProgressStyle::with_template("{spinner} {prefix}: {msg}")
                .unwrap_or_else(|_| indicatif::ProgressStyle::default_spinner()),
        );
        Self { bar, next: Instant::now() }
    }

    fn look(&mut self, server: &mut Process, message: impl FnOnce() -> String) -> Result<()> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + WATCH_PERIOD;
        self.bar.set_message(message());
        self.bar.tick();
        server.ensure_running()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
