//! Requests to publish: a body is read as messages or refused in one line, and what is read is within its bounds. The first line is
//! the content type.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tallycast::api::native::fuzzing::messages;
use tallycast::decode::Routes;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some((content_type, body)) = text.split_once('\n') else { return };
    let routes = ["stream:a=/a/**", "b.*=/b/*"].iter().map(|route| route.parse().expect("a route")).collect();
    let routes = Routes::new(routes).expect("a table");
    match messages(&routes, content_type, body) {
        Ok(messages) => {
            assert!((1..=1000).contains(&messages.len()));
            for message in messages {
                assert!(message.event.is_none_or(|event| event.len() <= 256 && !event.contains(char::is_control)));
                assert!(message.idempotency_key.is_none_or(|key| (1..=256).contains(&key.len())));
            }
        }
        Err(error) => assert_eq!(error.lines().count(), 1, "{error:?}"),
    }
});
