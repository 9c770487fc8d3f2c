//! Credentials and claims: any request is read without a panic, any token is verified or refused in one line, and the claims of a valid
//! token never widen a topic. The first line is a header, the second the target of the request, the rest a set of claims.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tallycast::auth::fuzzing::{credential, topics, verify};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.splitn(3, '\n');
    let (Some(header), Some(target), Some(claims)) = (lines.next(), lines.next(), lines.next()) else { return };
    if let Some(token) = credential(header, target) {
        let refused = verify(&token).expect_err("nobody has signed it");
        assert_eq!(refused.lines().count(), 1, "{refused:?}");
    }
    match topics(claims) {
        Ok(topics) => {
            assert!(topics.len() <= 256);
            for topic in topics {
                let prefix = topic.literal_prefix();
                let segments: Vec<&str> = prefix.segments().collect();
                assert!(segments.len() == 2 && segments[0] == "user", "{topic}");
            }
        }
        Err(error) => assert_eq!(error.lines().count(), 1, "{error:?}"),
    }
});
