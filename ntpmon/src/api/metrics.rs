//! `GET /metrics`: the daemon's numbers for Prometheus, in whichever of the two formats is asked for.

use axum::{
    extract::{MatchedPath, Request, State as From},
    http::{
        HeaderMap, HeaderName,
        header::{ACCEPT, CONTENT_TYPE, VARY},
    },
    middleware::Next,
    response::Response,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::State;
use crate::metrics::{Metrics, requests::UNMATCHED, text::Format};

pub(super) fn reading() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(metrics))
}

/// The daemon's numbers, for Prometheus and its kin.
///
/// In the text format of Prometheus, or in that of OpenMetrics where `Accept` prefers
/// `application/openmetrics-text`. Each family is explained in docs/metrics.md and in its own HELP.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "metrics",
    responses((
        status = 200,
        description = "All families that have values",
        content(
            (String = "text/plain; version=0.0.4"),
            (String = "application/openmetrics-text; version=1.0.0"),
        )
    ))
)]
async fn metrics(state: State, headers: HeaderMap) -> ([(HeaderName, &'static str); 2], String) {
    let accepted = headers.get_all(ACCEPT).iter();
    let accepted: Vec<_> = accepted.filter_map(|it| it.to_str().ok()).collect();
    let format = Format::preferred(&accepted.join(","));
    let text = state.metrics.text(format).await;
    let headers = [(CONTENT_TYPE, format.content_type()), (VARY, "accept")];
    (headers, text)
}

/// Counts every request, whatever became of it.
pub(super) async fn counted(
    From(metrics): From<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let begun = std::time::Instant::now();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let response = next.run(request).await;
    let path = path.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let status = response.status().as_u16();
    metrics
        .requests()
        .count(path, method.as_str(), status, begun);
    response
}
