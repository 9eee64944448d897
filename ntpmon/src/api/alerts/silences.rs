//! Silences over HTTP: those of the configuration can be read, those that are made here also changed.

use axum::Json;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ask, name_of, rules::Gone};
use crate::{
    alert::{Alerts, Refusal, SilenceView, silence::Silence},
    api::{
        State,
        error::{ApiError, shown},
        extract::{self, Path},
        history::parameters::{NoParameters, Parameters},
        reply::{List, One},
    },
    config,
};

pub(super) fn reading() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(silences))
        .routes(routes!(silence))
}

pub(super) fn changing() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(create))
        .routes(routes!(replace))
        .routes(routes!(remove))
}

/// The silences there are
#[utoipa::path(
    get,
    path = "/api/ntp/alerts/silences",
    operation_id = "alert_silences",
    tag = "alerts",
    responses(
        (status = 200, description = "They", body = List<SilenceView>),
        (status = 400, description = "There are no parameters"),
    )
)]
async fn silences(
    state: State,
    parameters: Parameters,
) -> Result<Json<List<SilenceView>>, ApiError> {
    parameters.only(&[])?;
    let silences = ask(&state, |alerts| Ok(alerts.silences())).await?;
    Ok(List::new(silences))
}

/// One silence
#[utoipa::path(
    get,
    path = "/api/ntp/alerts/silences/{name}",
    operation_id = "alert_silence",
    tag = "alerts",
    params(("name" = String, Path, description = "Its name", example = "maintenance")),
    responses(
        (status = 200, description = "The silence", body = One<SilenceView>),
        (status = 400, description = "The name cannot be"),
        (status = 404, description = "There is no such silence"),
    )
)]
async fn silence(
    state: State,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Result<Json<One<SilenceView>>, ApiError> {
    parameters.only(&[])?;
    let name = name_of(name)?;
    let found = ask(&state, move |alerts| find(alerts, &name)).await?;
    Ok(One::new(found))
}

fn find(alerts: &Alerts, name: &str) -> Result<SilenceView, ApiError> {
    let mut silences = alerts.silences().into_iter();
    let found = silences.find(|it| it.name == name);
    Ok(found.ok_or_else(|| Refusal::Unknown("silence", name.to_owned()))?)
}

async fn set(state: &State, silence: Silence, replace: bool) -> Result<SilenceView, ApiError> {
    let faults = config::faults(&silence);
    if !faults.is_empty() {
        return Err(ApiError::invalid_body(faults.join("; ")));
    }
    ask(state, move |alerts| {
        let name = silence.name.clone();
        alerts.set_silence(silence, replace)?;
        find(alerts, &name)
    })
    .await
}

/// Make a silence
///
/// It is in force from its time on, survives a restart of the daemon, and is removed some time after it
/// is over.
#[utoipa::path(
    post,
    path = "/api/ntp/alerts/silences",
    operation_id = "create_alert_silence",
    tag = "alerts",
    request_body(content = Silence, description = "The silence"),
    responses(
        (status = 200, description = "It was made", body = One<SilenceView>),
        (status = 400, description = "It cannot be; the message says everything that is wrong"),
        (status = 409, description = "There is one of this name, or there are too many"),
        (status = 415, description = "The body is not JSON"),
    )
)]
async fn create(
    state: State,
    _: NoParameters,
    extract::Json(silence): extract::Json<Silence>,
) -> Result<Json<One<SilenceView>>, ApiError> {
    Ok(One::new(set(&state, silence, false).await?))
}

/// Put a silence in the place of another one
#[utoipa::path(
    put,
    path = "/api/ntp/alerts/silences/{name}",
    operation_id = "replace_alert_silence",
    tag = "alerts",
    params(("name" = String, Path, description = "Its name, as in the body", example = "maintenance")),
    request_body(content = Silence, description = "The silence"),
    responses(
        (status = 200, description = "It was replaced", body = One<SilenceView>),
        (status = 400, description = "It cannot be; the message says everything that is wrong"),
        (status = 404, description = "There is no such silence"),
        (status = 409, description = "It stands in the configuration"),
        (status = 415, description = "The body is not JSON"),
    )
)]
async fn replace(
    state: State,
    _: NoParameters,
    Path(name): Path<String>,
    extract::Json(silence): extract::Json<Silence>,
) -> Result<Json<One<SilenceView>>, ApiError> {
    let name = name_of(name)?;
    if silence.name != name {
        return Err(ApiError::invalid_body(format!(
            "name is '{}'; it has to be that of the path, '{name}'",
            shown(&silence.name)
        )));
    }
    Ok(One::new(set(&state, silence, true).await?))
}

/// Remove a silence
#[utoipa::path(
    delete,
    path = "/api/ntp/alerts/silences/{name}",
    operation_id = "remove_alert_silence",
    tag = "alerts",
    params(("name" = String, Path, description = "Its name", example = "maintenance")),
    responses(
        (status = 200, description = "It is gone", body = One<Gone>),
        (status = 400, description = "The name cannot be"),
        (status = 404, description = "There is no such silence"),
        (status = 409, description = "It stands in the configuration"),
    )
)]
async fn remove(
    state: State,
    _: NoParameters,
    Path(name): Path<String>,
) -> Result<Json<One<Gone>>, ApiError> {
    let name = name_of(name)?;
    let gone = ask(&state, move |alerts| {
        alerts.remove_silence(&name)?;
        Ok(Gone { name })
    })
    .await?;
    Ok(One::new(gone))
}
