//! A source of your own in front of the whole pipeline: lines from standard input, each `channel payload`.
//!
//! ```text
//! cargo run --example custom_source
//! curl -N http://localhost:8003/subscribe/lines     # in a second terminal
//! ```
//!
//! Then type `greetings hello` into the first. A line on the channel `greetings` is sent to `/lines/greetings`, and counted
//! in `/counts`. `docs/sources.md` explains sources.

#![expect(clippy::print_stderr, reason = "standard output is left to whoever runs this in a shell pipeline")]

use std::sync::Arc;

use tallycast::decode::{self, Routes};
use tallycast::source::{BoxError, Capabilities, Emitter, RawEvent, SessionEnd, Source, Supervisor};
use tallycast::tally;
use tallycast_fanout::{Fanout, inbox};
use tallycast_server::Server;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The source: lines that a thread reads, because reading standard input blocks.
struct Lines(mpsc::Receiver<std::io::Result<String>>);

impl Lines {
    fn from_stdin() -> Self {
        let (sender, lines) = mpsc::channel(64);
        std::thread::spawn(move || std::io::stdin().lines().try_for_each(|line| sender.blocking_send(line)));
        Self(lines)
    }
}

impl Source for Lines {
    fn address(&self) -> String {
        "standard input".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::PASSING
    }

    async fn run(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, BoxError> {
        emitter.subscribed();
        while let Some(line) = self.0.recv().await {
            if let Some((channel, payload)) = line?.split_once(' ') {
                // Waits for room, because standard input can wait too. The receipt is for brokers that want an
                // acknowledgement.
                drop(emitter.emit(RawEvent::new(channel, payload)).await?);
            }
        }
        Ok(SessionEnd::Finished)
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8003".to_owned());
    let routes = Routes::new(vec!["*=/lines/*,tally=/counts".parse()?])?;

    // The stages, in the order of the flow: source -> decode -> hub, with tallies on the side.
    let fanout = Fanout::builder().build();
    let (events, decode_inbox) = inbox::channel(1024, 4 << 20);
    let (keys, tally_inbox) = inbox::channel(1024, 4 << 20);
    let routes = watch::channel(routes).1;
    let decode = tokio::spawn(decode::run(routes, decode_inbox, fanout.publisher(), keys, Arc::default()));
    let tally = tokio::spawn(tally::run(tally::Config::default(), tally_inbox, fanout.publisher(), Arc::default()));

    let listener = tallycast_server::listen(address.parse()?, 64 * 1024)?;
    eprintln!("serving address={}", listener.local_addr()?);
    let shutdown = CancellationToken::new();
    let server = Server::new(fanout.handle()).shutdown_engine(false).serve(listener);
    let server = server.with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let server = tokio::spawn(server.into_future());

    // At the end of the input, each stage ends after the one before it, so everything is delivered.
    Supervisor::new(events).run(Lines::from_stdin()).await?;
    decode.await?;
    tally.await?;
    shutdown.cancel();
    fanout.join().await;
    Ok(server.await??)
}
