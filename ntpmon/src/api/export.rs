//! `POST /api/ntp/history/export`: the clients as a file, written while they are read. A thread
//! reads and writes pieces into a channel of a few; the response takes them out. Who reads slowly
//! makes the thread wait, who goes away ends it.

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
use futures_util::stream;
use tokio::{
    runtime::Handle,
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, Receiver, Sender},
    },
    task, time,
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
    query::QueryError,
};

/// Exports at once: each has a thread, which is busy as long as its reader is quick.
const AT_ONCE: usize = 4;
/// Bytes of a piece, about.
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

type Piece = Result<Bytes, ExportError>;

/// Takes what is written, and passes it on in pieces.
struct Pieces {
    sender: Sender<Piece>,
    runtime: Handle,
    collected: Vec<u8>,
}

impl Pieces {
    fn new(sender: Sender<Piece>, runtime: Handle) -> Self {
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
        match self.runtime.block_on(async { waited.await }) {
            Ok(Ok(place)) => {
                place.send(Ok(std::mem::take(&mut self.collected).into()));
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
        self.collected.extend(bytes);
        if self.collected.len() >= PIECE {
            self.pass_on()?;
        }
        Ok(bytes.len())
    }

    /// Nothing is passed on before there is a piece of it, or all is written.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins an export; its pieces come out of the channel. Has to be called on the runtime.
fn begin(
    history: History,
    filter: Filter,
    limit: u64,
    format: Format,
    place: OwnedSemaphorePermit,
) -> Receiver<Piece> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let runtime = Handle::current();
    task::spawn_blocking(move || {
        let _place = place;
        let mut pieces = Pieces::new(sender, runtime);
        let written = history
            .export(&filter, limit, format, &mut pieces)
            .and_then(|_| Ok(pieces.pass_on()?));
        if let Err(error) = written {
            match &error {
                ExportError::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    tracing::debug!("an export was given up by who asked for it");
                }
                error => tracing::warn!("an export ended before its end: {error}"),
            }
            // Whoever does not read gets the end without this: the connection is cut short.
            let _ = pieces.sender.try_send(Err(error));
        }
    });
    receiver
}

impl From<ExportError> for ApiError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Query(error @ QueryError::Unavailable(_)) => {
                Self::unavailable("history_unavailable", error.to_string())
            }
            error => Self::internal(&error.into()),
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
    let mut receiver = begin(state.history, filter, limit, format, place);
    // What fails at once still has a status of its own.
    let first = receiver.recv().await.transpose()?;
    let pieces = stream::unfold((first, receiver), |(first, mut receiver)| async {
        let piece = match first {
            Some(first) => Ok(first),
            None => receiver.recv().await?,
        };
        Some((piece, (None, receiver)))
    });
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
