//! What a WebSocket's client sends: however it is cut, the same is read and answered, and a session survives it and says no
//! more than there is a reason for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tallycast_fanout::{ClientAction, Inbound, Namespace, Topics};
use tallycast_server::websocket::{Config, Gatekeeper, Protocol, Received, Session, Subprotocol};

const MAX_MESSAGE: usize = 512;
/// More than any one answer has: it tells at most what the client has sent, escaped, and what it reads.
const MAX_ANSWER: usize = 64 * 1024;

#[derive(Debug)]
struct Open;

impl Gatekeeper for Open {
    fn admit(&mut self, _topics: &Topics) -> Result<(), String> {
        Ok(())
    }
}

/// All that is read and answered.
fn read(bytes: &[u8], cut: usize) -> (Vec<Received>, Vec<u8>) {
    let mut protocol = Protocol::new(MAX_MESSAGE);
    let (mut all, mut replies) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        protocol.take_in(piece);
        while let Some(received) = protocol.next(&mut replies) {
            let ended = matches!(received, Received::End(_));
            all.push(received);
            if ended {
                return (all, replies);
            }
        }
    }
    (all, replies)
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (cut, raw, bytes) = input;
    let cut = usize::from(cut) + 1;
    assert_eq!(read(bytes, cut), read(bytes, usize::MAX));

    let subprotocol = if raw { Subprotocol::Raw } else { Subprotocol::Json };
    let config = Config { max_message: MAX_MESSAGE, ..Config::default() };
    let mut session = Session::new(&config, subprotocol, b"", Box::new(Open), Default::default());
    let mut topics = Topics::from(Namespace::root());
    for piece in bytes.chunks(cut) {
        let mut piece = piece;
        loop {
            let mut replies = Vec::new();
            let said = session.receive(piece, &topics, &mut replies);
            piece = b"";
            assert!(replies.len() <= MAX_ANSWER);
            match said {
                ClientAction::Close => return,
                ClientAction::Subscribe(wanted) => {
                    session.subscribed(&wanted, &mut replies);
                    topics = wanted;
                }
                ClientAction::None if replies.is_empty() => break,
                ClientAction::None => {}
                ClientAction::Authorize(_) => unreachable!("this session decides at once"),
            }
        }
    }
});
