//! The libraries of other projects, from npm and PyPI.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, sync_channel};

use serde_json::Value;

use super::LIMIT;

pub(crate) const NODE: &str = "node";
pub(crate) const PYTHON: &str = "venv/bin/python";

/// The directory with the clients' libraries, which are installed once.
pub(crate) fn libraries() -> &'static Path {
    static LIBRARIES: OnceLock<PathBuf> = OnceLock::new();
    LIBRARIES.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        std::fs::create_dir_all(&directory).unwrap();
        for entry in std::fs::read_dir(sources).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), directory.join(entry.file_name())).unwrap();
            }
        }
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).current_dir(&directory).output().unwrap();
            assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run("npm", &["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
        if !directory.join("venv/bin/pip").exists() {
            run("python3", &["-m", "venv", "venv"]);
        }
        run("venv/bin/pip", &["install", "--quiet", "--requirement", "requirements.txt"]);
        directory
    })
}

/// Runs a script of `tests/clients` that reads JSON from standard input and prints a JSON list.
pub(crate) fn ask_script(program: &str, script: &str, input: &Value) -> Vec<Value> {
    let mut child = Command::new(program);
    let child = child.arg(script).current_dir(libraries()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A client that prints a line for each event; killed on drop.
pub(crate) struct Printer {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Printer {
    pub(crate) fn start(program: &str, script: &str, arguments: &[&str]) -> Self {
        let mut client = Command::new(program);
        client.arg(script).args(arguments).current_dir(libraries());
        let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(64);
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, stdin, lines }
    }

    /// Sends a line to the client's standard input.
    pub(crate) fn send(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// Waits for the next line.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("no event in time")
    }

    /// Waits for lines and fails on any difference.
    #[track_caller]
    pub(crate) fn expect(&self, lines: &[String]) {
        for expected in lines {
            assert_eq!(self.line(), *expected);
        }
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
