//! Recorded runs: one line of JSON each, with the machine that they were measured on.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Appends the figures of a run to `file`, which is created if it does not exist.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn append(file: &Path, figures: &Value) -> Result<()> {
    let mut record = json!({
        "time": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        "version": env!("CARGO_PKG_VERSION"),
        "cores": thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease"),
        // Of the last minute, this run included.
        "load_average": read("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok()),
    });
    if let (Some(record), Some(figures)) = (record.as_object_mut(), figures.as_object()) {
        record.extend(figures.clone());
    }
    let line = format!("{record}\n");
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .with_context(|| format!("cannot append to {}", file.display()))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
