//! Request targets: accepted topics are within the limits and hold nothing that breaks a line, and a query or a WebSocket command
//! that names them again gives the same topics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tallycast_fanout::{
    ClientAction, Inbound, MAX_NAME_BYTES, MAX_NAMESPACE_BYTES, MAX_NAMESPACE_DEPTH, Namespace, Topics,
};
use tallycast_server::fuzzing;
use tallycast_server::websocket::{Config, Session, Subprotocol};

const MAX_TOPICS: usize = 64;

/// What a WebSocket client that reads everything subscribes to with `command`, and the replies.
fn command(command: &str) -> (Option<Topics>, Vec<u8>) {
    let mut config = Config::default();
    config.max_message = 1024 * 1024;
    let mut session = Session::new(&config, Subprotocol::Json, Default::default());
    let mut frame = vec![0x81, 0xff];
    frame.extend_from_slice(&(command.len() as u64).to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(command.as_bytes());
    let mut replies = Vec::new();
    match session.receive(&frame, &Topics::from(Namespace::root()), &mut replies) {
        ClientAction::Subscribe(topics) => (Some(topics), replies),
        _ => (None, replies),
    }
}

fuzz_target!(|target: &str| {
    // As a command, too.
    let _ = command(target);

    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let topics = match fuzzing::topics(path, query) {
        Ok(topics) => topics,
        Err(error) => return assert!(!error.contains(['\r', '\n']), "{error:?}"),
    };
    assert!((1..=MAX_TOPICS).contains(&topics.len()));
    let texts: Vec<String> = topics.iter().map(|topic| topic.to_string()).collect();
    for (topic, text) in topics.iter().zip(&texts) {
        assert_eq!(text.parse().as_ref(), Ok(&topic));
        assert!(!text.contains(char::is_control));
        let prefix = topic.literal_prefix();
        let max_bytes = if prefix.is_name() { MAX_NAME_BYTES } else { MAX_NAMESPACE_BYTES };
        assert!(prefix.as_str().len() <= max_bytes && prefix.segments().count() <= MAX_NAMESPACE_DEPTH);
    }
    let pairs = texts.iter().map(|text| ("topic", text));
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    assert_eq!(fuzzing::topics("", &query), Ok(topics.clone()));
    let subscribe = serde_json::json!({"unsubscribe": ["/"], "subscribe": texts}).to_string();
    let (subscribed, replies) = command(&subscribe);
    assert!(subscribed.as_ref() == Some(&topics) || topics == Topics::from(Namespace::root()), "{replies:?}");
});
