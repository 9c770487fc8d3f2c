//! WebSockets of contracts: framing, first bytes, messages of clients, and the same behind another HTTP server.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use tallycast_fanout::{ClientAction, Fanout, Framing, Message, Publisher, Topics};
use tallycast_server::websocket::{self, ClientMessage, MessageHandler, Replies, Subprotocol};
use tallycast_server::{Contract, ContractStream, Grant, StreamService, WholeResponse, text_response};

use crate::support::{LIMIT, Raw, Running, WebSocket, block_on, upgrade};

/// `/talk?<topics>`: WebSockets alone, with payloads as messages. Senders do not get messages of `ann`.
struct Talk;

/// Handles `read <topics>`, `wait`, `fail` and `leave`. Anything else is repeated.
struct Handler;

impl MessageHandler for Handler {
    fn message(&mut self, message: ClientMessage, topics: &Topics, replies: &mut Replies<'_>) -> ClientAction {
        let ClientMessage::Text(text) = message else { return replies.close(1003, "expected text") };
        match text.split_once(' ').unwrap_or((&text, "")) {
            ("read", topics) => return ClientAction::Subscribe(of(topics)),
            ("wait", _) => return ClientAction::Perform(Box::pin(async { Ok(()) })),
            ("fail", reason) => {
                let reason = reason.to_owned();
                return ClientAction::Perform(Box::pin(async { Err(reason) }));
            }
            ("leave", _) => return replies.close(1000, "bye"),
            _ => replies.text(&format!("{text} from a reader of {topics}")),
        }
        ClientAction::None
    }

    fn subscribed(&mut self, topics: &Topics, replies: &mut Replies<'_>) {
        replies.text(&format!("now {topics}"));
    }

    fn performed(&mut self, replies: &mut Replies<'_>) {
        replies.text("performed");
    }
}

fn of(topics: &str) -> Topics {
    Topics::new(topics.split(',').map(|topic| topic.parse().unwrap()).collect()).unwrap()
}

impl Contract for Talk {
    fn matches(&self, request: &Parts) -> bool {
        request.uri.path().ends_with("/talk") && request.method == Method::GET
    }

    fn websocket_framing(&self, _: Subprotocol) -> Option<Arc<dyn Framing>> {
        Some(websocket::framing(Subprotocol::Raw))
    }

    async fn open(&self, request: &Parts, _: IpAddr) -> Result<ContractStream, WholeResponse> {
        let query = request.uri.query().unwrap_or_default();
        if query.is_empty() {
            return Err(text_response(StatusCode::BAD_REQUEST, "expected topics\n"));
        }
        let mut stream = ContractStream::new(of(query));
        stream.grant = Some(Arc::new(Grant::default().with_except_sender("ann")));
        stream.messages = (query != "/silent").then(|| Box::new(Handler) as Box<dyn MessageHandler>);
        let mut preamble = Vec::new();
        websocket::write_text(b"welcome", &mut preamble);
        stream.preamble = preamble.into();
        Ok(stream)
    }
}

fn converse(server: &Running, publisher: &Publisher) {
    let mut client = WebSocket::open_at(server.address, "/talk?/a", &[]).unwrap();
    assert_eq!(client.text(), "welcome");
    client.send_text("hello");
    client.send_text("read /b");
    client.send_text("wait");
    for expected in ["hello from a reader of /a", "now /b", "performed"] {
        assert_eq!(client.text(), expected);
    }
    for (namespace, text, sender) in [("/a", "1", None), ("/b", "2", Some("ann")), ("/b", "3", Some("bob"))] {
        let message = Message::text(namespace.parse().unwrap(), text);
        block_on(publisher.send(Message { sender: sender.map(Into::into), ..message })).unwrap();
    }
    assert_eq!(client.text(), "3");
    client.send_text("fail not today");
    assert_eq!(client.closed(), (1008, "not today".to_owned()));
    let mut client = WebSocket::open_at(server.address, "/talk?/a", &[]).unwrap();
    assert_eq!(client.text(), "welcome");
    client.send_text("leave");
    assert_eq!(client.closed(), (1000, "bye".to_owned()));
}

#[test]
fn clients_of_a_contract_converse_over_websocket() {
    let (server, publisher, _handle) = Running::server(|server, _| server.contract(Talk));
    converse(&server, &publisher);
    // Without a handler, messages are discarded and pings answered.
    let mut silent = WebSocket::open_at(server.address, "/talk?/silent", &[]).unwrap();
    assert_eq!(silent.text(), "welcome");
    silent.send_text("hello");
    silent.send(tokio_websockets::Message::ping("there?"));
    assert_eq!(silent.next().as_payload()[..], b"there?"[..]);
}

#[test]
fn websocket_of_a_contract_is_refused_with_a_reason() {
    let (server, _publisher, _handle) = Running::server(|server, _| server.contract(Talk));
    let response = server.response("GET /talk?/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(response.starts_with("HTTP/1.1 426 ") && response.contains("/talk is for WebSocket"), "{response}");
    let mut stream = Raw::connect_to(server.address);
    stream.send(&upgrade("/talk"));
    let head = stream.head();
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
}

#[test]
fn contract_is_served_by_another_http_server() {
    let (sender, started) = std::sync::mpsc::sync_channel(1);
    let server = Running::start(move |listener, shutdown| async move {
        let fanout = Fanout::builder().build();
        sender.send(fanout.publisher()).unwrap();
        let service = StreamService::new(fanout.handle()).contract(Talk);
        let app = Router::new().fallback_service(service);
        axum::serve(listener, app).with_graceful_shutdown(shutdown).await.unwrap();
    });
    converse(&server, &started.recv_timeout(LIMIT).unwrap());
}
