//! Keys, tokens made by libraries that are not ours, and requests with them.

use std::path::PathBuf;
use std::process::Command;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::libraries::{NODE, PYTHON, ask_script};
use super::{LIMIT, Raw, Tallycast, TempDir, block_on, command, run};

/// A secret for HS256, HS384 and HS512.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A library that signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    /// PyPI's PyJWT.
    PyJwt,
    /// npm's jose.
    Jose,
}

impl Library {
    /// The answers of the library's script: a token for each description.
    pub(crate) fn ask(self, wanted: &Value) -> Vec<Value> {
        let (program, script) = match self {
            Self::PyJwt => (PYTHON, "tokens.py"),
            Self::Jose => (NODE, "tokens.mjs"),
        };
        ask_script(program, script, wanted)
    }

    /// Signs claims.
    pub(crate) fn sign(self, algorithm: &str, key: &str, claims: Value) -> String {
        self.ask(&json!([{"alg": algorithm, "key": key, "claims": claims}]))[0].as_str().unwrap().to_owned()
    }
}

/// Key pairs in PEM, made by openssl.
pub(crate) struct Keys {
    directory: TempDir,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let keys = Self { directory: TempDir::new() };
        keys.make("rsa", &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
        keys.make("p256", &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        keys.make("p384", &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
        keys.make("ed25519", &["ED25519"]);
        keys
    }

    /// Makes `name.pem` and `name.pub`.
    pub(crate) fn make(&self, name: &str, kind: &[&str]) {
        let openssl = |arguments: &[&str]| {
            let output = Command::new("openssl").args(arguments).current_dir(self.directory.path()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let (private, public) = (format!("{name}.pem"), format!("{name}.pub"));
        openssl(&[&["genpkey", "-out", &private, "-algorithm"], kind].concat());
        openssl(&["pkey", "-in", &private, "-pubout", "-out", &public]);
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub(crate) fn private(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.pem"))).unwrap()
    }

    pub(crate) fn public(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap()
    }

    /// The value of `--token-key` with a public key.
    pub(crate) fn option(&self, algorithms: &str, name: &str) -> String {
        format!("{algorithms}=@{}", self.path(&format!("{name}.pub")).display())
    }
}

/// A token of `tallycast token` by [`SECRET`].
#[track_caller]
pub(crate) fn token(flags: &[&str]) -> String {
    let output = run(command().args(["token", "--key", &format!("HS256={SECRET}")]).args(flags));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Requests a stream with a token, unless it is empty. Returns the status, and of a refusal its line and its challenge.
pub(crate) fn read(tallycast: &Tallycast, path: &str, token: &str) -> (u16, String, String) {
    let authorization = if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
    let mut raw = Raw::connect(tallycast);
    raw.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{authorization}\r\n"));
    let head = raw.head();
    let status = head["HTTP/1.1 ".len()..][..3].parse().unwrap();
    if status == 200 {
        return (200, String::new(), String::new());
    }
    let challenge = head.lines().find_map(|line| line.strip_prefix("www-authenticate: ")).unwrap_or_default();
    (status, raw.read_to_end().trim_end().to_owned(), challenge.to_owned())
}

/// The response to a POST.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn line(&self) -> (u16, &str) {
        (self.status, self.body.trim_end_matches('\n'))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends a POST.
pub(crate) fn post(tallycast: &Tallycast, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    block_on(async {
        let client = reqwest::Client::builder().timeout(LIMIT).pool_max_idle_per_host(0).build().unwrap();
        let request = client.post(tallycast.url(path)).body(body.to_owned());
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.text().await.unwrap() }
    })
}
