//! Routes and events: nothing panics, and decoded events are well formed. The input is a route, a channel and a payload, on a
//! line each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tallycast::decode::{MAX_SENDER_BYTES, Route, Routes};
use tallycast::source::{RawEvent, SourceId};

fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let mut text = || std::str::from_utf8(lines.next().unwrap_or_default());
    let (Ok(route), Ok(channel)) = (text(), text()) else { return };
    let Ok(route) = route.parse::<Route>() else { return };
    let Ok(routes) = Routes::new(vec![route]) else { return };
    assert_eq!(routes.selectors(SourceId::DEFAULT).len() + routes.streams(SourceId::DEFAULT).len(), 1);
    let payload = lines.next().unwrap_or_default().to_vec();
    if let Ok(decoded) = routes.decode(RawEvent::new(channel.to_owned(), payload)) {
        assert!(!decoded.message.namespace.as_str().contains(char::is_control));
        let is_sender = |sender: &str| sender.len() <= MAX_SENDER_BYTES && !sender.contains(char::is_control);
        assert!(decoded.message.sender.is_none_or(|sender| is_sender(&sender)));
        assert!(decoded.message.event.is_none_or(|event| !event.contains(['\r', '\n'])));
    }
});
