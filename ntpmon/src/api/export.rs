//! `POST /api/ntp/history/export`: the clients as a file, written while they are read. A thread
//! reads and writes pieces into a channel of a few; the response takes them out. Who reads slowly
//! makes the thread wait, who goes away ends it. Only when the thread says that it has written all
//! does the response end as one that is whole.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension,
    body::{Body, Bytes},
    http::{
        HeaderValue,
        header::{CONTENT_DISPOSITION, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use tokio::{
    runtime::Handle,
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, Receiver, Sender},
    },
    task::{self, JoinHandle},
    time,
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    PARQUET, State,
    error::ApiError,
    extract::OptionalJson,
    history::{
        parameters::{FILTERS, Parameters},
        schema::Filters,
    },
};
use crate::history::{
    History,
    catalogue::Filter,
    export::{ExportError, Format},
};

/// Exports at once: each has a thread, which is busy as long as its reader is quick.
const AT_ONCE: usize = 4;
/// The most bytes of a piece.
const PIECE: usize = 64 * 1024;
/// Pieces that wait for their reader.
const WAITING: usize = 4;
/// Whoever takes nothing for so long gets no more: there are few places.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn reading() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(export))
        .layer(Extension(Places(Arc::new(Semaphore::new(AT_ONCE)))))
}

/// Places for exports.
#[derive(Clone, Debug)]
struct Places(Arc<Semaphore>);

/// How clients can be written.
const FORMATS: &[(&str, Format)] = &[
    (Format::Json.name(), Format::Json),
    (Format::Csv.name(), Format::Csv),
    (Format::Ndjson.name(), Format::Ndjson),
    (Format::Parquet.name(), Format::Parquet),
];

/// More cannot be told exactly by a number in JSON.
const MOST: u64 = (1 << 53) - 1;

/// What is exported.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(
    dead_code,
    unused_qualifications,
    reason = "it is only described, by a macro: the values are read by Parameters"
)]
struct ExportBody {
    /// How it is written; JSON where nothing is said.
    format: Option<FileFormat>,
    /// At most so many clients; all, where nothing is said.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_u64)]
    limit: Option<u64>,
    /// Which clients; all, where nothing is said.
    filters: Option<Filters>,
}

/// How clients are written.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "it is only described")]
enum FileFormat {
    /// One object: `{"success": true, "data": [a client, …], "count": how many}`.
    Json,
    /// The names in the first line, a client a line.
    Csv,
    /// A client a line, each an object.
    Ndjson,
    /// A table of Apache Parquet.
    Parquet,
}

const fn content_type(format: Format) -> &'static str {
    match format {
        Format::Json => "application/json",
        Format::Csv => "text/csv; charset=utf-8",
        Format::Ndjson => "application/x-ndjson",
        Format::Parquet => PARQUET,
    }
}

/// Takes what is written, and passes it on in pieces.
struct Pieces {
    sender: Sender<Bytes>,
    runtime: Handle,
    collected: Vec<u8>,
}

impl Pieces {
    fn new(sender: Sender<Bytes>, runtime: Handle) -> Self {
        Self {
            sender,
            runtime,
            collected: Vec::new(),
        }
    }

    fn pass_on(&mut self) -> io::Result<()> {
        if self.collected.is_empty() {
            return Ok(());
        }
        let waited = time::timeout(PATIENCE, self.sender.reserve());
        match self.runtime.block_on(waited) {
            Ok(Ok(place)) => {
                place.send(std::mem::take(&mut self.collected).into());
                Ok(())
            }
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing was read for {PATIENCE:?}"),
            )),
        }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What comes at once may be large.
        let taken = bytes.len().min(PIECE - self.collected.len());
        self.collected.extend(&bytes[..taken]);
        if self.collected.len() == PIECE {
            self.pass_on()?;
        }
        Ok(taken)
    }

    /// Nothing is passed on before there is a piece of it, or all is written.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An export that is being written.
struct Export {
    pieces: Receiver<Bytes>,
    /// Its thread: the end of the pieces is that of the file only when it has not failed.
    writing: JoinHandle<Result<(), ExportError>>,
}

impl Export {
    /// Has to be called on the runtime.
    fn begin(
        history: History,
        filter: Filter,
        limit: u64,
        format: Format,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(WAITING);
        let runtime = Handle::current();
        let writing = task::spawn_blocking(move || {
            let _place = place;
            let mut pieces = Pieces::new(sender, runtime);
            let written = history
                .export(&filter, limit, format, &mut pieces)
                .and_then(|_| Ok(pieces.pass_on()?));
            match &written {
                Err(ExportError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    tracing::debug!("an export was given up by who asked for it");
                }
                Err(error) => tracing::warn!("an export ended before its end: {error}"),
                Ok(()) => {}
            }
            written
        });
        Self { pieces, writing }
    }

    /// The next piece; nothing when all was written.
    async fn next(&mut self) -> Result<Option<Bytes>, ExportError> {
        if let Some(piece) = self.pieces.recv().await {
            return Ok(Some(piece));
        }
        match (&mut self.writing).await {
            Ok(written) => written.map(|()| None),
            Err(panic) => Err(io::Error::other(panic).into()),
        }
    }
}

impl From<ExportError> for ApiError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Query(error) => error.into(),
            error @ ExportError::Write(_) => Self::internal(&error.into()),
        }
    }
}

/// Export clients
///
/// The picked clients in the order of their addresses, as a file of any length that is sent while
/// it is read from the history. When that fails on the way the connection ends before the end.
#[utoipa::path(
    post,
    path = "/api/ntp/history/export",
    operation_id = "export_clients",
    tag = "history",
    request_body(content = Option<ExportBody>, description = "What is exported"),
    responses(
        (status = 200, description = "The file", content(
            ("application/json"), ("text/csv"), ("application/x-ndjson"),
            ("application/vnd.apache.parquet"),
        )),
        (status = 400, description = "The body cannot be"),
        (status = 415, description = "The body is not JSON"),
        (status = 503, description = "Too many exports at once, or the history cannot be read"),
    )
)]
async fn export(
    state: State,
    Extension(Places(places)): Extension<Places>,
    OptionalJson(body): OptionalJson<Parameters>,
) -> Result<Response, ApiError> {
    body.only(&[&["format", "limit", "filters"]])?;
    let format = body.word("format", FORMATS)?.unwrap_or_default();
    let limit = body.number("limit", 1..=MOST)?.unwrap_or(u64::MAX);
    let filters = body.object("filters", "filters.")?;
    filters.only(&[FILTERS])?;
    let filter = filters.filter(&state.history)?;
    let place = places.try_acquire_owned().map_err(|_| {
        ApiError::unavailable(
            "too_busy",
            format!("{AT_ONCE} exports are being written, which is the limit; try again later"),
        )
    })?;
    let mut export = Export::begin(state.history, filter, limit, format, place);
    // What fails at once still has a status of its own.
    let first = export.next().await?;
    let export = first.is_some().then_some(export);
    let pieces = stream::unfold((first, export), |(first, export)| async {
        let mut export = export?;
        let piece = match first {
            Some(first) => Ok(Some(first)),
            None => export.next().await,
        };
        match piece {
            Ok(piece) => Some((Ok(piece?), (None, Some(export)))),
            Err(error) => Some((Err(error), (None, None))),
        }
    });
    // What compresses asks once more after the end.
    let pieces = pieces.fuse();
    let name = format!(
        "attachment; filename=\"ntpmon-clients-{}.{}\"",
        jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ"),
        format.name()
    );
    let disposition = HeaderValue::from_str(&name).map_err(|error| {
        ApiError::internal(&anyhow::Error::new(error).context("naming an export"))
    })?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type(format))),
        (CONTENT_DISPOSITION, disposition),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        http::{Request as HttpRequest, header::ACCEPT_ENCODING},
    };
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::{
        super::{
            router,
            tests::{request, send, state},
        },
        *,
    };
    use crate::history::{
        export::tests::{many, remembering},
        made::close,
    };

    const EXPORT: &str = "/api/ntp/history/export";

    fn asking(body: &Value) -> HttpRequest<Body> {
        request("POST", EXPORT)
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()))
            .unwrap()
    }

    /// A daemon that remembers so many clients.
    fn daemon(clients: u32) -> (tempfile::TempDir, Router) {
        let (directory, history) = remembering(&many(clients));
        let mut state = state();
        state.history = history;
        (directory, router(state))
    }

    #[tokio::test]
    async fn every_format_comes_whole_under_a_fitting_name() {
        for clients in [0_usize, 1, 5000] {
            let (_directory, router) = daemon(clients as u32);
            for (format, content, kind) in [
                (Some("json"), "application/json", "json"),
                (None, "application/json", "json"),
                (Some("csv"), "text/csv; charset=utf-8", "csv"),
                (Some("ndjson"), "application/x-ndjson", "ndjson"),
                (Some("parquet"), PARQUET, "parquet"),
            ] {
                let body = json!({ "format": format }).to_string();
                let answer = send(&router, EXPORT, body).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.headers[CONTENT_TYPE], content);
                let name = answer.headers[CONTENT_DISPOSITION].to_str().unwrap();
                assert!(
                    name.starts_with("attachment; filename=\"ntpmon-clients-20"),
                    "{name}"
                );
                assert!(name.ends_with(&format!("Z.{kind}\"")), "{name}");
                match kind {
                    "json" => {
                        let value = answer.json();
                        assert_eq!(
                            (&value["success"], &value["count"]),
                            (&json!(true), &json!(clients))
                        );
                        assert_eq!(value["data"].as_array().unwrap().len(), clients);
                    }
                    "csv" => assert_eq!(answer.text().lines().count(), clients + 1),
                    "ndjson" => assert_eq!(answer.text().lines().count(), clients),
                    _ => {
                        assert!(answer.body.starts_with(b"PAR1") && answer.body.ends_with(b"PAR1"));
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn a_limit_holds_and_what_cannot_be_is_refused() {
        let (_directory, router) = daemon(50);
        let answer = send(&router, EXPORT, r#"{"format": "csv", "limit": 7}"#).await;
        assert_eq!(answer.text().lines().count(), 8);
        // No body is everything, as JSON.
        assert_eq!(send(&router, EXPORT, "").await.json()["count"], 50);
        let some = r#"{"filters": {"search_ip": "0.0.0.40/29", "version": 4}}"#;
        assert_eq!(send(&router, EXPORT, some).await.json()["count"], 8);
        for (body, code, part) in [
            (r#"{"format": "xml"}"#, "invalid_body", "'xml'"),
            (r#"{"limit": 0}"#, "invalid_body", "limit"),
            (r#"{"limit": -1}"#, "invalid_body", "limit"),
            (
                r#"{"filters": {"colour": 1}}"#,
                "unknown_parameter",
                "colour",
            ),
            (r#"{"filter": {}}"#, "unknown_parameter", "'filters'"),
            (
                r#"{"filters": {"search_ip": "300.1.1.1"}}"#,
                "invalid_body",
                "300.1.1.1",
            ),
            ("[]", "invalid_body", "the body"),
            ("{", "invalid_body", "not JSON"),
        ] {
            let message = send(&router, EXPORT, body).await.failed(400, code);
            assert!(message.contains(part), "{message}");
        }
    }

    #[tokio::test]
    async fn exports_have_places_which_those_who_go_away_leave() {
        let (_directory, router) = daemon(5000);
        let ndjson = json!({"format": "ndjson"});
        let mut responses = Vec::new();
        for _ in 0..AT_ONCE {
            // Nobody reads: far more comes than waits for its reader.
            responses.push(router.clone().oneshot(asking(&ndjson)).await.unwrap());
        }
        let refused = send(&router, EXPORT, ndjson.to_string()).await;
        refused.failed(503, "too_busy");
        // One is read to its end, the others are given up in the middle.
        let mut read = responses.pop().unwrap().into_body();
        assert!(read.frame().await.unwrap().unwrap().is_data());
        responses.clear();
        let rest = read.collect().await.unwrap().to_bytes();
        assert!(rest.ends_with(b"}\n"));
        for _ in 0..500 {
            let response = router.clone().oneshot(asking(&ndjson)).await.unwrap();
            if response.status() == 200 {
                responses.push(response);
            }
            if responses.len() == AT_ONCE {
                return;
            }
            time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "only {} of {AT_ONCE} places are free again",
            responses.len()
        );
    }

    #[tokio::test]
    async fn an_export_that_fails_on_the_way_does_not_look_whole() {
        let (_directory, history) = remembering(&many(5000));
        let mut state = state();
        state.history = history.clone();
        let router = router(state);
        let mut responses = Vec::new();
        for compressed in ["identity", "zstd"] {
            let mut asking = asking(&json!({"format": "ndjson"}));
            let coding = HeaderValue::from_static(compressed);
            asking.headers_mut().insert(ACCEPT_ENCODING, coding);
            let mut body = router.clone().oneshot(asking).await.unwrap().into_body();
            assert!(body.frame().await.unwrap().unwrap().is_data());
            responses.push(body);
        }
        // By now as many pieces wait as there is room for, so that a failure finds none.
        close(&history);
        for body in responses {
            assert!(body.collect().await.is_err());
        }
    }

    #[tokio::test]
    async fn an_export_that_nobody_reads_any_more_ends_within_a_chunk() {
        let (_directory, history) = remembering(&many(5000));
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).try_acquire_owned().unwrap();
        let filter = Filter::default();
        let mut export = Export::begin(history, filter, u64::MAX, Format::Ndjson, place);
        let first = export.next().await.unwrap().unwrap();
        assert!(first.starts_with(b"{\"client_ip\":"));
        assert_eq!(places.available_permits(), 0);
        drop(export);
        let left = time::timeout(Duration::from_secs(10), places.acquire()).await;
        assert!(left.is_ok());
    }
}
