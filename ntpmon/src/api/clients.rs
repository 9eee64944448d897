//! What is said of all clients at once: how wrong their clocks are, who asks most often, who sends
//! what is no question for the time. Single clients are the history's.

use axum::response::Json;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    State,
    error::ApiError,
    history::{parameters::Parameters, schema::Names},
    reply::{One, ask},
};
use crate::history::query::figures::{AbuseReport, BusyClients, ClientClocks, NAMED};

pub(super) fn reading() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(clocks))
        .routes(routes!(busiest))
        .routes(routes!(abuse))
}

/// Clients by name unless told otherwise.
const FEW: u64 = 10;
/// In seconds: a hundred years.
const LONGEST: u64 = 3_155_760_000;
/// Requests a second that no client reaches.
const MOST: f64 = 1e9;

fn named(parameters: &Parameters) -> Result<usize, ApiError> {
    let limit = parameters.number("limit", 0..=NAMED as u64)?;
    Ok(limit.unwrap_or(FEW) as usize)
}

/// How many clients' clocks are how wrong, and the worst of them
///
/// Only an honest client's clock can be seen. An error is positive when the client is ahead of this
/// host. At most a second old.
#[utoipa::path(
    get,
    path = "/api/ntp/clients/clocks",
    operation_id = "client_clocks",
    tag = "clients",
    params(
        ("interface_name" = inline(Option<Names>), Query, style = Form, explode = false, description = "Any of these interfaces, separated by commas"),
        ("seen_within_seconds" = Option<u64>, Query, minimum = 0, maximum = 3_155_760_000_u64, description = "Only clients that were seen in so many seconds; all that are remembered unless told otherwise"),
        ("limit" = Option<u64>, Query, minimum = 0, maximum = 100, description = "So many of the worst; 10 unless told otherwise"),
    ),
    responses(
        (status = 200, description = "How many, and the worst", body = One<ClientClocks>),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn clocks(state: State, parameters: Parameters) -> Result<Json<One<ClientClocks>>, ApiError> {
    parameters.only(&[&["interface_name", "seen_within_seconds", "limit"]])?;
    let interfaces = parameters.interfaces(&state.history)?;
    let within = parameters.number("seen_within_seconds", 0..=LONGEST)?;
    let most = named(&parameters)?;
    let found = ask(&state, move |history| {
        history.client_clocks(interfaces, within, most)
    });
    Ok(One::new(found.await?))
}

/// Clients that ask more often than a limit, the busiest first
///
/// A rate is the mean of the last requests, and falls while no more come. At most a second old.
#[utoipa::path(
    get,
    path = "/api/ntp/clients/busiest",
    operation_id = "busiest_clients",
    tag = "clients",
    params(
        ("interface_name" = inline(Option<Names>), Query, style = Form, explode = false, description = "Any of these interfaces, separated by commas"),
        ("limit_per_second" = Option<f64>, Query, minimum = 0, maximum = 1_000_000_000_f64, description = "Clients with more requests a second than this; 0 unless told otherwise"),
        ("limit" = Option<u64>, Query, minimum = 0, maximum = 100, description = "So many of them by name; 10 unless told otherwise"),
    ),
    responses(
        (status = 200, description = "How many there are, and the busiest", body = One<BusyClients>),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn busiest(state: State, parameters: Parameters) -> Result<Json<One<BusyClients>>, ApiError> {
    parameters.only(&[&["interface_name", "limit_per_second", "limit"]])?;
    let interfaces = parameters.interfaces(&state.history)?;
    let limit = parameters.decimal("limit_per_second", 0.0..=MOST)?;
    let most = named(&parameters)?;
    let found = ask(&state, move |history| {
        history.busiest(interfaces, limit.unwrap_or_default(), most)
    });
    Ok(One::new(found.await?))
}

/// Who sends packets in modes 6 and 7, and how much comes back
///
/// Attackers ask in the names of others for answers that are longer than the questions: what is
/// acted on is the ratio of bytes out to bytes in. The totals are exact; of each interface some
/// thousand clients are known by name, those with the most bytes.
#[utoipa::path(
    get,
    path = "/api/ntp/clients/abuse",
    operation_id = "client_abuse",
    tag = "clients",
    params(
        ("interface_name" = inline(Option<Names>), Query, style = Form, explode = false, description = "Any of these interfaces, separated by commas; `recent` is of all"),
        ("limit" = Option<u64>, Query, minimum = 0, maximum = 100, description = "So many of those who were sent most; 10 unless told otherwise"),
    ),
    responses(
        (status = 200, description = "What passed", body = One<AbuseReport>),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn abuse(state: State, parameters: Parameters) -> Result<Json<One<AbuseReport>>, ApiError> {
    parameters.only(&[&["interface_name", "limit"]])?;
    let interfaces = parameters.interfaces(&state.history)?;
    let most = named(&parameters)?;
    let found = ask(&state, move |history| {
        Ok::<_, ApiError>(history.abuse(interfaces.as_deref(), most))
    });
    Ok(One::new(found.await?))
}
