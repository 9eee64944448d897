//! Rules over HTTP: those of the configuration can be read, those that are made here also changed.

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ask, name_of};
use crate::{
    alert::{Alerts, Refusal, RuleView, Tested, Verdict, rule::Rule},
    api::{
        State,
        error::ApiError,
        extract::{self, OptionalJson, Path},
        history::parameters::{NoParameters, Parameters},
        reply::{List, One},
    },
    config,
};

pub(super) fn reading() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(rules))
        .routes(routes!(rule))
}

pub(super) fn changing() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(create))
        .routes(routes!(replace))
        .routes(routes!(remove))
        .routes(routes!(test))
}

/// The rules there are
///
/// Those of the configuration, of the API, and those that are there without being asked for; each with
/// how it is.
#[utoipa::path(
    get,
    path = "/api/ntp/alerts/rules",
    operation_id = "alert_rules",
    tag = "alerts",
    responses(
        (status = 200, description = "They", body = List<RuleView>),
        (status = 400, description = "There are no parameters"),
    )
)]
async fn rules(state: State, parameters: Parameters) -> Result<Json<List<RuleView>>, ApiError> {
    parameters.only(&[])?;
    let rules = ask(&state, |alerts| Ok(alerts.rules())).await?;
    Ok(List::new(rules))
}

/// One rule
#[utoipa::path(
    get,
    path = "/api/ntp/alerts/rules/{name}",
    operation_id = "alert_rule",
    tag = "alerts",
    params(("name" = String, Path, description = "Its name", example = "disk-free")),
    responses(
        (status = 200, description = "The rule, and how it is", body = One<RuleView>),
        (status = 400, description = "The name cannot be"),
        (status = 404, description = "There is no such rule"),
    )
)]
async fn rule(
    state: State,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Result<Json<One<RuleView>>, ApiError> {
    parameters.only(&[])?;
    let name = name_of(name)?;
    let found = ask(&state, move |alerts| find(alerts, &name)).await?;
    Ok(One::new(found))
}

fn find(alerts: &Alerts, name: &str) -> Result<RuleView, ApiError> {
    let mut rules = alerts.rules().into_iter();
    let found = rules.find(|it| it.name == name);
    Ok(found.ok_or_else(|| Refusal::Unknown("rule", name.to_owned()))?)
}

/// Everything that is wrong with a rule.
fn checked(rule: &Rule, alerts: &Alerts) -> Result<(), ApiError> {
    let mut faults = config::faults(rule);
    let known = alerts.sinks();
    let sinks = rule.sinks.iter().flatten();
    for sink in sinks.filter(|name| known.iter().all(|it| it.name != **name)) {
        let names: Vec<_> = known.iter().map(|it| it.name.as_str()).collect();
        faults.push(format!(
            "sinks: there is no '{sink}': expected some of: {}",
            names.join(", ")
        ));
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid_body(faults.join("; ")))
    }
}

async fn set(state: &State, rule: Rule, replace: bool) -> Result<RuleView, ApiError> {
    ask(state, move |alerts| {
        checked(&rule, alerts)?;
        let name = rule.name.clone();
        alerts.set_rule(rule, replace)?;
        find(alerts, &name)
    })
    .await
}

/// Make a rule
///
/// It is in force at once, and survives a restart of the daemon. One with the name of a rule of the
/// configuration cannot be.
#[utoipa::path(
    post,
    path = "/api/ntp/alerts/rules",
    operation_id = "create_alert_rule",
    tag = "alerts",
    request_body(content = Rule, description = "The rule"),
    responses(
        (status = 200, description = "It is in force", body = One<RuleView>),
        (status = 400, description = "It cannot be; the message says everything that is wrong"),
        (status = 409, description = "There is one of this name, or there are too many"),
        (status = 415, description = "The body is not JSON"),
    )
)]
async fn create(
    state: State,
    _: NoParameters,
    extract::Json(rule): extract::Json<Rule>,
) -> Result<Json<One<RuleView>>, ApiError> {
    Ok(One::new(set(&state, rule, false).await?))
}

/// Put a rule in the place of another one
///
/// Its alerts go on, and are looked at by the new one. In the place of one that is there without being
/// asked for too.
#[utoipa::path(
    put,
    path = "/api/ntp/alerts/rules/{name}",
    operation_id = "replace_alert_rule",
    tag = "alerts",
    params(("name" = String, Path, description = "Its name, as in the body", example = "disk-free")),
    request_body(content = Rule, description = "The rule"),
    responses(
        (status = 200, description = "It is in force", body = One<RuleView>),
        (status = 400, description = "It cannot be; the message says everything that is wrong"),
        (status = 404, description = "There is no such rule"),
        (status = 409, description = "It stands in the configuration"),
        (status = 415, description = "The body is not JSON"),
    )
)]
async fn replace(
    state: State,
    _: NoParameters,
    Path(name): Path<String>,
    extract::Json(rule): extract::Json<Rule>,
) -> Result<Json<One<RuleView>>, ApiError> {
    let name = name_of(name)?;
    if rule.name != name {
        return Err(ApiError::invalid_body(format!(
            "name is '{}'; it has to be that of the path, '{name}'",
            crate::api::error::shown(&rule.name)
        )));
    }
    Ok(One::new(set(&state, rule, true).await?))
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Gone {
    /// What it was called.
    pub(super) name: String,
}

/// Remove a rule
///
/// Its alerts are over. One that is there without being asked for is back then, where it was replaced.
#[utoipa::path(
    delete,
    path = "/api/ntp/alerts/rules/{name}",
    operation_id = "remove_alert_rule",
    tag = "alerts",
    params(("name" = String, Path, description = "Its name", example = "disk-free")),
    responses(
        (status = 200, description = "It is gone", body = One<Gone>),
        (status = 400, description = "The name cannot be"),
        (status = 404, description = "There is no such rule"),
        (status = 409, description = "It is not the API's"),
    )
)]
async fn remove(
    state: State,
    _: NoParameters,
    Path(name): Path<String>,
) -> Result<Json<One<Gone>>, ApiError> {
    let name = name_of(name)?;
    let gone = ask(&state, move |alerts| {
        alerts.remove_rule(&name)?;
        Ok(Gone { name })
    })
    .await?;
    Ok(One::new(gone))
}

/// What to try.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TestBody {
    /// Whether a test message is sent to the rule's sinks.
    #[serde(default)]
    send: bool,
}

/// What a rule would do.
#[derive(Debug, Serialize, ToSchema)]
struct TestReply {
    /// How it judges the values now, without time or grace.
    verdicts: Vec<Verdict>,
    /// Whether a test message arrived at each sink; nothing unless one was sent.
    sent: Vec<Tested>,
}

/// Try a rule
///
/// How it judges the values there are now; nothing comes of it. With `send` a test message goes to its
/// sinks.
#[utoipa::path(
    post,
    path = "/api/ntp/alerts/rules/{name}/test",
    operation_id = "test_alert_rule",
    tag = "alerts",
    params(("name" = String, Path, description = "Its name", example = "disk-free")),
    request_body(content = Option<TestBody>, description = "What to try"),
    responses(
        (status = 200, description = "What it would do", body = One<TestReply>),
        (status = 400, description = "The name or the body cannot be"),
        (status = 404, description = "There is no such rule"),
        (status = 415, description = "The body is not JSON"),
    )
)]
async fn test(
    state: State,
    _: NoParameters,
    Path(name): Path<String>,
    OptionalJson(body): OptionalJson<TestBody>,
) -> Result<Json<One<TestReply>>, ApiError> {
    let name = name_of(name)?;
    let reply = ask(&state, move |alerts| {
        let rule = find(alerts, &name)?.definition;
        let sent = if body.send {
            alerts.test(Some(&rule), None)?
        } else {
            Vec::new()
        };
        Ok(TestReply {
            verdicts: alerts.judge(&rule),
            sent,
        })
    })
    .await?;
    Ok(One::new(reply))
}
