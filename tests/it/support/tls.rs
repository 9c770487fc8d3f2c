//! TLS clients: rustls on a socket that a test can read and write past it, and `openssl s_client`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use socket2::{Domain, Socket, Type};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{Certificate, LIMIT, Tallycast};

impl Certificate {
    /// A client that trusts only this certificate.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.certificate()).unwrap()).unwrap();
        Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
    }
}

/// A TLS connection, without HTTP/2.
pub(crate) struct TlsClient(pub(crate) StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    /// Connects with a receive buffer of `buffer` bytes, sends `request`, and reads nothing of the response.
    pub(crate) fn request(tallycast: &Tallycast, certificate: &Certificate, buffer: usize, request: &str) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(buffer).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.set_write_timeout(Some(LIMIT)).unwrap();
        socket.connect(&tallycast.address.into()).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(certificate.client(), name).unwrap();
        let mut client = Self(StreamOwned::new(session, socket.into()));
        client.0.write_all(request.as_bytes()).unwrap();
        client
    }

    /// Opens a stream and reads its headers and first comment.
    pub(crate) fn subscribe(tallycast: &Tallycast, certificate: &Certificate, path: &str) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let mut client = Self::request(tallycast, certificate, 64 * 1024, &request);
        client.read_until("\r\n\r\nd\r\n: tallycast\n\n\r\n");
        client
    }

    /// Reads until the bytes end with `end`.
    #[track_caller]
    pub(crate) fn read_until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            let mut byte = [0];
            let count = self.0.read(&mut byte);
            assert!(matches!(count, Ok(1)), "{count:?} after {:?}", String::from_utf8_lossy(&read));
            read.push(byte[0]);
        }
        String::from_utf8(read).unwrap()
    }

    /// Reads to the end, which fails without `close_notify`.
    pub(crate) fn read_to_end(&mut self) -> std::io::Result<String> {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).map(|_| rest)
    }
}

/// `openssl s_client`, ended on drop.
pub(crate) struct OpenSsl {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    errors: Option<ChildStderr>,
}

impl OpenSsl {
    pub(crate) fn connect(tallycast: &Tallycast, flags: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_client", "-servername", "localhost", "-connect", &tallycast.address.to_string()])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl must be installed");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let errors = child.stderr.take();
        Self { child, input, output, errors }
    }

    pub(crate) fn send(&mut self, text: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Reads lines up to one that is `line`, and returns all before it.
    #[track_caller]
    pub(crate) fn read_until(&mut self, line: &str) -> String {
        let mut before = String::new();
        loop {
            let start = before.len();
            assert!(self.output.read_line(&mut before).unwrap() > 0, "no {line:?} in {before:?}");
            if before[start..].trim_end() == line {
                before.truncate(start);
                return before;
            }
        }
    }

    /// Waits until the program ends. Returns the rest of its output, and what it says of errors.
    pub(crate) fn finish(&mut self) -> (String, String) {
        let (mut output, mut errors) = (String::new(), String::new());
        self.output.read_to_string(&mut output).unwrap();
        self.errors.take().unwrap().read_to_string(&mut errors).unwrap();
        self.child.wait().unwrap();
        (output, errors)
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
