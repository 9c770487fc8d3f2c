//! Tests of the commands that run tallycast: the built binary with a private Redis and the tallycast binary of the workspace.

#![cfg(feature = "cli")]
#![expect(clippy::unwrap_used, reason = "tests fail with a panic and a message")]

mod load;
mod soak;

use std::path::Path;
use std::process::{Command, Stdio};

/// The sandbox binary, once the tallycast binary next to it exists.
fn sandbox() -> Command {
    let sandbox = env!("CARGO_BIN_EXE_sandbox");
    // A test of the whole workspace has built it.
    if !Path::new(sandbox).with_file_name("tallycast").exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "tallycast", "--bin", "tallycast"]);
        if sandbox.contains("/release/") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "tallycast does not build");
    }
    let mut command = Command::new(sandbox);
    command.stdin(Stdio::null());
    command
}
