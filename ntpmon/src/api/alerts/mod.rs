//! Alerts over HTTP: `/api/ntp/alerts`: which there are, what became of them, who has them, and
//! whether what was told has arrived.

mod rules;
mod silences;
#[cfg(test)]
mod tests;

use axum::{Json, http::StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    State,
    error::{ApiError, shown},
    extract::{self, Path},
    history::{
        parameters::{NoParameters, Parameters},
        schema::Time,
    },
    reply::{List, Numbered, One},
};
use crate::{
    alert::{
        Alerts, Refusal, SinkView, Tested,
        instance::{Acknowledgement, Record, View},
        rule::Severity,
        state,
    },
    outbox::{Delivery, Progress},
};

pub(super) fn reading() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(alerts))
        .routes(routes!(history))
        .routes(routes!(deliveries))
        .routes(routes!(sinks))
        .routes(routes!(alert))
        .merge(rules::reading())
        .merge(silences::reading())
}

pub(super) fn changing() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(acknowledge))
        .routes(routes!(test_sink))
        .merge(rules::changing())
        .merge(silences::changing())
}

const STATES: &[(&str, state::State)] = &[
    ("pending", state::State::Pending),
    ("firing", state::State::Firing),
    ("resolved", state::State::Resolved),
];

const SEVERITIES: &[(&str, Severity)] =
    &[("warn", Severity::Warn), ("critical", Severity::Critical)];

const PROGRESS: &[(&str, Progress)] = &[
    ("waiting", Progress::Waiting),
    ("delivered", Progress::Delivered),
    ("failed", Progress::Failed),
];

/// What is worth no more room, in a comment or a name, in bytes.
const LONGEST_TEXT: usize = 1024;
/// In a list, unless told otherwise.
const LIMIT: u64 = 100;

/// Asks alerts where waiting keeps nobody else.
async fn ask<T: Send + 'static>(
    state: &State,
    ask: impl FnOnce(&Alerts) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let alerts = state.alerts.clone();
    spawn_blocking(move || ask(&alerts))
        .await
        .map_err(|error| ApiError::internal(&anyhow::Error::new(error)))?
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Unknown(what, name) => {
                let (code, list) = match what {
                    "alert" => ("alert_not_found", ""),
                    "rule" => ("rule_not_found", "/rules"),
                    "silence" => ("silence_not_found", "/silences"),
                    _ => ("sink_not_found", "/sinks"),
                };
                let name = shown(&name);
                Self::not_found(
                    code,
                    format!(
                        "there is no {what} '{name}'; GET /api/ntp/alerts{list} lists those there are"
                    ),
                )
            }
            Refusal::Exists(..) => Self::new(StatusCode::CONFLICT, "exists", message),
            Refusal::Configured(..) | Refusal::Default(_) => {
                Self::new(StatusCode::CONFLICT, "configured", message)
            }
            Refusal::TooMany(..) => Self::new(StatusCode::CONFLICT, "too_many", message),
            Refusal::NotFiring(..) => Self::new(StatusCode::CONFLICT, "not_firing", message),
        }
    }
}

/// A name that is part of a path.
fn name_of(text: String) -> Result<String, ApiError> {
    if crate::alert::rule::is_name(&text) {
        return Ok(text);
    }
    let expected = "1 to 64 letters, digits, or - _ .";
    Err(ApiError::invalid_parameter(
        "the name",
        text.escape_debug(),
        expected,
    ))
}

fn id_of(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        ApiError::invalid_parameter("the alert", text, "the number of an alert, from 1")
    })
}

/// The alerts there are
///
/// Those that are about to fire, those that fire, and for an hour those that are over; the last first.
/// What is well is in no list.
#[utoipa::path(
    get,
    path = "/api/ntp/alerts",
    operation_id = "list_alerts",
    tag = "alerts",
    params(
        ("state" = Option<String>, Query, pattern = "^(pending|firing|resolved)$", description = "In this state: pending, firing or resolved"),
        ("severity" = Option<String>, Query, pattern = "^(warn|critical)$", description = "As bad as this: warn or critical"),
        ("rule" = Option<String>, Query, description = "Of this rule"),
    ),
    responses(
        (status = 200, description = "They", body = List<View>),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn alerts(state: State, parameters: Parameters) -> Result<Json<List<View>>, ApiError> {
    parameters.only(&[&["state", "severity", "rule"]])?;
    let wanted = parameters.word("state", STATES)?;
    let severity = parameters.word("severity", SEVERITIES)?;
    let rule = parameters
        .name("rule", "the name of a rule")?
        .map(str::to_owned);
    let mut all = ask(&state, |alerts| Ok(alerts.all())).await?;
    all.retain(|it| {
        wanted.is_none_or(|wanted| it.state == wanted)
            && severity.is_none_or(|severity| it.severity == severity)
            && rule.as_ref().is_none_or(|rule| it.rule == *rule)
    });
    Ok(List::new(all))
}

/// One alert
#[utoipa::path(
    get,
    path = "/api/ntp/alerts/{id}",
    operation_id = "alert",
    tag = "alerts",
    params(("id" = u64, Path, description = "Its number")),
    responses(
        (status = 200, description = "How it is", body = One<View>),
        (status = 400, description = "It is no number"),
        (status = 404, description = "There is none with this number, or no more"),
    )
)]
async fn alert(
    state: State,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<Json<One<View>>, ApiError> {
    parameters.only(&[])?;
    let id = id_of(&id)?;
    let all = ask(&state, |alerts| Ok(alerts.all())).await?;
    let found = all.into_iter().find(|it| it.id == id);
    let found = found.ok_or_else(|| Refusal::Unknown("alert", id.to_string()))?;
    Ok(One::new(found))
}

/// What became of alerts, the last first
#[utoipa::path(
    get,
    path = "/api/ntp/alerts/history",
    operation_id = "alert_history",
    tag = "alerts",
    params(
        ("rule" = Option<String>, Query, description = "Of this rule"),
        ("alert_id" = Option<u64>, Query, minimum = 1, description = "Of this alert"),
        ("since" = inline(Option<Time>), Query, description = "Then or later: RFC 3339, or seconds since 1970"),
        ("until" = inline(Option<Time>), Query, description = "Then or before; no earlier than `since`"),
        ("before" = Option<u64>, Query, minimum = 1, description = "With a lower number: `next_before` of the answer before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "So many at most; 100 unless told otherwise"),
    ),
    responses(
        (status = 200, description = "What became of them", body = Numbered<Record>),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn history(state: State, parameters: Parameters) -> Result<Json<Numbered<Record>>, ApiError> {
    parameters.only(&[&["rule", "alert_id", "since", "until", "before", "limit"]])?;
    let rule = parameters
        .name("rule", "the name of a rule")?
        .map(str::to_owned);
    let alert = parameters.number("alert_id", 1..=u64::MAX)?;
    let (since, until) = parameters.between()?;
    let before = parameters.number("before", 1..=u64::MAX)?;
    let limit = parameters.number("limit", 1..=1000)?.unwrap_or(LIMIT) as usize;
    let data = ask(&state, move |alerts| {
        let wanted = |record: &Record| {
            let time = record.time.as_nanosecond();
            rule.as_ref().is_none_or(|rule| record.rule == *rule)
                && alert.is_none_or(|id| record.alert_id == id)
                && since.is_none_or(|since| time >= since.into())
                && until.is_none_or(|until| time <= until.into())
        };
        // One more shows whether there are more.
        Ok(alerts.records(before, limit + 1, wanted)?)
    })
    .await?;
    Ok(Numbered::new(data, limit, |record| record.number))
}

/// Who has an alert.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AcknowledgeBody {
    /// Who.
    #[schema(min_length = 1, max_length = 1024)]
    by: String,
    /// What they say.
    #[serde(default)]
    #[schema(max_length = 1024)]
    comment: String,
    /// Until when; until it is over unless said otherwise.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

/// Say that somebody has an alert
///
/// It is not told again and again any more. That it is over is told, and where its rule has `escalate`
/// that it becomes critical.
#[utoipa::path(
    post,
    path = "/api/ntp/alerts/{id}/acknowledge",
    operation_id = "acknowledge_alert",
    tag = "alerts",
    params(("id" = u64, Path, description = "Its number")),
    request_body(content = AcknowledgeBody, description = "Who has it"),
    responses(
        (status = 200, description = "How it is", body = One<View>),
        (status = 400, description = "It is no number, or the body cannot be"),
        (status = 404, description = "There is none with this number, or no more"),
        (status = 409, description = "It neither fires nor is about to"),
        (status = 415, description = "The body is not JSON"),
    )
)]
async fn acknowledge(
    state: State,
    _: NoParameters,
    Path(id): Path<String>,
    extract::Json(body): extract::Json<AcknowledgeBody>,
) -> Result<Json<One<View>>, ApiError> {
    let id = id_of(&id)?;
    let at = Timestamp::now();
    let is_said = !body.by.trim().is_empty();
    if !is_said || body.by.len() > LONGEST_TEXT || body.comment.len() > LONGEST_TEXT {
        return Err(ApiError::invalid_body(format!(
            "by, comment: expected who has it, and {LONGEST_TEXT} bytes at most of each"
        )));
    }
    if let Some(until) = body.until.filter(|until| *until <= at) {
        return Err(ApiError::invalid_body(format!(
            "until is '{until}'; it has to be later than now"
        )));
    }
    let by = Acknowledgement {
        by: body.by,
        comment: body.comment,
        at,
        until: body.until,
    };
    let view = ask(&state, move |alerts| Ok(alerts.acknowledge(id, by)?)).await?;
    Ok(One::new(view))
}

/// What became of messages, the last first
///
/// Of the last 50,000: which wait, how often they were tried and why they did not arrive.
#[utoipa::path(
    get,
    path = "/api/ntp/alerts/deliveries",
    operation_id = "alert_deliveries",
    tag = "alerts",
    params(
        ("sink" = Option<String>, Query, description = "To this sink"),
        ("state" = Option<String>, Query, pattern = "^(waiting|delivered|failed)$", description = "In this state: waiting, delivered or failed"),
        ("before" = Option<u64>, Query, minimum = 1, description = "With a lower number: `next_before` of the answer before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "So many at most; 100 unless told otherwise"),
    ),
    responses(
        (status = 200, description = "What became of them", body = Numbered<Delivery>),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn deliveries(
    state: State,
    parameters: Parameters,
) -> Result<Json<Numbered<Delivery>>, ApiError> {
    parameters.only(&[&["sink", "state", "before", "limit"]])?;
    let sink = parameters
        .name("sink", "the name of a sink")?
        .map(str::to_owned);
    let progress = parameters.word("state", PROGRESS)?;
    let before = parameters.number("before", 1..=u64::MAX)?;
    let limit = parameters.number("limit", 1..=1000)?.unwrap_or(LIMIT) as usize;
    let data = ask(&state, move |alerts| {
        let outbox = alerts.outbox();
        // One more shows whether there are more.
        Ok(outbox.deliveries(sink.as_deref(), progress, before, limit + 1)?)
    })
    .await?;
    Ok(Numbered::new(data, limit, |delivery| delivery.number))
}

/// Where alerts are told
///
/// Each with how many messages wait for it, and why. They stand in the configuration.
#[utoipa::path(
    get,
    path = "/api/ntp/alerts/sinks",
    operation_id = "alert_sinks",
    tag = "alerts",
    responses(
        (status = 200, description = "They", body = List<SinkView>),
        (status = 400, description = "There are no parameters"),
    )
)]
async fn sinks(state: State, parameters: Parameters) -> Result<Json<List<SinkView>>, ApiError> {
    parameters.only(&[])?;
    let sinks = ask(&state, |alerts| Ok(alerts.sinks())).await?;
    Ok(List::new(sinks))
}

/// Send a test message to a sink
///
/// At once, and past those that wait. The answer says whether it arrived, and why not.
#[utoipa::path(
    post,
    path = "/api/ntp/alerts/sinks/{name}/test",
    operation_id = "test_sink",
    tag = "alerts",
    params(("name" = String, Path, description = "The sink's name", example = "ops")),
    responses(
        (status = 200, description = "Whether it arrived", body = One<Tested>),
        (status = 400, description = "The name cannot be"),
        (status = 404, description = "There is no such sink"),
    )
)]
async fn test_sink(
    state: State,
    _: NoParameters,
    Path(name): Path<String>,
) -> Result<Json<One<Tested>>, ApiError> {
    let name = name_of(name)?;
    let tested = ask(&state, move |alerts| {
        let tested = alerts.test(None, Some(&name))?.pop();
        Ok(tested.ok_or(Refusal::Unknown("sink", name))?)
    })
    .await?;
    Ok(One::new(tested))
}
