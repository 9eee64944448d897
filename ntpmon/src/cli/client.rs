//! The HTTP client of the commands that ask a running daemon: where it is, by which token, and
//! failures in words that say what to do. Answers are read as JSON or as a stream.

use std::{
    env, fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rustls::CertificateError;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use ureq::{
    Agent, Body,
    http::{Response, StatusCode, Uri},
    tls::{Certificate, PemItem, RootCerts, TlsConfig},
};

use super::config::ConfigFile;

/// The environment's word for --url.
const URL: &str = "NTPMON_URL";
/// A token in the environment.
const TOKEN: &str = "NTPMON_TOKEN";

/// How long a daemon may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may be silent: longer than it gives a request itself.
const SILENCE: Duration = Duration::from_secs(60);

/// Where the daemon is and how to ask it.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Connection {
    /// Where the daemon answers; NTPMON_URL may say it too [default: client.url of the
    /// configuration, or else http://127.0.0.1:8000]
    #[arg(long, value_name = "URL", global = true)]
    url: Option<String>,
    /// A file with a token in it, where the daemon wants one; NTPMON_TOKEN may hold the token
    /// itself [default: client.token_file of the configuration]
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Certificates (PEM) of those who may have signed the daemon's, instead of the public ones
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    #[command(flatten)]
    file: ConfigFile,
}

/// Asks one daemon.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    /// Without a slash at its end.
    base: String,
    token: Option<String>,
}

/// What the daemon answered, when it is no failure.
#[derive(Debug)]
pub(super) struct Answer {
    response: Response<Body>,
    /// Whose answer it is, for messages.
    base: String,
}

/// The envelope of a failure.
#[derive(Debug, Deserialize)]
struct Failure {
    code: String,
    message: String,
}

impl Connection {
    /// Makes ready to ask. Nothing is sent yet.
    pub(super) fn open(self) -> Result<Client> {
        let given = self.url.map(|url| ("--url", url));
        let url = given.or_else(|| Some((URL, variable(URL)?)));
        let token = match &self.token_file {
            Some(path) => Some(read_token(path)?),
            None => variable(TOKEN).map(|token| token.trim().to_owned()),
        };
        let (url, token) = match (url, token) {
            (Some(url), Some(token)) => (url, Some(token)),
            (url, token) => match (self.file.load(), url) {
                (Ok(loaded), url) => {
                    let client = loaded.config.client;
                    let configured = client.token_file.as_deref();
                    let token = match (token, configured) {
                        (None, Some(path)) => Some(read_token(path)?),
                        (token, _) => token,
                    };
                    (url.unwrap_or(("client.url", client.url)), token)
                }
                // Whoever says where it is may not be one who may read the configuration.
                (Err(error), Some(url)) => {
                    tracing::debug!("the configuration is passed over: {error:#}");
                    (url, token)
                }
                (Err(error), None) => return Err(error),
            },
        };
        Client::new(url, token, self.ca.as_deref())
    }
}

/// A variable of the environment that says something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn read_token(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("reading the token {}", path.display()))?;
    let token = text.trim();
    if token.is_empty() || token.contains(|letter: char| !letter.is_ascii_graphic()) {
        bail!(
            "{} holds no token: expected one line, as 'ntpmon token create' printed it",
            path.display()
        );
    }
    Ok(token.to_owned())
}

impl Client {
    fn new(
        (source, url): (&str, String),
        token: Option<String>,
        ca: Option<&Path>,
    ) -> Result<Self> {
        let wrong = || anyhow!("{source} is '{url}'; expected one like http://127.0.0.1:8000");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let host = uri.host().ok_or_else(wrong)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() {
            return Err(wrong());
        }
        let mut tls = TlsConfig::builder();
        if let Some(ca) = ca {
            tls = tls.root_certs(RootCerts::Specific(Arc::new(certificates(ca)?)));
        }
        // Compressing what does not leave the host only takes time.
        let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        let coding = if here { "identity" } else { "gzip" };
        let agent = Agent::config_builder()
            .user_agent(concat!("ntpmon/", env!("CARGO_PKG_VERSION")))
            .accept_encoding(coding)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // The daemon is asked itself: a proxy for the web would not find this host's loopback.
            .proxy(None)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .tls_config(tls.build())
            .build()
            .new_agent();
        Ok(Self {
            agent,
            base: url.trim_end_matches('/').to_owned(),
            token,
        })
    }

    /// Asks for what is at a path, with parameters.
    pub(super) fn get(&self, path: &str, parameters: &[(&str, String)]) -> Result<Answer> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        for (name, value) in parameters {
            request = request.query(name, value);
        }
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        self.answer(request.call())
    }

    /// Sends something to a path.
    pub(super) fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        self.answer(request.send_json(body))
    }

    fn answer(&self, sent: Result<Response<Body>, ureq::Error>) -> Result<Answer> {
        let base = self.base.clone();
        let response = match sent {
            Ok(response) => response,
            Err(ureq::Error::Io(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                bail!(
                    "no daemon answers at {base}: {error}; 'ntpmon run' starts one, and --url says \
                     where it is"
                );
            }
            Err(error) => {
                let advice = advice(&error).map_or_else(String::new, |it| format!(" ({it})"));
                return Err(error).with_context(|| format!("asking the daemon at {base}{advice}"));
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(Answer { response, base });
        }
        let mut response = response;
        let text = response
            .body_mut()
            .with_config()
            .limit(65_536)
            .lossy_utf8(true)
            .read_to_string()
            .unwrap_or_default();
        let Ok(Failure { code, message }) = serde_json::from_str(&text) else {
            bail!("{base} answered {status}, and not as ntpmon does: is it a daemon's address?");
        };
        match status {
            StatusCode::UNAUTHORIZED if self.token.is_none() => bail!(
                "the daemon at {base} wants a token: {message}; --token-file, {TOKEN} or \
                 client.token_file of the configuration gives one, and 'ntpmon token create' makes one"
            ),
            StatusCode::UNAUTHORIZED => {
                bail!("the daemon at {base} does not know the token: {message}")
            }
            _ => bail!("{message} ({code})"),
        }
    }
}

/// What to do about a certificate that is not trusted.
fn advice(error: &ureq::Error) -> Option<&'static str> {
    let error = match error {
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref::<rustls::Error>()?,
        ureq::Error::Rustls(error) => error,
        _ => return None,
    };
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            Some("--ca names the certificate of who signed the daemon's")
        }
        rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if other.to_string().contains("CaUsedAsEndEntity") =>
        {
            Some(
                "the daemon's certificate is a signer's, with CA:TRUE in it, and cannot be a \
                 server's: make it with basicConstraints=CA:FALSE",
            )
        }
        rustls::Error::InvalidMessage(_) => {
            Some("is TLS spoken there? otherwise the URL begins with http://")
        }
        _ => None,
    }
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let pem =
        fs::read(path).with_context(|| format!("reading the certificates {}", path.display()))?;
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        let item = item.with_context(|| format!("reading the certificates {}", path.display()))?;
        if let PemItem::Certificate(certificate) = item {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        bail!("{} holds no certificate; it has to be PEM", path.display());
    }
    Ok(found)
}

impl Answer {
    /// The answer as what it says in JSON.
    pub(super) fn json<T: DeserializeOwned>(self) -> Result<T> {
        let base = self.base.clone();
        serde_json::from_reader(io::BufReader::new(self.reader()))
            .with_context(|| format!("reading what the daemon at {base} answered"))
    }

    /// The answer as it comes, of any length.
    pub(super) fn reader(self) -> impl Read {
        self.response.into_body().into_reader()
    }

    /// Writes the answer as it comes. Whoever reads may have enough before the end.
    pub(super) fn copy_to(self, out: &mut impl Write) -> Result<()> {
        let base = self.base.clone();
        let mut reader = self.reader();
        let mut buffer = vec![0; 65_536];
        loop {
            let count = reader
                .read(&mut buffer)
                .with_context(|| format!("reading what the daemon at {base} answered"))?;
            if count == 0 {
                return written(out.flush());
            }
            let result = out.write_all(&buffer[..count]);
            if is_enough(&result) {
                return Ok(());
            }
            result.context("writing the output")?;
        }
    }
}

fn is_enough(result: &io::Result<()>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::BrokenPipe)
}

/// What became of writing, where it is no failure that nobody reads any more.
pub(super) fn written(result: io::Result<()>) -> Result<()> {
    if is_enough(&result) {
        return Ok(());
    }
    result.context("writing the output")
}

/// One part of a path, with what would end it written otherwise.
pub(super) fn path_part(text: &str) -> String {
    text.bytes().fold(String::new(), |mut path, byte| {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
        path
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::TcpListener;

    use axum::{Router, body::Body as AxumBody, routing::get};
    use serde_json::{Value, json};
    use tokio::runtime::Runtime;

    use super::*;
    use crate::{
        api::{self, SharedTokens, Tls, tests::state},
        tokens::Tokens,
    };

    /// A daemon's API on a port of its own.
    pub(crate) struct Daemon {
        pub(crate) url: String,
        _runtime: Runtime,
    }

    impl Daemon {
        pub(crate) fn serve(router: Router, tls: Option<Tls>) -> Self {
            let runtime = Runtime::new().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let scheme = if tls.is_some() { "https" } else { "http" };
            let port = listener.local_addr().unwrap().port();
            runtime.spawn(api::serve(
                listener,
                router,
                tls,
                64,
                std::future::pending(),
            ));
            Self {
                url: format!("{scheme}://localhost:{port}"),
                _runtime: runtime,
            }
        }

        pub(crate) fn with(tokens: Tokens) -> Self {
            let mut state = state();
            state.tokens = SharedTokens::new(tokens);
            Self::serve(api::router(state), None)
        }

        pub(crate) fn client(&self, token: Option<&str>) -> Client {
            Client::new(("--url", self.url.clone()), token.map(str::to_owned), None).unwrap()
        }
    }

    fn refusal<T>(result: Result<T>) -> String {
        format!("{:#}", result.err().unwrap())
    }

    const LIST: &str = "/api/ntp/interfaces/status";
    const STOP: &str = "/api/ntp/interfaces/lo/stop";

    #[test]
    fn the_daemon_is_asked_and_told() {
        let daemon = Daemon::with(Tokens::default());
        let client = daemon.client(None);
        let list: Value = client.get(LIST, &[]).unwrap().json().unwrap();
        assert_eq!(list["success"], true);
        let reply: Value = client.post(STOP, &json!({})).unwrap().json().unwrap();
        assert_eq!(reply["interface"], "lo");
        // A slash at the end of the URL, and parameters that have to be written otherwise.
        let client = Client::new(("--url", format!("{}/", daemon.url)), None, None).unwrap();
        let parameters = [("search_ip", "2001:db8::/32 &=?".to_owned())];
        client.get(LIST, &parameters).unwrap();
    }

    #[test]
    fn a_failure_says_what_to_do() {
        let (tokens, read, admin) = api::tests::tokens();
        let daemon = Daemon::with(tokens);
        let message = refusal(daemon.client(None).get(LIST, &[]));
        for part in [
            &*daemon.url,
            "--token-file",
            TOKEN,
            "ntpmon token create",
            "read scope",
        ] {
            assert!(message.contains(part), "{message}");
        }
        let message = refusal(daemon.client(Some("wrong")).get(LIST, &[]));
        assert!(message.contains("does not know the token"), "{message}");
        let reader = daemon.client(Some(&read));
        reader.get(LIST, &[]).unwrap();
        let message = refusal(reader.post(STOP, &json!({})));
        assert!(message.contains("'reader' has read scope"), "{message}");
        assert!(message.contains("(scope_insufficient)"), "{message}");
        daemon.client(Some(&admin)).post(STOP, &json!({})).unwrap();
        for message in [
            refusal(reader.get("/api/ntp/interfaces/none/status", &[])),
            refusal(
                daemon
                    .client(Some(&admin))
                    .post("/api/ntp/interfaces/none/stop", &json!({})),
            ),
        ] {
            assert!(
                message.contains("there is no interface 'none'"),
                "{message}"
            );
        }
    }

    #[test]
    fn an_address_that_is_no_daemons_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let client = Client::new(("--url", url.clone()), None, None).unwrap();
        let message = refusal(client.get(LIST, &[]));
        for part in [&*url, "no daemon answers", "ntpmon run", "--url"] {
            assert!(message.contains(part), "{message}");
        }
        let other = Router::new()
            .route("/json", get(|| async { "no JSON" }))
            .fallback(|| async { (StatusCode::NOT_FOUND, "<html>") });
        let other = Daemon::serve(other, None);
        let message = refusal(other.client(None).get(LIST, &[]));
        assert!(
            message.contains("404") && message.contains("not as ntpmon does"),
            "{message}"
        );
        let message = refusal(
            other
                .client(None)
                .get("/json", &[])
                .unwrap()
                .json::<Value>(),
        );
        assert!(message.contains(&other.url), "{message}");
        for url in [
            "",
            "localhost:8000",
            "ftp://localhost",
            "http://",
            "/run/ntpmon.sock",
            "http://localhost/?a=b",
            "http://local host",
        ] {
            let message = refusal(Client::new((URL, url.to_owned()), None, None));
            assert!(
                message.contains(&format!("NTPMON_URL is '{url}'")),
                "{message}"
            );
        }
    }

    #[test]
    fn an_answer_of_any_length_is_passed_on_until_nobody_reads_any_more() {
        // Endless: whoever gathers it first never ends.
        let endless = get(|| async {
            AxumBody::from_stream(futures_util::stream::repeat_with(|| {
                Ok::<_, io::Error>(vec![b'x'; 10_000])
            }))
        });
        let broken = get(|| async {
            let parts = [Ok(vec![b'x'; 10]), Err(io::Error::other("broken"))];
            AxumBody::from_stream(futures_util::stream::iter(parts))
        });
        let daemon = Daemon::serve(
            Router::new()
                .route("/endless", endless)
                .route("/broken", broken),
            None,
        );
        struct Enough(usize);
        impl Write for Enough {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += bytes.len();
                if self.0 > 1_000_000 {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let client = daemon.client(None);
        client
            .get("/endless", &[])
            .unwrap()
            .copy_to(&mut Enough(0))
            .unwrap();
        let mut some = [0; 3];
        let mut reader = client.get("/endless", &[]).unwrap().reader();
        reader.read_exact(&mut some).unwrap();
        assert_eq!(&some, b"xxx");
        // An answer that breaks off is no whole one.
        let answer = client.get("/broken", &[]);
        let message = refusal(answer.and_then(|answer| answer.copy_to(&mut Vec::new())));
        assert!(message.contains(&daemon.url), "{message}");
    }

    #[test]
    fn a_daemons_own_certificate_is_trusted_when_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (folder.path().join("cert"), folder.path().join("key"));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let tls = Tls::load(&certificate, &key).unwrap();
        let daemon = Daemon::serve(api::router(state()), Some(tls));
        let url = ("--url", daemon.url.clone());
        let client = Client::new(url.clone(), None, Some(&certificate)).unwrap();
        client.get(LIST, &[]).unwrap();
        let message = refusal(daemon.client(None).get(LIST, &[]));
        assert!(
            message.contains(&daemon.url) && message.contains("--ca names"),
            "{message}"
        );
        let plain = Daemon::with(Tokens::default());
        let url_of_plain = plain.url.replace("http:", "https:");
        let client = Client::new(("--url", url_of_plain), None, Some(&certificate)).unwrap();
        let message = refusal(client.get(LIST, &[]));
        assert!(message.contains("is TLS spoken there?"), "{message}");

        // As openssl makes them when nothing is said.
        let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pair = rcgen::KeyPair::generate().unwrap();
        let signer = folder.path().join("signer");
        fs::write(&signer, parameters.self_signed(&pair).unwrap().pem()).unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
        let tls = Tls::load(&signer, &key).unwrap();
        let daemon = Daemon::serve(api::router(state()), Some(tls));
        let client = Client::new(("--url", daemon.url.clone()), None, Some(&signer)).unwrap();
        let message = refusal(client.get(LIST, &[]));
        assert!(message.contains("basicConstraints=CA:FALSE"), "{message}");

        for wrong in [&key, &folder.path().join("missing")] {
            let message = refusal(Client::new(url.clone(), None, Some(wrong)));
            assert!(message.contains(wrong.to_str().unwrap()), "{message}");
        }
    }

    #[test]
    fn a_token_is_a_line_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let missing = refusal(read_token(&path));
        assert!(missing.contains(path.to_str().unwrap()), "{missing}");
        fs::write(&path, "ntpmon_abc\n").unwrap();
        assert_eq!(read_token(&path).unwrap(), "ntpmon_abc");
        for wrong in ["", "\n", "two words", "two\nlines", "ümlaut"] {
            fs::write(&path, wrong).unwrap();
            let message = refusal(read_token(&path));
            assert!(message.contains("holds no token"), "{message}");
        }
    }

    #[test]
    fn a_part_of_a_path_ends_where_it_should() {
        assert_eq!(path_part("eth0"), "eth0");
        assert_eq!(path_part("a/b?c#d e%.."), "a%2Fb%3Fc%23d%20e%25%2E%2E");
        assert_eq!(path_part("2001:db8::1"), "2001%3Adb8%3A%3A1");
    }
}
