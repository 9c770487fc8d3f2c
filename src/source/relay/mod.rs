//! A relay: another tallycast as the source, whose messages are sent on with the same ids.
//!
//! The origin serves a stream with `relay=1`. `Link` decides what its events mean; a session opens the stream and passes on what the
//! link says. `docs/sources.md` explains what is exact and what is lost.

mod claims;
mod client;
mod config;
mod link;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tallycast_server::relay::RelayEvent;

pub use claims::Claims;
pub use config::{Config, UrlError};

use self::client::Client;
use self::link::{Link, Step};
use super::{BoxError, Capabilities, Emitter, SessionEnd, Source, SourceEvent};

/// Streams that one session opens: one to go on, one to read everything, and others if the origin changes meanwhile.
const MAX_STREAMS: usize = 4;

/// Receives messages from another tallycast.
#[derive(Debug)]
pub struct RelaySource {
    client: Client,
    link: Link,
}

impl RelaySource {
    /// What the origin keeps is sent after a gap, with its positions. What it does not keep is lost.
    pub const CAPABILITIES: Capabilities =
        Capabilities { positions: true, durable: false, ordered: true, acknowledges: false };

    /// A relay with the name `name`, which differs from those of other sources, in front of the engine `instance`; see
    /// [`Handle::instance`](tallycast_fanout::Handle::instance). `claims` are those of all relays.
    pub fn new(config: Config, name: &str, instance: Arc<str>, claims: Claims) -> Self {
        Self { client: Client::new(config, Arc::clone(&instance)), link: Link::new(name.into(), instance, claims) }
    }

    async fn session(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, BoxError> {
        for _ in 0..MAX_STREAMS {
            let start = self.link.begin();
            let mut events = self.client.open(start.as_deref()).await?;
            loop {
                let Some(json) = events.next().await? else {
                    return match self.link.has_started() {
                        true => Ok(SessionEnd::Disconnected),
                        false => Err("the origin is not ready: it starts, or waits for its own source".into()),
                    };
                };
                let event = RelayEvent::parse(std::str::from_utf8(&json)?)?;
                let mut out = Vec::new();
                let step = self.link.take(event, &mut out)?;
                if emit(emitter, out).await.is_err() {
                    return Ok(SessionEnd::Disconnected);
                }
                if self.link.is_current() {
                    emitter.subscribed();
                }
                if step == Step::Refill {
                    break;
                }
            }
            let mut out = Vec::new();
            self.link.end(&mut out);
            if emit(emitter, out).await.is_err() {
                return Ok(SessionEnd::Disconnected);
            }
        }
        Err("the origin has changed what it keeps, again and again".into())
    }
}

/// Passes everything on, and waits while there is no room: the origin keeps what does not fit, as for any slow reader.
async fn emit(emitter: &Emitter, events: Vec<SourceEvent>) -> Result<(), super::PipelineClosed> {
    for event in events {
        emitter.send(event).await?;
    }
    Ok(())
}

impl Source for RelaySource {
    fn address(&self) -> String {
        self.client.address()
    }

    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    async fn run(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, BoxError> {
        let ended = self.session(emitter).await;
        let mut out = Vec::new();
        self.link.end(&mut out);
        // The session is over, whether or not the pipeline is.
        let _ = emit(emitter, out).await;
        ended
    }
}
