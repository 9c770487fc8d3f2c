//! Bytes of a WebSocket client: in any pieces they are read and answered the same, and a session bounds its replies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tallycast_fanout::{ClientAction, Inbound, Namespace, Topics};
use tallycast_server::websocket::{Config, Protocol, Received, Session, Subprotocol};

const MAX_MESSAGE: usize = 512;
/// The limit of one reply, which contains at most what the client sent, escaped, and its topics.
const MAX_REPLY: usize = 64 * 1024;

/// Everything that is read and answered.
fn read(bytes: &[u8], cut: usize) -> (Vec<Received>, Vec<u8>) {
    let mut protocol = Protocol::new(MAX_MESSAGE);
    let (mut all, mut replies) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        protocol.push(piece);
        while let Some(received) = protocol.next(&mut replies) {
            let ended = matches!(received, Received::Close(_));
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
    let mut config = Config::default();
    config.max_message = MAX_MESSAGE;
    let mut session = Session::new(&config, subprotocol, Default::default());
    let mut topics = Topics::from(Namespace::root());
    for piece in bytes.chunks(cut) {
        let mut piece = piece;
        loop {
            let mut replies = Vec::new();
            let action = session.receive(piece, &topics, &mut replies);
            piece = b"";
            assert!(replies.len() <= MAX_REPLY);
            match action {
                ClientAction::Close => return,
                ClientAction::Subscribe(requested) => {
                    session.subscribed(&requested, &mut replies);
                    topics = requested;
                }
                ClientAction::None if replies.is_empty() => break,
                ClientAction::None => {}
                ClientAction::Authorize(_) | ClientAction::Perform(_) => unreachable!("this session decides at once"),
            }
        }
    }
});
