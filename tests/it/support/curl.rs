//! curl, as a client of streams.

use std::process::{Child, Command, Stdio};

use super::Tallycast;

/// A curl process that reads a stream to its end.
pub(crate) struct Curl(Child);

impl Curl {
    pub(crate) fn open(tallycast: &Tallycast, path: &str, flags: &[&str]) -> Self {
        let before = tallycast.counter("/hub/connected");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--no-buffer", "--max-time", "60"]).args(flags).arg(tallycast.url(path));
        let child = curl.stdout(Stdio::piped()).spawn().expect("curl must be installed");
        tallycast.until_counter("/hub/connected", before + 1);
        Self(child)
    }

    pub(crate) fn finish(self) -> (String, Option<i32>) {
        let output = self.0.wait_with_output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    }
}
