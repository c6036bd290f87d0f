//! A client of HTTP/1.1 and of tunnels, in clear or over TLS, that tells everything that goes wrong.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// So long a request may take, whatever it is.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One connection to a router.
pub struct Connection {
    stream: BufStream<Box<dyn Stream>>,
    /// The newest release that has answered on it.
    newest: u32,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its whole body.
    pub body: Vec<u8>,
    /// The release that it came from is older than one that had answered on this connection.
    pub went_back: bool,
}

impl Connection {
    /// Opens one, over TLS if there is a connector.
    pub async fn open(router: SocketAddr, tls: Option<(&Tls, &str)>) -> Result<Self, String> {
        let opening = async {
            let tcp = TcpStream::connect(router).await;
            let tcp = tcp.map_err(|error| format!("connect: {error}"))?;
            tcp.set_nodelay(true).map_err(|error| error.to_string())?;
            let stream: Box<dyn Stream> = match tls {
                None => Box::new(tcp),
                Some((tls, host)) => Box::new(tls.handshake(tcp, host).await?),
            };
            Ok(Self {
                stream: BufStream::new(stream),
                newest: 0,
            })
        };
        within(opening).await
    }

    /// One GET and its answer, which has to be a 200 of the app.
    pub async fn get(&mut self, host: &str, path: &str) -> Result<Answer, String> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let body = within(async {
            self.send(request.as_bytes()).await?;
            let head = self.head().await?;
            let (status, length) = parse(&head)?;
            let mut body = vec![0; length];
            let read = self.stream.read_exact(&mut body).await;
            read.map_err(|error| format!("body: {error}"))?;
            if status != 200 {
                let text = String::from_utf8_lossy(&body).into_owned();
                return Err(format!("{status}: {text}"));
            }
            Ok(body)
        })
        .await?;
        let release = release_of(&body);
        let went_back = release.is_some_and(|release| release < self.newest);
        self.newest = self.newest.max(release.unwrap_or(0));
        Ok(Answer { body, went_back })
    }

    /// Becomes a tunnel.
    pub async fn upgrade(&mut self, host: &str) -> Result<(), String> {
        let request = format!(
            "GET /tunnel HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        within(async {
            self.send(request.as_bytes()).await?;
            let head = self.head().await?;
            if head.starts_with("HTTP/1.1 101 ") {
                return Ok(());
            }
            Err(format!("no tunnel: {}", first_line(&head)))
        })
        .await
    }

    /// Sends bytes through the tunnel, which have to come back.
    pub async fn echo(&mut self, bytes: &[u8]) -> Result<(), String> {
        within(async {
            self.send(bytes).await?;
            let mut back = vec![0; bytes.len()];
            let read = self.stream.read_exact(&mut back).await;
            read.map_err(|error| format!("echo: {error}"))?;
            if back == bytes {
                return Ok(());
            }
            Err("another echo than what was sent".to_owned())
        })
        .await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| format!("send: {error}"))
    }

    async fn head(&mut self) -> Result<String, String> {
        let mut head = String::with_capacity(256);
        loop {
            let before = head.len();
            let read = self.stream.read_line(&mut head).await;
            let read = read.map_err(|error| format!("head: {error} after {head:?}"))?;
            if read == 0 {
                return Err(format!("head: closed after {head:?}"));
            }
            if &head[before..] == "\r\n" {
                return Ok(head);
            }
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let done = timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
}

fn first_line(head: &str) -> &str {
    head.lines().next().unwrap_or_default()
}

/// Status, and length of the body.
fn parse(head: &str) -> Result<(u16, usize), String> {
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| format!("no status in {:?}", first_line(head)))?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().ok())?
    });
    Ok((status, length.unwrap_or(0)))
}

/// The release that a body of the app tells.
fn release_of(body: &[u8]) -> Option<u32> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    body.get("release")?.as_u64()?.try_into().ok()
}

/// TLS that takes the routers' own certificates as they are.
#[derive(Clone)]
pub struct Tls(TlsConnector);

impl Tls {
    pub fn new() -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anything(provider)))
            .with_no_client_auth();
        Self(TlsConnector::from(Arc::new(config)))
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        host: &str,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let done = self.0.connect(name, tcp).await;
        done.map_err(|error| format!("TLS: {error}"))
    }
}

/// Their certificates are self-signed; who they are is not what is measured.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
