//! Active checks over HTTP: `/api/ntp/checks`. Those of the configuration can be looked at, paused
//! and resumed; others can be made and deleted here.

use std::cmp::Reverse;

use axum::{Json, http::StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    State,
    error::ApiError,
    extract::{self, Path},
    history::{
        parameters::{CHECK_RESOLUTIONS, NoParameters, Parameters},
        schema::{Address, CheckResolutionName, Time},
    },
    reply::{One, Paged, ask},
};
use crate::{
    check::{
        CheckError, CheckId, Checks, Definition, Latest, Series, Shown,
        rollup::{CheckRollupView, Resolution},
        store::Store,
        view::Observation,
    },
    config,
    history::{query::QueryError, view::time},
    ntp::clock,
};

const SECOND: i64 = 1_000_000_000;

pub(super) fn reading() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(checks))
        .routes(routes!(check))
}

pub(super) fn changing() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(create))
        .routes(routes!(remove))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

impl From<CheckError> for ApiError {
    fn from(error: CheckError) -> Self {
        let message = error.to_string();
        match error {
            CheckError::Unknown(_) => Self::not_found("check_not_found", message),
            CheckError::NameTaken(..) => Self::new(StatusCode::CONFLICT, "check_exists", message),
            CheckError::FromConfig(_) => {
                Self::new(StatusCode::CONFLICT, "check_of_configuration", message)
            }
            CheckError::TooMany => Self::new(StatusCode::CONFLICT, "too_many_checks", message),
        }
    }
}

/// A check, and how its addresses were found last.
#[derive(Debug, Serialize, ToSchema)]
struct Check {
    /// Which it is: made from its name, so that it stays the same.
    id: String,
    /// What it is called.
    name: String,
    /// `config`, which is read only, or `api`.
    source: &'static str,
    /// Whether it rests.
    paused: bool,
    /// Whom it asks.
    server: String,
    /// From the beginning of one round to that of the next, as it was asked for.
    interval_seconds: f64,
    /// Questions in a round.
    samples: u8,
    /// From one question of a round to the next.
    sample_interval_seconds: f64,
    /// How long a question waits for its answer.
    timeout_seconds: f64,
    /// The version of NTP that it asks in.
    version: u8,
    /// `any`, `ipv4` or `ipv6`.
    family: crate::check::Family,
    /// Each address as it was found last; none before the first round.
    states: Vec<AddressState>,
}

/// How an address was found last.
#[derive(Debug, Serialize, ToSchema)]
struct AddressState {
    /// Null where the name has none.
    address: Option<String>,
    /// Where it is asked.
    port: u16,
    #[serde(flatten)]
    last: Observation,
    /// A bit for each of the last eight rounds, the last one lowest: 255 when all came to a time.
    /// What is left out of an address that is stopped came to none.
    reach: u8,
    /// The share of the last eight rounds, or of all there were, that came to a time.
    reach_ratio: Option<f64>,
    /// When it told the time last, since the daemon started.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_success_timestamp: Option<Timestamp>,
    /// How often it is asked now: seldomer than was asked for, where it said RATE.
    interval_seconds: f64,
    /// It said DENY or RSTR, and is not asked any more until the check is resumed.
    stopped: bool,
}

impl Check {
    fn new(shown: &Shown) -> Self {
        let it = &shown.definition;
        let port = it.server.port();
        Self {
            id: shown.id.to_string(),
            name: it.name(),
            source: shown.source.name(),
            paused: shown.paused,
            server: it.server.to_string(),
            interval_seconds: it.interval.as_secs_f64(),
            samples: it.samples,
            sample_interval_seconds: it.spacing.as_secs_f64(),
            timeout_seconds: it.timeout.as_secs_f64(),
            version: it.version,
            family: it.family,
            states: shown
                .latest
                .iter()
                .map(|latest| AddressState::new(latest, port))
                .collect(),
        }
    }
}

impl AddressState {
    fn new(latest: &Latest, port: u16) -> Self {
        Self {
            address: latest.address.map(|it| it.ip().to_string()),
            port: latest.address.map_or(port, |it| it.port()),
            last: Observation::from(&*latest.round),
            reach: latest.reach.register(),
            reach_ratio: latest.reach.ratio(),
            last_success_timestamp: latest.last_success.map(time),
            interval_seconds: latest.interval.as_secs_f64(),
            stopped: latest.stopped,
        }
    }
}

/// What became of a request about one check.
#[derive(Debug, Serialize, ToSchema)]
struct CheckReply {
    /// Always true.
    success: bool,
    /// What became of it, in words.
    message: String,
    /// The check.
    data: Check,
}

fn reply(shown: &Shown, became: &str) -> Json<CheckReply> {
    let data = Check::new(shown);
    Json(CheckReply {
        success: true,
        message: format!("the check '{}' {became}", data.name),
        data,
    })
}

/// A check with what was found before.
#[derive(Debug, Serialize, ToSchema)]
struct CheckWithHistory {
    #[serde(flatten)]
    check: Check,
    /// Of each address, the newest first: rounds, or what those of each hour or day came to. The
    /// address of which there is the newest comes first.
    history: Vec<AddressHistory>,
    /// Addresses of which there is something, too, that found no room in the answer: `address` asks
    /// for one of them, a smaller `limit` for more of them.
    addresses_left_out: u64,
}

/// Rounds, or sums, in one answer: a name may have had thousands of addresses.
const MOST_SHOWN: usize = 10_000;

/// What was found of an address before.
#[derive(Debug, Serialize, ToSchema)]
struct AddressHistory {
    /// Null where the name had none.
    address: Option<String>,
    /// Single rounds; null where hours or days were asked for.
    rounds: Option<Vec<PastRound>>,
    /// Hours or days; null where single rounds were asked for.
    rollups: Option<Vec<CheckRollupView>>,
}

/// A round of before.
#[derive(Debug, Serialize, ToSchema)]
struct PastRound {
    #[serde(flatten)]
    round: Observation,
    /// The reach register after it.
    reach: u8,
}

/// What is wanted of the history.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    resolution: Option<Resolution>,
    since: Option<i64>,
    until: Option<i64>,
    limit: usize,
}

impl Wanted {
    /// Of as many addresses as there is room for, those with the newest first; and how many more
    /// there are.
    fn all(
        &self,
        store: &Store,
        series: Vec<Series>,
    ) -> Result<(Vec<AddressHistory>, u64), QueryError> {
        let mut dated = Vec::with_capacity(series.len());
        for series in series {
            dated.push((store.newest(series)?, series));
        }
        dated.sort_by_key(|(newest, series)| (Reverse(*newest), *series));
        let most = (MOST_SHOWN / self.limit.max(1)).max(1);
        let left_out = dated.len().saturating_sub(most) as u64;
        let shown = dated.into_iter().take(most);
        let history: Result<_, _> = shown.map(|(_, it)| self.of(store, it)).collect();
        Ok((history?, left_out))
    }

    fn of(&self, store: &Store, series: Series) -> Result<AddressHistory, QueryError> {
        let address = series.address.map(|it| it.to_string());
        let (since, until, limit) = (self.since, self.until, self.limit);
        let Some(resolution) = self.resolution else {
            let rounds = store.rounds(series, since, until, limit)?;
            let rounds = rounds.iter().map(|(round, reach)| PastRound {
                round: Observation::from(round),
                reach: *reach,
            });
            return Ok(AddressHistory {
                address,
                rounds: Some(rounds.collect()),
                rollups: None,
            });
        };
        // One that began before is asked for by the time that it began at.
        let since = since.map(|since| since.div_euclid(SECOND));
        let until = until.map(|until| until.div_euclid(SECOND));
        let rollups = store.rollups(series, resolution, since, until, limit, clock::utc())?;
        let rollups = rollups
            .iter()
            .map(|(start, it)| CheckRollupView::new(*start, it));
        Ok(AddressHistory {
            address,
            rounds: None,
            rollups: Some(rollups.collect()),
        })
    }
}

fn id(text: &str) -> Result<CheckId, ApiError> {
    text.parse()
        .map_err(|error| ApiError::invalid_parameter("the check's id", text, error))
}

/// Every active check, and how its addresses were found last
///
/// By name.
#[utoipa::path(
    get,
    path = "/api/ntp/checks",
    operation_id = "list_checks",
    tag = "checks",
    params(
        ("page" = Option<u64>, Query, minimum = 1, maximum = 1_000_000_000, description = "Which page, from 1"),
        ("page_size" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Checks on a page; 20 unless told otherwise"),
    ),
    responses(
        (status = 200, description = "A page of checks; empty beyond the last", body = Paged<Check>),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn checks(state: State, parameters: Parameters) -> Result<Json<Paged<Check>>, ApiError> {
    parameters.only(&[&["page", "page_size"]])?;
    let page = parameters.page()?;
    let all = state.checks.list();
    let total = all.len() as u64;
    let size = usize::try_from(page.size).unwrap_or(usize::MAX);
    let wanted = all.iter().skip(page.start()).take(size);
    Ok(Paged::new(wanted.map(Check::new).collect(), &page, total))
}

/// Make an active check
///
/// It begins at once and goes on after a restart. What is left out is as in the configuration's
/// `[[check]]`.
#[utoipa::path(
    post,
    path = "/api/ntp/checks",
    operation_id = "create_check",
    tag = "checks",
    request_body(content = Definition, description = "Whom to ask, and how"),
    responses(
        (status = 200, description = "It was made", body = CheckReply),
        (status = 400, description = "It cannot be as it is; the message names the field at fault"),
        (status = 409, description = "There is one of that name, or there are too many"),
        (status = 415, description = "The body is not JSON"),
    )
)]
async fn create(
    state: State,
    _: NoParameters,
    extract::Json(definition): extract::Json<Definition>,
) -> Result<Json<CheckReply>, ApiError> {
    let faults = config::faults(&definition);
    if !faults.is_empty() {
        return Err(ApiError::invalid_body(faults.join("; ")));
    }
    let shown = state.checks.create(definition)?;
    keep(&state).await?;
    Ok(reply(&shown, "was made"))
}

/// One active check, how its addresses were found last, and before
#[utoipa::path(
    get,
    path = "/api/ntp/checks/{id}",
    operation_id = "check",
    tag = "checks",
    params(
        ("id" = String, Path, description = "The check's id", pattern = "^[0-9a-f]{16}$"),
        ("resolution" = inline(Option<CheckResolutionName>), Query, description = "Single rounds, or what those of an hour or a day came to; round unless told otherwise"),
        ("address" = inline(Option<Address>), Query, description = "Only what was found of this address"),
        ("since" = inline(Option<Time>), Query, description = "Ended, or for hours and days begun, then or later: RFC 3339, or seconds since 1970"),
        ("until" = inline(Option<Time>), Query, description = "Then or before; no earlier than `since`"),
        ("limit" = Option<u64>, Query, minimum = 0, maximum = 10000, description = "So many of each address at most, the newest; 20 unless told otherwise. An answer has no more than 10,000 in all"),
    ),
    responses(
        (status = 200, description = "The check", body = One<CheckWithHistory>),
        (status = 400, description = "The id or a parameter cannot be, or is not known"),
        (status = 404, description = "There is no such check"),
    )
)]
async fn check(
    state: State,
    Path(text): Path<String>,
    parameters: Parameters,
) -> Result<Json<One<CheckWithHistory>>, ApiError> {
    parameters.only(&[&["resolution", "address", "since", "until", "limit"]])?;
    let (since, until) = parameters.between()?;
    let wanted = Wanted {
        resolution: parameters.word("resolution", CHECK_RESOLUTIONS)?.flatten(),
        since,
        until,
        limit: parameters.number("limit", 0..=10_000)?.unwrap_or(20) as usize,
    };
    let address = parameters.address("address")?;
    let id = id(&text)?;
    let shown = state.checks.get(id)?;
    let store = state.checks.store();
    let history = spawn_blocking(move || {
        let mut all = store.series(id)?;
        all.retain(|it| address.is_none() || it.address == address);
        wanted.all(&store, all)
    });
    let history: Result<_, QueryError> = history
        .await
        .map_err(|error| ApiError::internal(&anyhow::Error::new(error)))?;
    let (history, addresses_left_out) = history?;
    Ok(One::new(CheckWithHistory {
        check: Check::new(&shown),
        history,
        addresses_left_out,
    }))
}

/// What was changed is on the disk when the answer says so.
async fn keep(state: &State) -> Result<(), ApiError> {
    let kept = ask(state, |history| Ok::<_, ApiError>(history.flush())).await?;
    if let Err(error) = kept {
        tracing::warn!("a change of the checks is not on the disk yet: {error:#}");
    }
    Ok(())
}

/// What is done to a check.
async fn change(
    state: &State,
    text: &str,
    change: impl FnOnce(&Checks, CheckId) -> Result<Shown, CheckError>,
    became: &str,
) -> Result<Json<CheckReply>, ApiError> {
    let shown = change(&state.checks, id(text)?)?;
    keep(state).await?;
    Ok(reply(&shown, became))
}

/// Let an active check rest
///
/// Over restarts too, until it is resumed. What was found stays.
#[utoipa::path(
    post,
    path = "/api/ntp/checks/{id}/pause",
    operation_id = "pause_check",
    tag = "checks",
    params(("id" = String, Path, description = "The check's id", pattern = "^[0-9a-f]{16}$")),
    responses(
        (status = 200, description = "It rests", body = CheckReply),
        (status = 400, description = "The id cannot be"),
        (status = 404, description = "There is no such check"),
    )
)]
async fn pause(
    state: State,
    _: NoParameters,
    Path(text): Path<String>,
) -> Result<Json<CheckReply>, ApiError> {
    change(&state, &text, Checks::pause, "is paused").await
}

/// Go on with an active check at once
///
/// Also with addresses that said DENY or RSTR and were not asked any more, and at the interval that
/// was asked for with those that said RATE.
#[utoipa::path(
    post,
    path = "/api/ntp/checks/{id}/resume",
    operation_id = "resume_check",
    tag = "checks",
    params(("id" = String, Path, description = "The check's id", pattern = "^[0-9a-f]{16}$")),
    responses(
        (status = 200, description = "It goes on", body = CheckReply),
        (status = 400, description = "The id cannot be"),
        (status = 404, description = "There is no such check"),
    )
)]
async fn resume(
    state: State,
    _: NoParameters,
    Path(text): Path<String>,
) -> Result<Json<CheckReply>, ApiError> {
    change(&state, &text, Checks::resume, "goes on").await
}

/// Delete an active check, and what it found
///
/// One of the configuration is taken out there.
#[utoipa::path(
    delete,
    path = "/api/ntp/checks/{id}",
    operation_id = "delete_check",
    tag = "checks",
    params(("id" = String, Path, description = "The check's id", pattern = "^[0-9a-f]{16}$")),
    responses(
        (status = 200, description = "It is gone", body = CheckReply),
        (status = 400, description = "The id cannot be"),
        (status = 404, description = "There is no such check"),
        (status = 409, description = "It stands in the configuration"),
    )
)]
async fn remove(
    state: State,
    _: NoParameters,
    Path(text): Path<String>,
) -> Result<Json<CheckReply>, ApiError> {
    change(&state, &text, Checks::remove, "is deleted").await
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;
    use crate::{
        check::{Failure, round::Round},
        history::{History, Settings},
    };

    #[test]
    fn an_answer_is_bounded_and_has_the_newest_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            flush_interval: Duration::from_secs(3600),
            ..Settings::default()
        };
        let store = Store::new(History::open(folder.path(), settings).unwrap());
        let check = CheckId::of("pool.example");
        for number in 1..=50_u8 {
            let series = Series {
                check,
                address: Some(Ipv4Addr::new(192, 0, 2, number).into()),
            };
            let round = Round::failed(&Failure::Refused, i64::from(number) * SECOND);
            store.put(series, &round, 0);
        }
        let all = |limit| {
            let wanted = Wanted {
                resolution: None,
                since: None,
                until: None,
                limit,
            };
            let series = store.series(check).unwrap();
            let (history, left_out) = wanted.all(&store, series).unwrap();
            let newest = history[0].address.clone().unwrap();
            (history.len(), left_out, newest)
        };
        let newest = || "192.0.2.50".to_owned();
        assert_eq!(all(20), (50, 0, newest()));
        assert_eq!(all(1000), (10, 40, newest()));
        assert_eq!(all(10_000), (1, 49, newest()));
        assert_eq!(all(0), (50, 0, newest()));
    }
}
