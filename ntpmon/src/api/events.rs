//! What was found of servers and of this host's clock, over HTTP: `/api/ntp/events`.

use axum::Json;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    State,
    error::ApiError,
    extract::Path,
    history::{
        parameters::Parameters,
        schema::{Address, EventKinds, Names, SeverityName, Time},
    },
    reply::{Numbered, One, ask},
};
use crate::{
    health::{Kind, Severity},
    history::findings::{Finding, FindingQuery},
};

pub(super) fn reading() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(events))
        .routes(routes!(event))
}

/// What happened to servers and to this host's clock, the last first
///
/// A server's clock was stepped, its time ran backwards, its stratum, reference or leap indicator
/// changed, its answers look as if another gave them, answers came that nobody asked for. The last
/// 10000 are kept of those for information and of answers that nobody asked for, and as many of all
/// others. Of one kind at one server up to five a minute have a number of their own; the
/// others add to the `count` of the last of those.
#[utoipa::path(
    get,
    path = "/api/ntp/events",
    operation_id = "list_events",
    tag = "servers",
    params(
        ("kind" = inline(Option<EventKinds>), Query, style = Form, explode = false, description = "Any of these, separated by commas"),
        ("severity" = inline(Option<SeverityName>), Query, description = "At least so severe"),
        ("server_ip" = inline(Option<Address>), Query, description = "Of this server"),
        ("interface_name" = inline(Option<Names>), Query, style = Form, explode = false, description = "Any of these interfaces, separated by commas"),
        ("since" = inline(Option<Time>), Query, description = "Then or later: RFC 3339, or seconds since 1970"),
        ("until" = inline(Option<Time>), Query, description = "Then or before; no earlier than `since`"),
        ("before" = Option<u64>, Query, minimum = 1, description = "With a lower number: `next_before` of the answer before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "So many at most; 100 unless told otherwise"),
    ),
    responses(
        (status = 200, description = "Events; none where there are no such", body = Numbered<Finding>),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn events(state: State, parameters: Parameters) -> Result<Json<Numbered<Finding>>, ApiError> {
    const KNOWN: &[&str] = &[
        "kind",
        "severity",
        "server_ip",
        "interface_name",
        "since",
        "until",
        "before",
        "limit",
    ];
    parameters.only(&[KNOWN])?;
    let (since, until) = parameters.between()?;
    let limit = parameters.number("limit", 1..=1000)?.unwrap_or(100) as usize;
    let query = FindingQuery {
        kinds: parameters.words("kind", Kind::NAMES)?,
        severity: parameters.word("severity", Severity::NAMES)?,
        server: parameters.address("server_ip")?,
        interfaces: parameters.names("interface_name")?,
        since,
        until,
        before: parameters.number("before", 1..=u64::MAX)?,
        // One more shows whether there are more.
        limit: limit + 1,
    };
    let data = ask(&state, move |history| history.findings(&query)).await?;
    Ok(Numbered::new(data, limit, |event| event.event_number))
}

/// One of them
#[utoipa::path(
    get,
    path = "/api/ntp/events/{event_number}",
    operation_id = "event",
    tag = "servers",
    params(("event_number" = u64, Path, description = "Its number")),
    responses(
        (status = 200, description = "What happened", body = One<Finding>),
        (status = 400, description = "It is no number"),
        (status = 404, description = "There is none with this number, or no more"),
    )
)]
async fn event(
    state: State,
    Path(number): Path<String>,
    parameters: Parameters,
) -> Result<Json<One<Finding>>, ApiError> {
    parameters.only(&[])?;
    let number: u64 = number.parse().map_err(|_| {
        ApiError::invalid_parameter("the event", &number, "the number of an event, from 1")
    })?;
    let found = ask(&state, move |history| history.finding(number)).await?;
    found.map(One::new).ok_or_else(|| {
        ApiError::not_found(
            "event_not_found",
            format!("there is no event {number}, or not any more: the last 10000 are kept of those for information and of answers that nobody asked for, and as many of all others"),
        )
    })
}
