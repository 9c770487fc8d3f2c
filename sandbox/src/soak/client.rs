//! One client: it connects, reads or stalls, and leaves.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    behavior::{Behavior, Kind, TopicChooser},
    counters::Counters,
    endpoint::{Connection, Endpoint, Protocol},
};
use crate::streams::{
    ClosedByServer, EventParser, Parser, Subprotocol, Transport, UnexpectedStatus, client_frame, text_frame,
};

/// The time limit for connecting and receiving the response headers.
const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// The interval of a client's changes of topics. A server accepts 20 messages per second by default.
const CHANGE_PERIOD: Duration = Duration::from_secs(1);

/// The mean time that an HTTP/2 client keeps a stream before it resets it and opens another.
const STREAM_LIFETIME: Duration = Duration::from_secs(5);

/// The pause after a 503, or after a close with [`TRY_AGAIN_LATER`] because of totals.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The close code of a WebSocket `raw` whose totals became unavailable (RFC 6455, §7.4.2), and the start of the reason. Readers
/// that fell behind are closed with the same code and another reason.
const TRY_AGAIN_LATER: u16 = 1013;
const TOTALS_UNAVAILABLE: &str = "the totals are unavailable";

/// Buffer size of one read in bytes.
const READ_BYTES: usize = 16 * 1024;

/// The receive buffer of a stalled client in bytes: small, so that the server's writes soon block.
const STALLED_RECEIVE_BUFFER: u32 = 4096;

/// The HTTP/2 windows of a stream, unless the client is stalled, and of a connection, in bytes: about those of browsers.
const WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// How many bytes of bookkeeping the HTTP/2 client accepts for small frames that it has received and not read yet. By default it
/// closes the connection at about a hundred of them, which arrive at once when this program was descheduled.
const SMALL_FRAMES_BUDGET: usize = 16 * 1024 * 1024;

/// The first byte of a close frame (RFC 6455, §5.2).
const CLOSE: u8 = 0x88;

/// Runs a client until it leaves. `opening` bounds the number of clients that connect at the same time.
///
/// # Errors
/// If the server fails it: no connection, another response than a stream or 503, an invalid stream, or one that ends while its
/// totals are available.
pub(super) async fn run(
    endpoint: Arc<Endpoint>,
    behavior: Behavior,
    counters: Arc<Counters>,
    opening: Arc<Semaphore>,
) -> Result<()> {
    let ran = match behavior.kind {
        Kind::Http1(transport) => http1(&endpoint, transport, false, behavior, &counters, &opening).await,
        Kind::TopicChanges => {
            http1(&endpoint, Transport::WebSocket(Subprotocol::Json), true, behavior, &counters, &opening).await
        }
        Kind::Http2 => http2(endpoint, behavior, counters.clone(), &opening).await,
    };
    match ran {
        Err(error) if is_unavailable(&error) => {
            counters.unavailable.add();
            sleep(RETRY_PAUSE).await;
            Ok(())
        }
        ran => ran,
    }
}

/// Whether the server answered 503, or closed a WebSocket because of its totals, as it may while the broker is down.
fn is_unavailable(error: &anyhow::Error) -> bool {
    let is_refused = error.downcast_ref::<UnexpectedStatus>().is_some_and(|response| response.status == 503);
    let is_closed = error
        .downcast_ref::<ClosedByServer>()
        .is_some_and(|close| close.code == Some(TRY_AGAIN_LATER) && close.reason.starts_with(TOTALS_UNAVAILABLE));
    is_refused || is_closed
}

/// One stream on one connection, whose topics change if `changes_topics`.
async fn http1(
    endpoint: &Endpoint,
    transport: Transport,
    changes_topics: bool,
    mut behavior: Behavior,
    counters: &Arc<Counters>,
    opening: &Semaphore,
) -> Result<()> {
    let permit = opening.acquire().await;
    let path = behavior.topics.path();
    let (mut connection, mut parser) = timeout(OPEN_LIMIT, open(endpoint, transport, &path, &behavior, counters))
        .await
        .with_context(|| format!("{path} did not open within {} s", OPEN_LIMIT.as_secs()))?
        .with_context(|| path.clone())?;
    drop(permit);
    let _open = counters.opened();

    let mut buffer = vec![0; READ_BYTES];
    let mut subscribed = None;
    let mut changes = interval(CHANGE_PERIOD);
    changes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let leave = sleep(behavior.lifetime);
    tokio::pin!(leave);
    loop {
        tokio::select! {
            () = &mut leave => break,
            _ = changes.tick(), if changes_topics && !behavior.is_stalled => {
                let command = change(&mut subscribed, &mut behavior.topics);
                connection.write_all(&text_frame(&command)).await.context("cannot change the topics")?;
            }
            read = connection.read(&mut buffer), if !behavior.is_stalled => {
                let length = read.context("the connection broke")?;
                ensure!(length > 0, "the server ended {path}");
                parse(&mut parser, &buffer[..length], &mut connection, counters).await?;
            }
        }
    }
    if matches!(transport, Transport::WebSocket(_)) && !behavior.is_stalled {
        // 1000: a normal closure. The server may have closed the connection in the same moment.
        let _ = connection.write_all(&client_frame(CLOSE, &1000_u16.to_be_bytes())).await;
    }
    Ok(())
}

/// Connects, and reads until the response headers are complete.
async fn open(
    endpoint: &Endpoint,
    transport: Transport,
    path: &str,
    behavior: &Behavior,
    counters: &Counters,
) -> Result<(Box<dyn Connection>, Parser)> {
    let receive_buffer = behavior.is_stalled.then_some(STALLED_RECEIVE_BUFFER);
    let mut connection = endpoint.connect(Protocol::Http1, behavior.source, receive_buffer).await?;
    connection.write_all(transport.request(path, &endpoint.host(), None).as_bytes()).await?;
    let mut parser = transport.parser();
    let mut buffer = vec![0; READ_BYTES];
    while !parser.has_headers() {
        let length = connection.read(&mut buffer).await?;
        ensure!(length > 0, "the server closed the connection before the response");
        parse(&mut parser, &buffer[..length], &mut connection, counters).await?;
    }
    Ok((connection, parser))
}

/// Parses received bytes, counts the events, and answers pings.
async fn parse(
    parser: &mut Parser,
    bytes: &[u8],
    connection: &mut Box<dyn Connection>,
    counters: &Counters,
) -> Result<()> {
    parser.feed(bytes, &mut |_| counters.events.add())?;
    if let Some(reply) = parser.take_reply() {
        connection.write_all(reply).await.context("cannot answer a ping")?;
    }
    Ok(())
}

/// The next command: a topic is subscribed to, and then unsubscribed from.
fn change(subscribed: &mut Option<String>, topics: &mut TopicChooser) -> String {
    match subscribed.take() {
        Some(topic) => format!(r#"{{"unsubscribe":["{topic}"]}}"#),
        None => {
            let topic = topics.topic();
            let command = format!(r#"{{"subscribe":["{topic}"]}}"#);
            *subscribed = Some(topic);
            command
        }
    }
}

/// Several streams on one connection, each of which is reset and replaced from time to time.
async fn http2(
    endpoint: Arc<Endpoint>,
    mut behavior: Behavior,
    counters: Arc<Counters>,
    opening: &Semaphore,
) -> Result<()> {
    let permit = opening.acquire().await;
    let window = if behavior.is_stalled { 0 } else { WINDOW };
    let handshake = async {
        let connection = endpoint.connect(Protocol::Http2, behavior.source, None).await?;
        let mut client = h2::client::Builder::new();
        client
            .initial_window_size(window)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .data_frame_budget(SMALL_FRAMES_BUDGET);
        anyhow::Ok(client.handshake::<_, &[u8]>(connection).await?)
    };
    let (requests, connection) = timeout(OPEN_LIMIT, handshake)
        .await
        .with_context(|| format!("no HTTP/2 connection within {} s", OPEN_LIMIT.as_secs()))?
        .context("HTTP/2 handshake")?;
    drop(permit);
    let _open = counters.opened();

    // Aborted with this client. Streams and connection never end by themselves.
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        connection.await.context("the HTTP/2 connection broke")?;
        bail!("the server ended the HTTP/2 connection")
    });
    for _ in 0..behavior.streams {
        let (endpoint, counters, topics) = (endpoint.clone(), counters.clone(), behavior.topics.fork());
        tasks.spawn(http2_streams(endpoint, requests.clone(), topics, behavior.is_stalled, counters));
    }
    tokio::select! {
        () = sleep(behavior.lifetime) => Ok(()),
        Some(ended) = tasks.join_next() => match ended.context("a client panicked")? {
            // The server may close the connection of a client that does not read.
            Err(_) if behavior.is_stalled => Ok(()),
            ended => ended,
        },
    }
}

/// One stream after the other on an HTTP/2 connection.
async fn http2_streams(
    endpoint: Arc<Endpoint>,
    requests: h2::client::SendRequest<&'static [u8]>,
    mut topics: TopicChooser,
    is_stalled: bool,
    counters: Arc<Counters>,
) -> Result<()> {
    loop {
        let path = topics.path();
        let lifetime = topics.stream_lifetime(STREAM_LIFETIME);
        let opened = open_http2_stream(&endpoint, requests.clone(), &path);
        let opened = timeout(OPEN_LIMIT, opened)
            .await
            .with_context(|| format!("{path} did not open within {} s over HTTP/2", OPEN_LIMIT.as_secs()))?;
        let body = match opened {
            Ok(body) => body,
            Err(error) if is_unavailable(&error) => {
                counters.unavailable.add();
                sleep(RETRY_PAUSE).await;
                continue;
            }
            Err(error) => return Err(error.context(path)),
        };
        if is_stalled {
            sleep(lifetime).await;
            continue;
        }
        // A dropped body resets its stream.
        match timeout(lifetime, read_http2_stream(body, &counters)).await {
            Err(_) => {}
            Ok(read) => read.with_context(|| format!("{path} over HTTP/2"))?,
        }
    }
}

async fn open_http2_stream(
    endpoint: &Endpoint,
    requests: h2::client::SendRequest<&'static [u8]>,
    path: &str,
) -> Result<h2::RecvStream> {
    let request = http::Request::get(endpoint.url(path)).header("accept", "text/event-stream").body(())?;
    let (response, _) = requests.ready().await?.send_request(request, true)?;
    let response = response.await?;
    let status = response.status();
    if status != http::StatusCode::OK {
        let reason = status.canonical_reason().unwrap_or_default().to_owned();
        bail!(UnexpectedStatus { status: status.as_u16(), reason });
    }
    Ok(response.into_body())
}

/// Reads a stream, which ends only with an error.
async fn read_http2_stream(mut body: h2::RecvStream, counters: &Counters) -> Result<()> {
    let mut events = EventParser::default();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        events.feed(&data, &mut |_| counters.events.add())?;
    }
    bail!("the server ended the stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unavailable_totals_are_no_failure() {
        let closed = |code, reason: &str| ClosedByServer { code: Some(code), reason: reason.to_owned() };
        let status = |status| UnexpectedStatus { status, reason: String::new() };
        let unavailable = "the totals are unavailable; connect again to start afresh";
        for (error, expected) in [
            (status(503).into(), true),
            (status(500).into(), false),
            (anyhow::Error::from(closed(1013, unavailable)).context("/subscribe/raw"), true),
            (closed(1013, "too slow").into(), false),
            (closed(1008, unavailable).into(), false),
            (anyhow::anyhow!(unavailable), false),
        ] {
            assert_eq!(is_unavailable(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn each_topic_is_unsubscribed_from_before_the_next() {
        let mut behavior = super::super::behavior::Behaviors::new(1, CHANGE_PERIOD, 0).draw();
        let mut subscribed = None;
        let commands: Vec<String> = (0..4).map(|_| change(&mut subscribed, &mut behavior.topics)).collect();
        for pair in commands.chunks(2) {
            assert_eq!(pair[0].replace("subscribe", "unsubscribe"), pair[1]);
        }
        assert_ne!(commands[0], commands[2]);
    }
}
