//! Paths as clients send them: whatever is accepted is written back the same, and holds nothing that breaks a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tallycast_fanout::{MAX_NAMESPACE_BYTES, MAX_NAMESPACE_DEPTH, Topic};

fuzz_target!(|path: &str| {
    if let Ok(topic) = Topic::from_url_path(path) {
        assert_eq!(topic.to_string().parse(), Ok(topic.clone()));
        assert!(!topic.to_string().contains(char::is_control));
        let prefix = topic.literal_prefix();
        assert!(prefix.as_str().len() <= MAX_NAMESPACE_BYTES && prefix.segments().count() <= MAX_NAMESPACE_DEPTH);
    }
});
