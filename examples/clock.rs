//! The SSE server without the pipeline: the time, once a second, for everyone who reads `/subscribe/clock`.
//!
//! `cargo run --example clock`, then `curl http://localhost:8002/subscribe/clock`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tallycast_fanout::{Fanout, Message, Namespace};
use tallycast_server::NoPages;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let fanout = Fanout::builder().build();
    let messages = fanout.publisher();
    let listener = tallycast_server::listen("127.0.0.1:8002".parse()?, 64 * 1024)?;
    let shutdown = CancellationToken::new();
    let (config, stats) = (watch::channel(tallycast_server::Config::default()).1, Arc::default());
    tokio::spawn(tallycast_server::serve(listener, fanout.handle(), NoPages, config, stats, shutdown.clone()));

    let clock: Namespace = "/clock".parse()?;
    let mut second = tokio::time::interval(Duration::from_secs(1));
    while tokio::select! { _ = second.tick() => true, _ = tokio::signal::ctrl_c() => false } {
        let now = httpdate::fmt_http_date(SystemTime::now());
        messages.send(Message::text(clock.clone(), now)).await?;
    }
    // No more messages: the streams end in good order.
    shutdown.cancel();
    drop(messages);
    fanout.join().await;
    Ok(())
}
