//! A watched server: the process, its clients, and what it uses.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{SoakArgs, behavior::Behaviors, counters::Counters, endpoint::Endpoint, fleet::Fleet};
use crate::{
    certificate::Certificate,
    process::{self, Process, Scratch},
    resource_usage::CpuTime,
};

/// The time after which the server disconnects stalled readers, shorter than most clients stay.
const STALL_LIMIT: &str = "10s";

/// The length of the logs: enough for readers that wait for a CPU, which servers and clients share here.
const LOG_BATCHES: &str = "8192";

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Without TLS
    Plain,
    /// With TLS
    Tls,
}

/// A running server and its clients.
pub(super) struct Server {
    pub(super) kind: Kind,
    process: Process,
    endpoint: Arc<Endpoint>,
    fleet: Fleet,
}

/// What a server uses, and its counters.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    /// Resident memory in bytes.
    pub(super) memory: u64,
    /// Open file descriptors.
    pub(super) files: u64,
    pub(super) cpu: CpuTime,
    /// The answer of `/admin/counters.json`.
    pub(super) counters: Value,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
        }
    }
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub(super) fn start(
        kind: Kind,
        args: &SoakArgs,
        program: &Path,
        redis: &str,
        scratch: &Scratch,
        runtime: &Runtime,
    ) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, process::free_port()?));
        let mut command = Command::new(program);
        command
            .args(&args.server_args)
            .env("TALLYCAST_ADDRESS", address.ip().to_string())
            .env("PORT", address.port().to_string())
            .env("TALLYCAST_STALL_LIMIT", STALL_LIMIT)
            .env("TALLYCAST_LOG_BATCHES", LOG_BATCHES)
            .env("REDIS_URL", redis);
        let (name, endpoint) = match kind {
            Kind::Plain => ("tallycast", Endpoint::plain(address)),
            Kind::Tls => {
                let certificate = Certificate::create(scratch.path())?;
                command.env("TALLYCAST_TLS_CERT", &certificate.certificate).env("TALLYCAST_TLS_KEY", &certificate.key);
                ("tallycast with TLS", Endpoint::tls(address, &certificate)?)
            }
        };
        let mut process = Process::start(name, &mut command, scratch)?;
        process.wait_until_ready(|| runtime.block_on(endpoint.get("/readyz")).is_ok())?;
        let endpoint = Arc::new(endpoint);
        let behaviors = Behaviors::new(args.seed, args.mean_lifetime(), args.stalled);
        let fleet = Fleet::start(runtime.handle(), Arc::clone(&endpoint), behaviors);
        Ok(Self { kind, process, endpoint, fleet })
    }

    /// Changes the number of clients.
    pub(super) fn resize(&self, clients: usize) {
        self.fleet.resize(clients);
    }

    /// The counters of the clients.
    pub(super) fn clients(&self) -> &Counters {
        self.fleet.counters()
    }

    /// Checks that the process is running.
    ///
    /// # Errors
    /// If it has exited.
    pub(super) fn ensure_running(&mut self) -> Result<()> {
        self.process.ensure_running()
    }

    /// Whether the server is subscribed to the broker.
    pub(super) fn is_ready(&self, runtime: &Runtime) -> bool {
        runtime.block_on(self.endpoint.get("/readyz")).is_ok()
    }

    /// What the server uses now.
    ///
    /// # Errors
    /// If the process has exited, or does not answer.
    pub(super) fn sample(&mut self, runtime: &Runtime) -> Result<Sample> {
        let counters = runtime.block_on(self.endpoint.get("/admin/counters.json"));
        self.process.ensure_running()?;
        let counters = serde_json::from_slice(&counters?).context("/admin/counters.json is not JSON")?;
        Ok(Sample {
            at: Instant::now(),
            memory: self.process.memory()?.resident,
            files: self.process.open_files()?,
            cpu: self.process.cpu_time()?,
            counters,
        })
    }
}

impl Sample {
    /// A counter, by its place in `counters.json`, such as `/hub/feeds`.
    ///
    /// # Errors
    /// If the server has no such counter.
    pub(super) fn counter(&self, pointer: &str) -> Result<u64> {
        let value = self.counters.pointer(pointer).and_then(Value::as_u64);
        value.with_context(|| format!("/admin/counters.json has no {pointer}"))
    }

    /// Open streams.
    pub(super) fn streams(&self) -> Result<u64> {
        self.counter("/hub/connections")
    }

    /// Feeds with readers.
    pub(super) fn feeds(&self) -> Result<u64> {
        self.counter("/hub/feeds")
    }

    /// The mean number of cores used since `earlier`.
    pub(super) fn cores_since(&self, earlier: &Self) -> f64 {
        let elapsed = self.at.duration_since(earlier.at).max(Duration::from_millis(1));
        (self.cpu - earlier.cpu).total().as_secs_f64() / elapsed.as_secs_f64()
    }
}
