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

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Shutdown, TcpStream},
        sync::atomic::{AtomicBool, Ordering},
        time::Instant,
    };

    use axum::{
        body::{Body, Bytes},
        extract::ConnectInfo,
        routing::{get, post},
    };
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
    use tokio::sync::oneshot;

    use super::*;

    /// How long a test waits for what should come at once.
    const SOON: Duration = Duration::from_secs(10);

    struct Server {
        address: SocketAddr,
        stop: Option<oneshot::Sender<()>>,
        running: tokio::task::JoinHandle<Result<()>>,
    }

    impl Server {
        fn start(router: Router, tls: Option<Tls>, max_connections: usize) -> Self {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let (stop, stopped) = oneshot::channel::<()>();
            let stopped = async move {
                let _ = stopped.await;
            };
            let running = tokio::spawn(serve(listener, router, tls, max_connections, stopped));
            Self {
                address,
                stop: Some(stop),
                running,
            }
        }

        fn connect(&self) -> TcpStream {
            let stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream
        }

        fn ask(&self, path: &str) -> TcpStream {
            let mut stream = self.connect();
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            // In one piece: who is not spoken to in TLS hangs up on the first.
            stream.write_all(request.as_bytes()).unwrap();
            stream
        }

        fn stop(&mut self) -> Instant {
            self.stop.take().unwrap().send(()).unwrap();
            Instant::now()
        }
    }

    /// What comes until the other side closes, or is silent for too long.
    fn rest(mut stream: impl Read) -> String {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The head of a response and what came along with it.
    fn head(stream: &mut TcpStream) -> String {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    fn routes() -> Router {
        Router::new()
            .route("/", get(|| async { "here" }))
            .route(
                "/peer",
                get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
            )
            .route(
                "/second",
                get(|| async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    "done"
                }),
            )
            .route("/never", get(std::future::pending::<()>))
            .route(
                "/stream",
                get(|| async {
                    Body::from_stream(futures_util::stream::unfold((), |()| async {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        Some((Ok::<_, io::Error>(Bytes::from_static(b"x")), ()))
                    }))
                }),
            )
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_end_lets_running_requests_finish_and_takes_no_more() {
        let mut server = Server::start(routes(), None, 16);
        let mut idle = server.ask("/");
        assert!(head(&mut idle).contains("200 OK"));
        let running = server.ask("/second");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let stopped = server.stop();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(TcpStream::connect(server.address).is_err());
        let answer = rest(running);
        assert!(
            answer.contains("200 OK") && answer.ends_with("done"),
            "{answer}"
        );
        // What waits for nothing does not hold the end up.
        assert_eq!(rest(idle), "");
        server.running.await.unwrap().unwrap();
        assert!(stopped.elapsed() < GRACE, "{:?}", stopped.elapsed());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_end_waits_two_seconds_and_no_longer() {
        let mut server = Server::start(routes(), None, 16);
        let streams = [
            server.ask("/never"),
            server.ask("/stream"),
            server.connect(),
        ];
        tokio::time::sleep(Duration::from_millis(200)).await;
        let stopped = server.stop();
        server.running.await.unwrap().unwrap();
        let took = stopped.elapsed();
        assert!(
            took >= GRACE && took < GRACE + Duration::from_secs(1),
            "{took:?}"
        );
        for stream in streams {
            rest(stream);
        }
        assert!(stopped.elapsed() < GRACE + Duration::from_secs(1));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn connections_beyond_the_bound_wait_for_a_place() {
        let server = Server::start(routes(), None, 2);
        let first = server.ask("/stream");
        let second = server.ask("/stream");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let third = server.ask("/peer");
        third
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let mut third = third;
        let error = third.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        first.shutdown(Shutdown::Both).unwrap();
        drop(first);
        third.set_read_timeout(Some(SOON)).unwrap();
        let answer = head(&mut third);
        assert!(answer.contains("200 OK"), "{answer}");
        let own = third.local_addr().unwrap().to_string();
        assert!(answer.ends_with(&own), "{answer}");
        drop(second);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_body_of_100_mb_is_refused_to_a_client_that_sends_it_all() {
        static READ: AtomicBool = AtomicBool::new(false);
        let state = crate::api::tests::state();
        let limit = state.settings.max_body;
        let router = crate::api::router(state);
        let router = router.route(
            "/probe",
            post(|_: Bytes| async { READ.store(true, Ordering::SeqCst) }),
        );
        let server = Server::start(router, None, 16);
        let mut stream = server.connect();
        let length = 100 * 1024 * 1024;
        write!(
            stream,
            "POST /api/ntp/interfaces/lo/start HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
        .unwrap();
        let chunk = vec![b' '; 65_536];
        let mut sent = 0;
        // As clients do: send until it is done or fails, then see what was answered.
        while sent < length && stream.write_all(&chunk).is_ok() {
            sent += chunk.len();
        }
        assert!(sent < length / 2, "{sent} of {length} were taken");
        let answer = rest(stream);
        assert!(answer.contains("413 Payload Too Large"), "{answer}");
        assert!(
            answer.contains(&format!("larger than {limit} bytes")),
            "{answer}"
        );
        assert!(!READ.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_connection_on_which_nothing_moves_ends() {
        // Real sockets, and time that is put forward.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let bounded = Bounded {
            listener: TcpListener::from_std(listener).unwrap(),
            permits: Arc::new(Semaphore::new(1)),
        };
        let Peer(address) = bounded.get_local_addr().unwrap();
        let mut other = TcpStream::connect(address).unwrap();
        let (mut connection, _) = bounded.accept_stream().await.unwrap();
        tokio::time::pause();
        let mut byte = [0];
        let begun = tokio::time::Instant::now();
        let read = tokio::io::AsyncReadExt::read(&mut connection, &mut byte).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= HEAD_TIMEOUT && begun.elapsed() < HEAD_TIMEOUT * 2);
        other.write_all(b"x").unwrap();
        tokio::time::resume();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let read = tokio::io::AsyncReadExt::read(&mut connection, &mut byte).await;
        assert_eq!(read.unwrap(), 1);
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        let read = tokio::io::AsyncReadExt::read(&mut connection, &mut byte).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= IDLE_TIMEOUT);
        // Its place is free again.
        drop(connection);
        assert_eq!(bounded.permits.available_permits(), 1);
    }

    /// A certificate for localhost in two files, and itself.
    fn certificate(folder: &Path) -> (PathBuf, PathBuf, CertificateDer<'static>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (certificate, key, made.cert.der().clone())
    }

    /// Asks over TLS, trusting one certificate alone.
    fn ask_over_tls(
        server: &Server,
        trusted: &CertificateDer<'static>,
        protocols: &[&[u8]],
    ) -> io::Result<(String, Option<Vec<u8>>)> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        let name = "localhost".try_into().unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = server.connect();
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        let protocol = connection.alpn_protocol().map(<[u8]>::to_vec);
        let mut stream = StreamOwned::new(connection, stream);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        Ok((rest(stream), protocol))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tls_is_served_and_its_certificate_is_replaced_while_running() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key, first) = certificate(folder.path());
        let tls = Tls::load(&path, &key).unwrap();
        let server = Server::start(routes(), Some(tls.clone()), 16);
        let (answer, protocol) = ask_over_tls(&server, &first, &[b"http/1.1"]).unwrap();
        assert!(
            answer.contains("200 OK") && answer.ends_with("here"),
            "{answer}"
        );
        assert_eq!(protocol.as_deref(), Some(&b"http/1.1"[..]));
        let (_, protocol) = ask_over_tls(&server, &first, &[b"h2", b"http/1.1"]).unwrap();
        assert_eq!(protocol.as_deref(), Some(&b"h2"[..]));

        // What cannot be used leaves what is in force.
        let old_key = std::fs::read(&key).unwrap();
        let (_, _, second) = certificate(folder.path());
        let new_key = std::fs::read(&key).unwrap();
        std::fs::write(&key, &old_key).unwrap();
        let error = format!("{:#}", tls.reload().unwrap_err());
        assert!(
            error.contains("key.pem") && error.contains("cert.pem"),
            "{error}"
        );
        ask_over_tls(&server, &first, &[]).unwrap();

        std::fs::write(&key, &new_key).unwrap();
        tls.reload().unwrap();
        ask_over_tls(&server, &first, &[]).unwrap_err();
        let (answer, _) = ask_over_tls(&server, &second, &[]).unwrap();
        assert!(answer.ends_with("here"), "{answer}");

        // Plain text is no TLS, and the server goes on.
        assert!(!rest(server.ask("/")).contains("here"));
        ask_over_tls(&server, &second, &[]).unwrap();
    }

    #[test]
    fn a_certificate_that_cannot_be_used_is_told_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key, _) = certificate(folder.path());
        let missing = folder.path().join("missing.pem");
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        for (certificate, key, wrong) in [
            (&missing, &key, "missing.pem"),
            (&empty, &key, "empty.pem"),
            (&key, &key, "key.pem"),
            (&certificate, &missing, "missing.pem"),
            (&certificate, &empty, "empty.pem"),
            (&certificate, &certificate, "cert.pem"),
        ] {
            let error = format!("{:#}", Tls::load(certificate, key).unwrap_err());
            assert!(error.contains(wrong), "{error}");
        }
    }
}
