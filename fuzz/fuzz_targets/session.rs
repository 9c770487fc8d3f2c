//! Commands for sessions, and messages of their clients: read, or refused with a short reason.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tallycast::api::native::fuzzing::is_session_message;
use tallycast::sessions::queue::check;

fuzz_target!(|input: &[u8]| {
    if let Err(reason) = check(input) {
        assert!(!reason.is_empty());
    }
    if let Ok(text) = std::str::from_utf8(input) {
        // What is no JSON is never a message.
        assert!(!is_session_message(text) || serde_json::from_str::<serde_json::Value>(text).is_ok());
    }
});
