//! Paths as clients send them: whatever is accepted is written back the same, and holds nothing that breaks a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tallycast::fanout::{MAX_NAMESPACE_BYTES, MAX_NAMESPACE_DEPTH, Namespace};

fuzz_target!(|path: &str| {
    if let Ok(namespace) = Namespace::from_url_path(path) {
        assert_eq!(namespace.as_str().parse(), Ok(namespace.clone()));
        assert!(!namespace.as_str().contains(char::is_control));
        assert!(namespace.as_str().len() <= MAX_NAMESPACE_BYTES && namespace.segments().count() <= MAX_NAMESPACE_DEPTH);
    }
});
