//! First bytes of a TLS client: in any pieces they fail or not, and what the server keeps of them is bounded.
#![no_main]

use std::process::Command;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tallycast_server::Tls;
use tallycast_server::fuzzing::TlsSession;

/// A server with a self-signed certificate.
static TLS: LazyLock<Tls> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("tallycast-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for temporary files");
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-subj", "/CN=localhost", "-out"])
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output()
        .expect("openssl must be installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let tls = Tls::read(&certificate, &key).expect("the certificate that openssl made");
    std::fs::remove_dir_all(&directory).expect("the directory is still there");
    tls
});

/// Whether the bytes of a client, in pieces of at most `cut` bytes, are those of a handshake.
fn is_handshake(bytes: &[u8], cut: usize) -> bool {
    let mut session = TlsSession::new(&TLS).expect("the certificate is valid");
    for piece in bytes.chunks(cut) {
        if session.receive(piece).is_err() {
            assert!(session.receive(b"more").is_err());
            return false;
        }
        assert!(session.kept_bytes() <= TlsSession::MAX_KEPT);
    }
    true
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    assert_eq!(is_handshake(bytes, usize::from(cut) + 1), is_handshake(bytes, usize::MAX));
});
