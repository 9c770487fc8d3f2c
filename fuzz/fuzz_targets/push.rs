//! Pushed requests: a body is read as events or rejected, no signature is right without the secret, and no URL of a source shows its
//! own. The first line is the content type or the signature, the second one an attribute or a timestamp.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tallycast::api::push::fuzzing::{events, is_signed, url};

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(3, |byte| *byte == b'\n');
    let (Some(first), Some(second), Some(body)) = (parts.next(), parts.next(), parts.next()) else { return };
    let (Ok(first), Ok(second)) = (std::str::from_utf8(first), std::str::from_utf8(second)) else { return };
    for (channel, payload) in events(first, second, body) {
        assert!(channel.is_none_or(|channel| channel.len() <= input.len()) && payload.len() <= input.len());
    }
    assert!(!is_signed(first, second, body));
    let (error, shown) = url(&format!("webhook:?secret=SECRET-OF-SIXTEEN&{first}"));
    assert!(!shown.contains("SECRET-OF-SIXTEEN") || first.contains("SECRET-OF-SIXTEEN"));
    assert!(error.is_none_or(|error| error.lines().count() == 1));
});
