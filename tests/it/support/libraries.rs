//! The libraries of other projects, from npm and PyPI.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

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
