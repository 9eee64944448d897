//! TLS before a server of these tests: from the first byte on, or after STARTTLS.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned, crypto::ring::default_provider,
    pki_types::PrivateKeyDer,
};
use tempfile::TempDir;

/// How long one side is listened to before the other.
const TURN: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(20);

/// How TLS begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    AtOnce,
    AfterStarttls,
}

pub(super) struct BehindTls {
    pub(super) port: u16,
    /// Whom to trust.
    pub(super) ca_file: PathBuf,
    _folder: TempDir,
}

impl BehindTls {
    /// Before what listens at a port in the clear.
    pub(super) fn new(plain: u16, begin: Begin) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // It ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let config = Arc::clone(&config);
                thread::spawn(move || pass_on(stream, plain, config, begin));
            }
        });
        Self {
            port,
            ca_file,
            _folder: folder,
        }
    }
}

fn pass_on(stream: TcpStream, plain: u16, config: Arc<ServerConfig>, begin: Begin) {
    let mut server = TcpStream::connect(("127.0.0.1", plain)).unwrap();
    if begin == Begin::AfterStarttls {
        let mut greeting = String::new();
        BufReader::new(server.try_clone().unwrap())
            .read_line(&mut greeting)
            .unwrap();
        if ask_for_tls(&stream, &greeting).is_none() {
            return;
        }
    }
    for side in [&stream, &server] {
        side.set_read_timeout(Some(TURN)).unwrap();
    }
    let mut client = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let is_over = pass(&mut client, &mut server) || pass(&mut server, &mut client);
        if is_over {
            client.conn.send_close_notify();
            let _ = client.flush();
            return;
        }
    }
}

/// Speaks SMTP up to the point from which on all is encrypted. Nothing where it does not come to that.
fn ask_for_tls(stream: &TcpStream, greeting: &str) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut say = stream.try_clone().ok()?;
    write!(say, "{greeting}").ok()?;
    // A byte at a time: what comes after belongs to TLS.
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        say.read_exact(&mut byte).ok()?;
        line.push(byte[0]);
        if byte[0] != b'\n' {
            continue;
        }
        if line.starts_with(b"STARTTLS") {
            write!(say, "220 go on\r\n").ok()?;
            return Some(());
        }
        write!(say, "250-here\r\n250 STARTTLS\r\n").ok()?;
        line.clear();
    }
}

/// Passes on what there is. Says whether there will be no more.
fn pass(from: &mut impl Read, to: &mut impl Write) -> bool {
    let mut bytes = [0; 4096];
    match from.read(&mut bytes) {
        Ok(0) => true,
        Ok(length) => to
            .write_all(&bytes[..length])
            .and_then(|()| to.flush())
            .is_err(),
        Err(error) => !matches!(
            error.kind(),
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
        ),
    }
}
