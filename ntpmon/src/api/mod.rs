//! The HTTP API: routes over what the monitor and the history know. [`router`] is what answers,
//! [`serve`] puts it on a socket. One file an area; what all areas share (who may ask, failures,
//! limits, the document) is here and in `auth`, `error`, `extract`, `openapi` and `serve`.

pub mod error;
pub mod extract;

mod alerts;
mod auth;
mod checks;
mod clients;
mod events;
mod export;
mod health;
mod history;
mod interfaces;
mod limits;
mod metrics;
mod openapi;
mod process;
mod ptp;
mod reply;
mod serve;
mod servers;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, Request},
    http::{
        HeaderName, HeaderValue, Method,
        header::{
            AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
            RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::{self, Next},
    response::Response,
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{
        CompressionLayer, CompressionLevel, DefaultPredicate, Predicate,
        predicate::NotForContentType,
    },
    cors::{AllowOrigin, CorsLayer},
};
use utoipa_axum::router::OpenApiRouter;

pub use self::{
    health::{Component, Components, Condition},
    openapi::{DOCUMENT, PAGE},
    process::Process,
    serve::{Tls, serve},
};
use crate::{
    alert::Alerts, check::Checks, config::Origin, history::History, metrics::Metrics,
    monitor::control::Control, ptp::seen::Seen, tokens::Tokens,
};

/// How the API is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The largest body that is taken, in bytes.
    pub max_body: usize,
    /// How long a request may take until its response begins.
    pub request_timeout: Duration,
    /// How many requests are worked on at once; more are told to come back.
    pub max_concurrent_requests: usize,
    /// The web origins whose pages may use the API from a browser.
    pub cors_origins: Vec<Origin>,
    /// Whether responses are compressed for clients that can take it.
    pub compression: bool,
    /// The daemon's log, when it is a file.
    pub log_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_body: 1024 * 1024,
            request_timeout: Duration::from_secs(30),
            max_concurrent_requests: 512,
            cors_origins: Vec::new(),
            compression: true,
            log_file: None,
        }
    }
}

/// What the routes work with. Clones share it.
#[derive(Clone, Debug)]
pub struct State {
    /// The watched interfaces.
    pub control: Control,
    /// What was remembered.
    pub history: History,
    /// What is seen of PTP; nothing where it is not watched.
    pub ptp: Option<Seen>,
    /// Who is told when something is wrong.
    pub alerts: Alerts,
    /// The servers that are asked.
    pub checks: Checks,
    /// Who may ask.
    pub tokens: SharedTokens,
    /// How the API is served.
    pub settings: Arc<Settings>,
    /// The parts that say in `/api/ntp/health` how they are, interfaces aside.
    pub components: Components,
    /// The daemon's numbers.
    pub metrics: Metrics,
    /// What the daemon takes of the machine.
    pub process: Process,
    /// When the daemon started.
    pub started: jiff::Timestamp,
}

impl State {
    /// How long the daemon has been running.
    fn uptime(&self) -> Duration {
        let uptime = jiff::Timestamp::now().duration_since(self.started);
        // The clock may have been set back.
        uptime.try_into().unwrap_or_default()
    }
}

/// The tokens that are in force; they can be replaced while requests come in.
#[derive(Clone, Debug)]
pub struct SharedTokens(Arc<RwLock<Arc<Tokens>>>);

impl SharedTokens {
    /// With these in force.
    pub fn new(tokens: Tokens) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(tokens))))
    }

    /// Those that are in force now.
    pub fn get(&self) -> Arc<Tokens> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts others in force, for requests from now on.
    pub fn replace(&self, tokens: Tokens) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
    }
}

/// The routes that need read scope.
fn reading() -> OpenApiRouter<State> {
    interfaces::reading()
        .merge(alerts::reading())
        .merge(history::reading())
        .merge(clients::reading())
        .merge(servers::reading())
        .merge(events::reading())
        .merge(export::reading())
        .merge(metrics::reading())
        .merge(ptp::reading())
        .merge(checks::reading())
}

/// The routes that change something, so need admin scope.
fn changing() -> OpenApiRouter<State> {
    interfaces::changing()
        .merge(alerts::changing())
        .merge(history::changing())
        .merge(checks::changing())
}

/// Everything the API answers.
pub fn router(state: State) -> Router {
    let (read, read_document) = reading().split_for_parts();
    let (admin, admin_document) = changing().split_for_parts();
    let document = openapi::document(read_document, admin_document);
    let read = read.route_layer(middleware::from_fn_with_state(state.clone(), auth::read));
    let admin = admin.route_layer(middleware::from_fn_with_state(state.clone(), auth::admin));
    assemble(read.merge(admin).merge(openapi::routes(document)), state)
}

/// Puts the ground under the routes.
fn assemble(routes: Router<State>, state: State) -> Router {
    let settings = Arc::clone(&state.settings);
    // What comes later is further out.
    let mut router = routes
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(middleware::from_fn_with_state(
            settings.request_timeout,
            limits::timeout,
        ))
        .layer(middleware::from_fn_with_state(
            limits::Busy::new(settings.max_concurrent_requests),
            limits::busy,
        ))
        .layer(DefaultBodyLimit::max(settings.max_body))
        .layer(middleware::from_fn_with_state(
            settings.max_body,
            limits::body,
        ))
        .layer(auth::same_origin(&settings.cors_origins))
        .layer(middleware::from_fn_with_state(state.clone(), auth::access));
    if let Some(cors) = cors(&settings.cors_origins) {
        router = router.layer(cors);
    }
    router = router.layer(CatchPanicLayer::custom(error::panicked));
    if settings.compression {
        router = router.layer(compression());
    }
    router
        .layer(middleware::from_fn(error::envelope))
        .layer(middleware::from_fn(guarded))
        .layer(middleware::from_fn(traced))
        .layer(middleware::from_fn_with_state(
            state.metrics.clone(),
            metrics::counted,
        ))
        .with_state(state)
}

/// Compression for who asks for it. What is compressed in itself is left alone.
fn compression() -> CompressionLayer<impl Predicate> {
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(
            DefaultPredicate::new()
                .and(NotForContentType::const_new(PARQUET))
                .and(NotForContentType::const_new("application/octet-stream")),
        )
}

/// The content type of a Parquet file.
pub const PARQUET: &str = "application/vnd.apache.parquet";

/// Which pages of other origins may read what the API answers; none unless configured.
fn cors(origins: &[Origin]) -> Option<CorsLayer> {
    let origins = AllowOrigin::list(match origins {
        [] => return None,
        origins => origins.iter().map(|origin| origin.header().clone()),
    });
    Some(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers([AUTHORIZATION, CONTENT_TYPE])
            .expose_headers([RETRY_AFTER, WWW_AUTHENTICATE])
            .max_age(Duration::from_secs(600)),
    )
}

/// Headers that keep browsers from doing more with a response than it was made for.
async fn guarded(request: Request, next: Next) -> Response {
    const ALWAYS: [(HeaderName, &str); 4] = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        // For JSON; the page has its own.
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
    ];
    let mut response = next.run(request).await;
    for (name, value) in ALWAYS {
        response
            .headers_mut()
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Tells at debug level what was asked and answered. The query is left out: it may be long.
async fn traced(request: Request, next: Next) -> Response {
    let begun = std::time::Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let peer = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|peer| peer.0);
    let response = next.run(request).await;
    tracing::debug!(
        "{method} {path} from {}: {} in {:?}",
        peer.map_or_else(|| "nowhere".to_owned(), |peer| peer.to_string()),
        response.status().as_u16(),
        begun.elapsed()
    );
    response
}
