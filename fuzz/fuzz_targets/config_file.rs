//! Configuration files: nothing panics, and a secret is in no error and not in the effective configuration. The input is the text
//! before and after a secret, separated by NUL.
#![no_main]

use std::ffi::OsString;

use libfuzzer_sys::fuzz_target;
use tallycast::config::{Command, read_text};

const SECRET: &str = "hunter2";

/// All that `tallycast check` prints for a file.
fn check(text: &str) -> String {
    match read_text(["tallycast", "check"].map(OsString::from), text) {
        Ok(Command::Print(text)) => text,
        Ok(other) => panic!("{other:?}"),
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains('\n'), "{line:?}");
            line
        }
    }
}

fuzz_target!(|input: &str| {
    let Some((before, after)) = input.split_once('\0') else {
        check(input);
        return;
    };
    // Otherwise the secret may belong to another value. In that case it is not one.
    if before.contains(SECRET) || after.contains(SECRET) || before.parse::<toml::Table>().is_err() {
        return;
    }
    // One of these for each input, because composing a configuration is slow.
    let starts = ["redis-url = \"redis://:", "redis-url = 'redis://user:", "admin-token = \"", "admin-token = "];
    let text = format!("{before}\n{}{SECRET}{after}", starts[input.len() % starts.len()]);
    let printed = check(&text);
    assert!(!printed.contains(SECRET), "{text:?} prints {printed:?}");
});
