//! Links between the platform's own parts: TCP, and mutual TLS wherever hosts have certificates.
//!
//! Every host of a cluster that isn't local has a certificate of the cluster's authority for its
//! address. Who connects checks that it speaks with the address that it meant, who accepts that a host
//! of the cluster is calling: nobody else gets as far as a first byte. A process has one identity, that
//! of its host, so it is set once, at its start ([`install`]), and everything else asks [`links`].

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tracing::{debug, warn};

use crate::settings::HostTls;

/// How long a caller may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes that a listener has under way at once; further callers wait in the socket's queue.
const HANDSHAKES: usize = 256;
/// Connections that a tunnel, or what lies behind links, has at once.
const CONNECTIONS: usize = 512;

/// Why a host's certificates can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A file holds no PEM of the kind.
    #[error("the host's {what} is no PEM; `tls` in host.yaml names the files")]
    Pem {
        /// Which file.
        what: &'static str,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// They don't go together.
    #[error("the host's certificate, key and authority can't be used together")]
    Pair(#[from] rustls::Error),
    /// The authority is none.
    #[error("the cluster's authority can't be used")]
    Authority(#[from] VerifierBuilderError),
}

/// How this process links with others.
#[derive(Clone, Default)]
pub struct Links {
    tls: Option<Tls>,
}

#[derive(Clone)]
struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.tls.is_some() {
            "Links(TLS)"
        } else {
            "Links(plain)"
        })
    }
}

static LINKS: OnceLock<Links> = OnceLock::new();
static PLAIN: Links = Links { tls: None };

/// Sets this process's links; the first call counts.
pub fn install(links: Links) {
    let _ = LINKS.set(links);
}

/// This process's links: plain until [`install`] has said otherwise.
pub fn links() -> &'static Links {
    LINKS.get().unwrap_or(&PLAIN)
}

/// Plain links, for what is no part of the platform: apps' processes.
pub fn plain() -> &'static Links {
    &PLAIN
}

impl Links {
    /// Links that prove who they are by a host's certificate, or plain ones in a local cluster.
    ///
    /// # Errors
    /// When the certificates can't be used.
    pub fn new(tls: Option<&HostTls>) -> Result<Self, LinkError> {
        let Some(files) = tls else {
            return Ok(Self::default());
        };
        let pem = |what| move |source| LinkError::Pem { what, source };
        let chain = |bytes: &[u8], what| {
            CertificateDer::pem_slice_iter(bytes)
                .collect::<Result<Vec<_>, _>>()
                .map_err(pem(what))
        };
        let mut roots = RootCertStore::empty();
        for root in chain(&files.ca, "authority (tls.ca)")? {
            roots.add(root)?;
        }
        let roots = Arc::new(roots);
        let own = chain(&files.cert, "certificate (tls.cert)")?;
        let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(pem("key (tls.key)"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(own.clone(), key.clone_key())?;
        let callers =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(callers)
            .with_single_cert(own, key)?;
        let (client, server) = (Arc::new(client), Arc::new(server));
        Ok(Self {
            tls: Some(Tls { client, server }),
        })
    }

    /// Whether links are TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// `http` or `https`, for URLs of other parts.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Has an HTTP client prove itself to other parts, and trust no others.
    pub fn trusted_by(&self, client: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        match &self.tls {
            Some(tls) => client.tls_backend_preconfigured((*tls.client).clone()),
            None => client,
        }
    }

    /// Connects to another part, within `limit` in all.
    ///
    /// # Errors
    /// When nobody answers in time, or it isn't the host with that address.
    pub async fn connect(&self, address: SocketAddr, limit: Duration) -> io::Result<Link> {
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            self.secure(stream, address).await
        };
        match timeout(limit, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{address} doesn't answer within {} ms", limit.as_millis()),
            )),
        }
    }

    /// Makes a connection that was opened to `address` a link. The caller bounds the wait.
    ///
    /// # Errors
    /// When it isn't the host with that address.
    pub async fn secure(&self, stream: TcpStream, address: SocketAddr) -> io::Result<Link> {
        let Some(tls) = &self.tls else {
            return Ok(Link::Plain(stream));
        };
        let name = ServerName::IpAddress(address.ip().into());
        let connector = TlsConnector::from(Arc::clone(&tls.client));
        let stream = connector.connect(name, stream).await?;
        Ok(Link::Tls(Box::new(stream.into())))
    }

    /// A port of loopback that leads to the part at `there`.
    fn tunnel(&self, there: SocketAddr) -> io::Result<SocketAddr> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let here = listener.local_addr()?;
        let links = self.clone();
        tokio::spawn(async move {
            let slots = Arc::new(Semaphore::new(CONNECTIONS));
            while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
                let Ok((mut program, _)) = listener.accept().await else {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let links = links.clone();
                tokio::spawn(async move {
                    let passed = async {
                        program.set_nodelay(true)?;
                        let mut link = links.connect(there, HANDSHAKE).await?;
                        copy_bidirectional(&mut program, &mut link).await
                    };
                    if let Err(error) = passed.await {
                        debug!(%there, %error, "a connection through a tunnel ended");
                    }
                    drop(slot);
                });
            }
        });
        Ok(here)
    }

    /// Listens for other parts.
    #[must_use]
    pub fn listen(&self, listener: TcpListener) -> LinkListener {
        LinkListener {
            listener,
            tls: self.tls.as_ref().map(|tls| Arc::clone(&tls.server)),
            handshakes: JoinSet::new(),
        }
    }
}

/// Where the part at `address` (`ip:port`) can be spoken to in clear from this host alone: for programs
/// and libraries that can't prove who they are by a certificate. Where links are TLS, that is a port of
/// loopback which passes each connection on in a link; elsewhere it is the address itself.
///
/// Must be called within a runtime.
#[must_use]
pub fn in_clear(address: &str) -> String {
    type Tunnels = Mutex<HashMap<SocketAddr, SocketAddr>>;
    static TUNNELS: OnceLock<Tunnels> = OnceLock::new();
    let there = match address.parse::<SocketAddr>() {
        Ok(there) if links().is_tls() && !there.ip().is_loopback() => there,
        // What stays on this host is no link, and what is no address can't be reached anyway.
        Ok(_) | Err(_) => return address.to_owned(),
    };
    let mut tunnels = TUNNELS
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let here = match tunnels.get(&there) {
        Some(here) => Ok(*here),
        None => links().tunnel(there),
    };
    match here {
        Ok(here) => {
            tunnels.insert(there, here);
            here.to_string()
        }
        Err(error) => {
            warn!(address, %error, "no port of loopback to reach it by");
            address.to_owned()
        }
    }
}

/// Passes what comes to a part by its link on to a program of this host that listens on loopback, until
/// the listener fails for good: how a program that can't ask for certificates is put behind them.
pub async fn pass_on(mut listener: LinkListener, to: SocketAddr) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let (mut link, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "connection not accepted");
                // Out of file descriptors: one that is freed is worth the wait.
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        tokio::spawn(async move {
            let passed = async {
                let mut program = TcpStream::connect(to).await?;
                program.set_nodelay(true)?;
                copy_bidirectional(&mut link, &mut program).await
            };
            if let Err(error) = passed.await {
                debug!(%peer, %to, %error, "a connection that was passed on ended");
            }
            drop(slot);
        });
    }
}

/// One connection with another part.
#[derive(Debug)]
pub enum Link {
    /// In a local cluster.
    Plain(TcpStream),
    /// Between hosts that have proven who they are.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Link {
    /// The connection below.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A port at which other parts call.
#[derive(Debug)]
pub struct LinkListener {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    handshakes: JoinSet<io::Result<(Link, SocketAddr)>>,
}

impl LinkListener {
    /// The next caller that has proven who it is. Others are dropped; nobody waits for them. Cancel
    /// safe.
    ///
    /// # Errors
    /// When the port takes no connection, as [`TcpListener::accept`] says.
    pub async fn accept(&mut self) -> io::Result<(Link, SocketAddr)> {
        loop {
            tokio::select! {
                biased;
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Ok(link)) => return Ok(link),
                    Ok(Err(error)) => debug!(%error, "a caller was refused"),
                    Err(error) => debug!(%error, "a handshake broke off"),
                },
                accepted = self.listener.accept(), if self.handshakes.len() < HANDSHAKES => {
                    let (stream, peer) = accepted?;
                    stream.set_nodelay(true)?;
                    let Some(tls) = &self.tls else {
                        return Ok((Link::Plain(stream), peer));
                    };
                    let acceptor = TlsAcceptor::from(Arc::clone(tls));
                    self.handshakes.spawn(async move {
                        match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                            Ok(stream) => Ok((Link::Tls(Box::new(stream?.into())), peer)),
                            Err(_) => Err(io::ErrorKind::TimedOut.into()),
                        }
                    });
                }
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the kernel doesn't say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl axum::serve::Listener for LinkListener {
    type Io = Link;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match Self::accept(self).await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    debug!(%error, "connection not accepted");
                    // Out of file descriptors: one that is freed is worth the wait.
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Self::local_addr(self)
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
