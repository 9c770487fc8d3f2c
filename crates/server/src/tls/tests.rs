//! Both ends of TLS in memory: the other one is rustls with buffers of its own.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use proptest::collection::vec;
use proptest::prelude::*;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::session::{MAX_PLAINTEXT, MAX_RECORDS, Session};
use super::{HandshakeError, Tls, TlsStream};

/// The server of all tests.
static SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("tallycast-tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let paths: [PathBuf; 2] = ["cert.pem", "key.pem"].map(|name| directory.join(name));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-subj", "/CN=localhost", "-days", "2", "-out"])
        .arg(&paths[0])
        .arg("-keyout")
        .arg(&paths[1])
        .output()
        .expect("openssl must be installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let tls = Tls::read(&paths[0], &paths[1]).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    tls.0
});

/// A client that trusts every server.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn client_config(tls12: bool) -> Arc<ClientConfig> {
    let versions = if tls12 { [&TLS12] } else { [&TLS13] };
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    Arc::new(config)
}

/// The bytes between both ends, and how many of them the server's socket takes or gives with each call: none is "not now".
#[derive(Debug, Default)]
struct Wire {
    to_server: VecDeque<u8>,
    from_server: Vec<u8>,
    sizes: Vec<usize>,
    calls: usize,
    is_closed: bool,
}

impl Wire {
    fn next_size(&mut self) -> usize {
        self.calls += 1;
        // In no order that reads and writes in turn could share.
        let mixed = (self.calls as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        self.sizes[usize::try_from(mixed).unwrap() % self.sizes.len()]
    }
}

/// The server's socket.
#[derive(Debug, Clone)]
struct TestSocket(Arc<Mutex<Wire>>);

impl TestSocket {
    fn new(sizes: Vec<usize>) -> Self {
        Self(Arc::new(Mutex::new(Wire { sizes, ..Wire::default() })))
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.0.lock().unwrap()
    }
}

impl AsyncRead for TestSocket {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire();
        let count = wire.next_size().min(buffer.remaining()).min(wire.to_server.len());
        if count == 0 {
            return Poll::Pending;
        }
        wire.to_server.drain(..count).for_each(|byte| buffer.put_slice(&[byte]));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TestSocket {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut wire = self.wire();
        let count = wire.next_size().min(bytes.len());
        if count == 0 {
            return Poll::Pending;
        }
        wire.from_server.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire().is_closed = true;
        Poll::Ready(Ok(()))
    }
}

/// The client, and what it has received.
struct Client {
    session: ClientConnection,
    received: Vec<u8>,
    is_server_closed: bool,
}

impl Client {
    fn new(config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(Arc::clone(config), name).unwrap();
        Self { session, received: Vec::new(), is_server_closed: false }
    }

    /// Exchanges with the wire what there is.
    fn exchange(&mut self, socket: &TestSocket) {
        let from_server = std::mem::take(&mut socket.wire().from_server);
        let mut rest = &from_server[..];
        while !rest.is_empty() {
            self.session.read_tls(&mut rest).unwrap();
            let state = self.session.process_new_packets().unwrap();
            self.is_server_closed |= state.peer_has_closed();
            let mut plaintext = vec![0; state.plaintext_bytes_to_read()];
            self.session.reader().read_exact(&mut plaintext).unwrap();
            self.received.append(&mut plaintext);
        }
        while self.session.wants_write() {
            let mut bytes = Vec::new();
            self.session.write_tls(&mut bytes).unwrap();
            socket.wire().to_server.extend(bytes);
        }
    }
}

/// Polls more often than any test needs.
const MANY: usize = 200_000;

fn shake_hands(client: &mut Client, socket: &TestSocket) -> TlsStream<TestSocket> {
    let mut context = Context::from_waker(Waker::noop());
    let mut accept = pin!(TlsStream::accept(socket.clone(), Arc::clone(&SERVER)));
    for _ in 0..MANY {
        client.exchange(socket);
        if let Poll::Ready(accepted) = accept.as_mut().poll(&mut context) {
            return accepted.map_err(|HandshakeError { error, .. }| error).unwrap();
        }
    }
    panic!("the handshake does not end");
}

/// `length` bytes that differ from each other.
fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|index| (index / 7) as u8 ^ (index as u8).wrapping_mul(31) ^ seed).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_split_gives_the_same_plaintext(
        tls12: bool,
        (from_client, from_server) in (0..50_000_usize, 0..50_000_usize),
        client_writes in vec(1..20_000_usize, 1..8),
        writes in vec(vec(0..9_000_usize, 1..6), 1..8),
        reads in vec(1..20_000_usize, 1..8),
        // At least one makes progress.
        sizes in vec(prop_oneof![Just(0), 1..40_usize, 1..40_000_usize], 1..12)
            .prop_map(|mut sizes| { sizes.push(17); sizes }),
        key_updates in vec(any::<bool>(), 8),
    ) {
        let socket = TestSocket::new(sizes);
        let mut client = Client::new(&client_config(tls12));
        let mut stream = shake_hands(&mut client, &socket);
        let mut context = Context::from_waker(Waker::noop());
        let (request, response) = (bytes(from_client, 1), bytes(from_server, 2));
        let (mut requested, mut responded, mut received) = (0, 0, Vec::new());
        let mut buffer = vec![0; 20_000];
        for round in 0.. {
            prop_assert!(round < MANY, "no progress");
            if requested < request.len() {
                if round % 5 == 0 && !tls12 && key_updates[round / 5 % key_updates.len()] && !client.session.is_handshaking() && round < 100 {
                    client.session.refresh_traffic_keys().unwrap();
                }
                let end = request.len().min(requested + client_writes[round % client_writes.len()]);
                requested += client.session.writer().write(&request[requested..end]).unwrap();
            }
            client.exchange(&socket);
            if responded < response.len() {
                let mut rest = &response[responded..];
                let slices: Vec<IoSlice<'_>> = writes[round % writes.len()].iter().map(|length| {
                    let (slice, after) = rest.split_at(rest.len().min(*length));
                    rest = after;
                    IoSlice::new(slice)
                }).collect();
                if let Poll::Ready(written) = Pin::new(&mut stream).poll_write_vectored(&mut context, &slices) {
                    responded += written.unwrap();
                }
                prop_assert!(stream.session.outgoing.len() < MAX_PLAINTEXT + 4096);
            }
            let mut buffer = ReadBuf::new(&mut buffer[..reads[round % reads.len()]]);
            if let Poll::Ready(read) = Pin::new(&mut stream).poll_read(&mut context, &mut buffer) {
                read.unwrap();
                prop_assert!(!buffer.filled().is_empty(), "the stream has ended");
                received.extend_from_slice(buffer.filled());
            }
            if responded == response.len() && received.len() == request.len()
                && Pin::new(&mut stream).poll_flush(&mut context).is_ready() {
                break;
            }
        }
        client.exchange(&socket);
        prop_assert!(received == request);
        prop_assert!(client.received == response);
        prop_assert!(!client.is_server_closed);
        prop_assert_eq!(stream.session.kept_bytes(), 0, "an idle stream holds buffers");

        while Pin::new(&mut stream).poll_shutdown(&mut context).is_pending() {}
        client.exchange(&socket);
        prop_assert!(client.is_server_closed && socket.wire().is_closed);
        client.session.send_close_notify();
        client.exchange(&socket);
        let mut buffer = [0; 16];
        let mut buffer = ReadBuf::new(&mut buffer);
        while Pin::new(&mut stream).poll_read(&mut context, &mut buffer).is_pending() {}
        prop_assert!(buffer.filled().is_empty());
    }

    #[test]
    fn bytes_that_are_not_tls_fail_within_bounds(
        received in vec(vec(any::<u8>(), 1..3000), 1..40),
        header in prop_oneof![Just(&[][..]), Just(&[22, 3, 1, 0x40, 0][..]), Just(&[22, 3, 1, 0, 1, 1][..]), Just(&[23, 3, 3, 0, 1][..])],
    ) {
        let mut session = Session::new(Arc::clone(&SERVER)).unwrap();
        let mut buffer = vec![0; MAX_RECORDS];
        for bytes in received {
            let bytes = [header, &bytes].concat();
            let Ok(room) = session.room() else { return Ok(()) };
            let end = room.end.min(room.start + bytes.len());
            buffer[room.start..end].copy_from_slice(&bytes[..end - room.start]);
            if session.receive(&mut buffer[..end]).is_err() {
                prop_assert!(session.receive(&mut []).is_err());
                prop_assert!(session.encrypt(b"x", &mut Vec::new()).is_err());
                prop_assert!(session.outgoing.len() < 64, "more than an alert");
                return Ok(());
            }
            prop_assert!(session.is_handshaking() && session.kept_bytes() <= MAX_RECORDS);
        }
    }
}

proptest! {
    #[test]
    fn altered_client_hello_is_answered_or_fails_within_bounds(
        tls12: bool,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        appended in vec(any::<u8>(), 0..300),
    ) {
        let mut client = Client::new(&client_config(tls12));
        let mut hello = Vec::new();
        client.session.write_tls(&mut hello).unwrap();
        for (index, byte) in changes {
            let index = index.index(hello.len());
            hello[index] = byte;
        }
        hello.extend(appended);
        let mut session = Session::new(Arc::clone(&SERVER)).unwrap();
        let mut buffer = vec![0; MAX_RECORDS];
        buffer[..hello.len()].copy_from_slice(&hello);
        let received = session.receive(&mut buffer[..hello.len()]);
        prop_assert!(session.is_handshaking() && session.kept_bytes() < MAX_RECORDS);
        if received.is_err() {
            prop_assert!(session.receive(&mut []).is_err());
        }
    }
}

/// What the socket takes is 0 from now on.
fn block(socket: &TestSocket) {
    socket.wire().sizes = vec![0];
}

#[test]
fn blocked_stream_takes_one_record_and_no_more() {
    let socket = TestSocket::new(vec![usize::MAX]);
    let mut client = Client::new(&client_config(false));
    let mut stream = shake_hands(&mut client, &socket);
    let mut context = Context::from_waker(Waker::noop());
    block(&socket);
    let response = bytes(100_000, 3);
    let mut write = |stream: &mut TlsStream<TestSocket>, bytes: &[u8]| Pin::new(stream).poll_write(&mut context, bytes);
    assert!(matches!(write(&mut stream, &response), Poll::Ready(Ok(MAX_PLAINTEXT))));
    assert!(write(&mut stream, &response[MAX_PLAINTEXT..]).is_pending());
    socket.wire().sizes = vec![1000];
    assert!(matches!(write(&mut stream, &response[MAX_PLAINTEXT..]), Poll::Ready(Ok(MAX_PLAINTEXT))));
    client.exchange(&socket);
    assert!(client.received == response[..2 * MAX_PLAINTEXT]);
    assert_eq!(stream.session.kept_bytes(), 0);
}

#[test]
fn messages_that_wait_share_a_record() {
    let socket = TestSocket::new(vec![usize::MAX]);
    let mut client = Client::new(&client_config(false));
    let mut stream = shake_hands(&mut client, &socket);
    client.exchange(&socket);
    let mut context = Context::from_waker(Waker::noop());
    let messages = ["data:1\n\n", "", "data:2\n\n", "data:3\n\n"].map(|text| IoSlice::new(text.as_bytes()));
    let calls = socket.wire().calls;
    assert!(matches!(Pin::new(&mut stream).poll_write_vectored(&mut context, &messages), Poll::Ready(Ok(24))));
    assert_eq!(socket.wire().calls - calls, 1);
    // Header, content type and tag are there once (RFC 8446, §5.2).
    assert_eq!(socket.wire().from_server.len(), 24 + 5 + 1 + 16);
    client.exchange(&socket);
    assert_eq!(client.received, b"data:1\n\ndata:2\n\ndata:3\n\n");
}

#[test]
fn sessions_are_resumed_without_memory_for_them() {
    let handshake = |config: &Arc<ClientConfig>| {
        let socket = TestSocket::new(vec![usize::MAX]);
        let mut client = Client::new(config);
        let _stream = shake_hands(&mut client, &socket);
        client.exchange(&socket);
        client.session.handshake_kind()
    };
    for tls12 in [true, false] {
        let config = client_config(tls12);
        assert_eq!(handshake(&config), Some(HandshakeKind::Full));
        // More than rustls would keep.
        for _ in 0..300 {
            handshake(&client_config(tls12));
        }
        assert_eq!(handshake(&config), Some(HandshakeKind::Resumed), "TLS 1.2: {tls12}");
    }
}

#[test]
fn message_in_endless_pieces_is_refused() {
    let mut session = Session::new(Arc::clone(&SERVER)).unwrap();
    let mut buffer = vec![0; MAX_RECORDS];
    // A ClientHello of 60,000 bytes, one in each record.
    let mut message = vec![1, 0, 0xEA, 0x60].into_iter().chain(std::iter::repeat(0));
    loop {
        let Ok(room) = session.room() else { return };
        assert!(room.end <= MAX_RECORDS);
        let record = [22, 3, 1, 0, 1, message.next().unwrap()];
        let end = room.end.min(room.start + record.len());
        buffer[room.start..end].copy_from_slice(&record[..end - room.start]);
        if session.receive(&mut buffer[..end]).is_err() {
            return;
        }
    }
}

#[test]
fn handshake_that_fails_returns_an_alert() {
    let socket = TestSocket::new(vec![usize::MAX]);
    // A ClientHello of one byte.
    socket.wire().to_server.extend([22, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    let mut context = Context::from_waker(Waker::noop());
    let mut accept = pin!(TlsStream::accept(socket, Arc::clone(&SERVER)));
    let Poll::Ready(Err(HandshakeError { answer, .. })) = accept.as_mut().poll(&mut context) else {
        panic!("the handshake goes on");
    };
    // An alert of level fatal (RFC 8446, §6).
    assert_eq!((answer.len(), answer[0], answer[5]), (7, 21, 2));
}
