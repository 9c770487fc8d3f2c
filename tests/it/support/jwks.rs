//! An issuer's HTTPS server with a JWK set, which can hang and die.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{Certificate, block_on};

/// A server that answers every request with the same text; ended on drop.
pub(crate) struct JwksServer {
    pub(crate) address: SocketAddr,
    /// `None`: it never answers.
    answer: Arc<Mutex<Option<String>>>,
    requests: Arc<AtomicUsize>,
    _owner: oneshot::Sender<()>,
}

impl JwksServer {
    pub(crate) fn start(certificate: &Certificate, answer: &str) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), certificate, answer)
    }

    pub(crate) fn start_at(address: SocketAddr, certificate: &Certificate, answer: &str) -> Self {
        let chain = vec![CertificateDer::from_pem_file(certificate.certificate()).unwrap()];
        let key = PrivateKeyDer::from_pem_file(certificate.key()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(Some(answer.to_owned())));
        let requests = Arc::<AtomicUsize>::default();
        let (owner, owner_gone) = oneshot::channel();
        let (shared, count) = (Arc::clone(&answer), Arc::clone(&requests));
        std::thread::spawn(move || {
            block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let serve = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let (acceptor, shared, count) = (acceptor.clone(), Arc::clone(&shared), Arc::clone(&count));
                        tokio::spawn(async move {
                            let Ok(mut stream) = acceptor.accept(stream).await else { return };
                            let mut request = Vec::new();
                            while !request.ends_with(b"\r\n\r\n") {
                                let Ok(byte) = stream.read_u8().await else { return };
                                request.push(byte);
                            }
                            count.fetch_add(1, Ordering::Relaxed);
                            let answer = shared.lock().unwrap().clone();
                            let Some(body) = answer else { return std::future::pending().await };
                            let length = body.len();
                            let text = format!(
                                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                            );
                            let _ = stream.write_all(text.as_bytes()).await;
                            let _ = stream.shutdown().await;
                        });
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = owner_gone => {}
                }
            });
        });
        Self { address, answer, requests, _owner: owner }
    }

    /// Answers with another text from now on; `None` for never.
    pub(crate) fn answer(&self, answer: Option<&str>) {
        *self.answer.lock().unwrap() = answer.map(str::to_owned);
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}/jwks", self.address.port())
    }
}
