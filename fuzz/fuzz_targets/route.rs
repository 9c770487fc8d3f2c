//! Arbitrary routes and events: nothing panics, and decoded events are well formed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tallycast::decode::{Route, Routes};
use tallycast::source::RawEvent;

fuzz_target!(|input: (&str, String, Vec<u8>)| {
    let (route, channel, payload) = input;
    let Ok(route) = route.parse::<Route>() else { return };
    let Ok(routes) = Routes::new(vec![route]) else { return };
    assert_eq!(routes.selectors().len(), 1);
    if let Ok(decoded) = routes.decode(RawEvent::new(channel, payload)) {
        assert!(!decoded.message.namespace.as_str().contains(char::is_control));
        assert!(decoded.message.event.is_none_or(|event| !event.contains(['\r', '\n'])));
    }
});
