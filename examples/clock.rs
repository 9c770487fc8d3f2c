//! The server alone: the time, once a second, for everyone who reads `/subscribe/clock`.
//!
//! `cargo run --example clock`, then `curl http://127.0.0.1:8002/subscribe/clock`. An argument is the address to listen on.

#![expect(clippy::print_stdout, reason = "prints the address for the user")]

use std::time::{Duration, SystemTime};

use tallycast_fanout::{Fanout, Message, Namespace, Publisher};
use tallycast_server::Server;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8002".to_owned());
    let listener = tallycast_server::listen(address.parse()?, 64 * 1024)?;
    println!("curl http://{}/subscribe/clock", listener.local_addr()?);
    serve(listener, async {
        // Without the signal, the process is ended from outside.
        let _ = tokio::signal::ctrl_c().await;
    })
    .await
}

/// Serves until `shutdown` completes, then ends all streams.
pub(crate) async fn serve(
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn std::error::Error>> {
    let fanout = Fanout::builder().build();
    tokio::spawn(tick("/clock".parse()?, fanout.publisher()));
    Server::new(fanout.handle()).serve(listener).with_graceful_shutdown(shutdown).await?;
    Ok(())
}

/// Publishes the time until the engine shuts down.
async fn tick(clock: Namespace, publisher: Publisher) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        let now = httpdate::fmt_http_date(SystemTime::now());
        if publisher.send(Message::text(clock.clone(), now)).await.is_err() {
            return;
        }
    }
}
