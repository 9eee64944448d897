//! Connections: as many as are allowed and no more, none that stays silent, with TLS where there
//! is a certificate, and an end that lets running requests finish.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{Router, extract::connect_info::Connected};
use axum_server::{
    AddrListener, Address, Handle, Server,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use hyper_util::rt::TokioTimer;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};

/// From the connection's beginning, or the previous response, until the head of a request is read.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection on which nothing moves for this long is closed. Longer than a request may take.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// What running requests are given when the daemon stops, which has 5 seconds in all.
const GRACE: Duration = Duration::from_secs(2);

/// The certificate that is in force. Clones share it.
#[derive(Clone, Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: RustlsConfig,
}

impl Tls {
    /// Reads a certificate chain and its private key from PEM files.
    ///
    /// # Errors
    /// When a file cannot be read, holds none, or the two do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self> {
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            config: RustlsConfig::from_config(server_config(certificate, key)?),
        })
    }

    /// Reads the files again. New connections get what they hold; running ones keep what they have.
    ///
    /// # Errors
    /// As [`Self::load`]; what was in force stays.
    pub fn reload(&self) -> Result<()> {
        let config = server_config(&self.certificate, &self.key)?;
        self.config.reload_from_config(config);
        Ok(())
    }
}

fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("reading the TLS certificate {}", certificate.display()))?;
    if chain.is_empty() {
        anyhow::bail!(
            "{} holds no certificate; it has to be PEM, the server's certificate first",
            certificate.display()
        );
    }
    let secret = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("reading the TLS key {}", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("setting up TLS")?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .with_context(|| {
            format!(
                "the TLS certificate {} and the key {}",
                certificate.display(),
                key.display()
            )
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves the router on the listener until `shutdown` is done; then takes no more connections,
/// gives running requests 2 seconds, and closes what is left.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(
    listener: std::net::TcpListener,
    router: Router,
    tls: Option<Tls>,
    max_connections: usize,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    listener
        .set_nonblocking(true)
        .context("setting up the API's listener")?;
    let listener = Bounded {
        listener: TcpListener::from_std(listener).context("setting up the API's listener")?,
        permits: Arc::new(Semaphore::new(max_connections)),
    };
    let handle = Handle::new();
    let stopper = handle.clone();
    let stop = tokio::spawn(async move {
        shutdown.await;
        stopper.graceful_shutdown(Some(GRACE));
    });
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let mut server = Server::<Peer>::from_listener(listener).handle(handle);
    let builder = server.http_builder();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let served = match tls {
        Some(tls) => {
            let acceptor = RustlsAcceptor::new(tls.config).handshake_timeout(HEAD_TIMEOUT);
            server.acceptor(acceptor).serve(service).await
        }
        None => server.serve(service).await,
    };
    stop.abort();
    served.context("serving the API")
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
struct Peer(SocketAddr);

impl Connected<Peer> for SocketAddr {
    fn connect_info(peer: Peer) -> Self {
        peer.0
    }
}

impl Address for Peer {
    type Stream = Connection;
    type Listener = Bounded;
}

/// A listener that takes a connection only when one of so many places is free; the kernel keeps
/// the others waiting.
struct Bounded {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl AddrListener<Connection, Peer> for Bounded {
    async fn bind_to(peer: Peer) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(peer.0).await?,
            permits: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        })
    }

    async fn accept_stream(&self) -> io::Result<(Connection, Peer)> {
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = self.listener.accept().await?;
        // A response goes out in one piece anyway; the last part of a stream should not wait.
        stream.set_nodelay(true)?;
        Ok((Connection::new(stream, permit), Peer(peer)))
    }

    fn get_local_addr(&self) -> io::Result<Peer> {
        self.listener.local_addr().map(Peer)
    }
}

/// A connection that takes a place for as long as it lives, and ends when nothing moves on it.
struct Connection {
    stream: TcpStream,
    /// When it is over, unless something moves before.
    end: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            // Whoever has said nothing yet gets less time.
            end: Box::pin(tokio::time::sleep(HEAD_TIMEOUT)),
            _permit: permit,
        }
    }

    /// Something moved, or nothing did and the time may be over.
    fn watched<T>(
        &mut self,
        context: &mut TaskContext<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.end.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
            return polled;
        }
        ready!(self.end.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watched(context, polled)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watched(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
