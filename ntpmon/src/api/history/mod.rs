//! What was remembered, over HTTP: `/api/ntp/history`. Paths and fields are those of the Flask
//! application that came before, where it had them.

pub(super) mod parameters;

use std::net::IpAddr;

use axum::Json;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::parameters::{FILTERS, Filters, ORDER, PAGE, Page, Parameters};
use super::{
    State,
    error::ApiError,
    extract::{self, Path},
};
use crate::{
    history::{
        History, Removed,
        query::{ClientPage, QueryError},
        rollup::Resolution,
        view::{
            Client, ClientDetail, HistoryHealth, InterfaceStatistics, RollupView, Server,
            ServiceStatistics,
        },
    },
    ntp::clock,
};

pub(super) fn reading() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(clients))
        .routes(routes!(client))
        .routes(routes!(search))
        .routes(routes!(servers))
        .routes(routes!(server))
        .routes(routes!(interface_statistics))
        .routes(routes!(service_statistics))
        .routes(routes!(rollups))
        .routes(routes!(health))
}

pub(super) fn changing() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(cleanup))
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let message = error.to_string();
        match error {
            QueryError::Unavailable(_) => Self::unavailable("history_unavailable", message),
            QueryError::Cursor(_) => Self::new(
                axum::http::StatusCode::BAD_REQUEST,
                "invalid_cursor",
                message,
            ),
            QueryError::Failed(error) => Self::internal(&error),
        }
    }
}

/// Asks the history where waiting for the disk keeps nobody else.
pub(super) async fn ask<T: Send + 'static, E: Into<ApiError> + Send + 'static>(
    state: &State,
    ask: impl FnOnce(&History) -> Result<T, E> + Send + 'static,
) -> Result<T, ApiError> {
    let history = state.history.clone();
    spawn_blocking(move || ask(&history).map_err(Into::into))
        .await
        .map_err(|error| ApiError::internal(&anyhow::Error::new(error)))?
}

/// Which part of a list this is.
#[derive(Debug, Serialize, ToSchema)]
struct Pagination {
    /// From 1; null where a cursor was followed.
    page: Option<u64>,
    /// At most so many.
    page_size: u64,
    /// In all.
    total: u64,
    /// In all.
    total_pages: u64,
    /// Whether more follow.
    has_next: bool,
    /// Whether there are some before; null where a cursor was followed.
    has_prev: Option<bool>,
    /// Give this as `cursor` to get what follows, however the list has changed meanwhile.
    next_cursor: Option<String>,
}

impl Pagination {
    fn new(page: &Page, total: u64, has_next: bool, next_cursor: Option<String>) -> Self {
        Self {
            page: page.number,
            page_size: page.size,
            total,
            total_pages: total.div_ceil(page.size),
            has_next,
            has_prev: page.number.map(|number| number > 1 && total > 0),
            next_cursor,
        }
    }
}

/// A part of a list of clients.
#[derive(Debug, Serialize, ToSchema)]
struct ClientList {
    /// Always true.
    success: bool,
    /// The clients of this page.
    data: Vec<Client>,
    /// How many they are.
    count: usize,
    /// Which part it is.
    pagination: Pagination,
}

impl ClientList {
    fn new(found: ClientPage, page: &Page) -> Self {
        let has_next = found.next_cursor.is_some();
        Self {
            success: true,
            count: found.clients.len(),
            data: found.clients,
            pagination: Pagination::new(page, found.total, has_next, found.next_cursor),
        }
    }
}

/// Any list.
#[derive(Debug, Serialize, ToSchema)]
struct List<T> {
    /// Always true.
    success: bool,
    /// How many there are.
    count: usize,
    /// They.
    data: Vec<T>,
}

impl<T> List<T> {
    fn new(data: Vec<T>) -> Json<Self> {
        Json(Self {
            success: true,
            count: data.len(),
            data,
        })
    }
}

/// Any single thing.
#[derive(Debug, Serialize, ToSchema)]
struct One<T> {
    /// Always true.
    success: bool,
    /// It.
    data: T,
}

impl<T> One<T> {
    const fn new(data: T) -> Json<Self> {
        Json(Self {
            success: true,
            data,
        })
    }
}

async fn list_clients(
    state: &State,
    filters: Parameters,
    page: Parameters,
    order: Parameters,
) -> Result<Json<ClientList>, ApiError> {
    let (query, page) = Parameters::clients(&filters, &page, &order, &state.history)?;
    let found = ask(state, move |history| history.clients(&query)).await?;
    Ok(Json(ClientList::new(found, &page)))
}

/// Clients, filtered and in an order
///
/// All filters that are given have to be fulfilled. Pages are numbered from 1, or follow each other
/// by `cursor`, which gives each client once however the list changes meanwhile.
#[utoipa::path(
    get,
    path = "/api/ntp/history/clients",
    operation_id = "list_clients",
    tag = "history",
    params(
        ("page" = Option<u64>, Query, minimum = 1, description = "Which page, from 1"),
        ("page_size" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Clients on a page; 20 unless told otherwise"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, in place of `page`", pattern = "^[0-9a-f]{60}$"),
        ("search_ip" = Option<String>, Query, description = "An address, a network as 192.0.2.0/24, or the beginning of an address as 192.0.2.", example = "192.0.2.0/24"),
        ("client_ips" = Option<String>, Query, description = "Any of these addresses, separated by commas"),
        ("interface_name" = Option<String>, Query, description = "Any of these interfaces, separated by commas", example = "eth0"),
        ("interface_names" = Option<String>, Query, description = "The same"),
        ("version" = Option<u8>, Query, minimum = 0, maximum = 7, description = "Of the packet that describes the client"),
        ("stratum" = Option<u8>, Query, minimum = 0, maximum = 255, description = "Of the packet that describes the client"),
        ("client_clock" = Option<String>, Query, description = "honest, randomised or unknown", pattern = "^(honest|randomised|unknown)$"),
        ("since" = Option<String>, Query, description = "Seen last then or later: RFC 3339, or seconds since 1970"),
        ("until" = Option<String>, Query, description = "Seen last then or before"),
        ("sort" = Option<String>, Query, description = "last_seen (the default), first_seen, session_count, unanswered, latency, processing_time, total_time, request_rate or client_ip; what is unknown comes last"),
        ("order" = Option<String>, Query, description = "asc, or desc (the default)", pattern = "^(asc|desc)$"),
    ),
    responses(
        (status = 200, description = "A page of clients; empty beyond the last", body = ClientList),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn clients(state: State, parameters: Parameters) -> Result<Json<ClientList>, ApiError> {
    parameters.only(&[PAGE, FILTERS, ORDER])?;
    list_clients(&state, parameters.clone(), parameters.clone(), parameters).await
}

/// A search with lists of addresses and interfaces.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct SearchBody {
    /// What clients are picked by.
    #[serde(default)]
    #[schema(value_type = Option<Filters>)]
    filters: Option<Parameters>,
    /// `page`, `page_size` or `cursor`.
    #[serde(default)]
    #[schema(value_type = Option<PaginationBody>)]
    pagination: Option<Parameters>,
    /// As in the list of clients.
    #[serde(default)]
    sort: Option<String>,
    /// `asc` or `desc`.
    #[serde(default)]
    order: Option<String>,
}

/// Which part of a list is wanted.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "it is only described: the values are read by Parameters"
)]
struct PaginationBody {
    /// From 1.
    #[schema(minimum = 1)]
    page: Option<u64>,
    /// 20 unless told otherwise.
    #[schema(minimum = 1, maximum = 1000)]
    page_size: Option<u64>,
    /// `next_cursor` of the page before, in place of `page`.
    cursor: Option<String>,
}

/// Clients, as in their list, with the filters in a body
#[utoipa::path(
    post,
    path = "/api/ntp/history/search",
    operation_id = "search_clients",
    tag = "history",
    request_body(content = SearchBody, description = "Which clients, and which part of them"),
    responses(
        (status = 200, description = "A page of clients; empty beyond the last", body = ClientList),
        (status = 400, description = "The body cannot be, or has a field that is not known"),
        (status = 415, description = "The body is not JSON"),
    )
)]
async fn search(
    state: State,
    extract::Json(body): extract::Json<SearchBody>,
) -> Result<Json<ClientList>, ApiError> {
    let filters = body.filters.unwrap_or_default();
    let pagination = body.pagination.unwrap_or_default();
    filters.only(&[FILTERS])?;
    pagination.only(&[PAGE])?;
    let mut order = Map::new();
    for (name, value) in [("sort", body.sort), ("order", body.order)] {
        if let Some(value) = value {
            order.insert(name.to_owned(), Value::String(value));
        }
    }
    let order = serde_json::from_value(Value::Object(order))
        .map_err(|error| ApiError::invalid_body(error.to_string()))?;
    list_clients(&state, filters, pagination, order).await
}

fn address(text: &str) -> Result<IpAddr, ApiError> {
    text.parse().map_err(|_| {
        ApiError::invalid_parameter(
            "the address",
            text,
            "an IPv4 or IPv6 address, as 192.0.2.1 or 2001:db8::1",
        )
    })
}

/// A client on every interface, its last sessions and its activity by the hour
#[utoipa::path(
    get,
    path = "/api/ntp/history/clients/{ip}",
    operation_id = "client",
    tag = "history",
    params(
        ("ip" = String, Path, description = "Its address", example = "192.0.2.1"),
        ("sessions" = Option<u64>, Query, minimum = 0, maximum = 1000, description = "So many sessions at most; 100 unless told otherwise"),
    ),
    responses(
        (status = 200, description = "All that is known of it", body = One<ClientDetail>),
        (status = 400, description = "It is no address, or a parameter cannot be"),
        (status = 404, description = "It was never seen, or was forgotten"),
    )
)]
async fn client(
    state: State,
    Path(ip): Path<String>,
    parameters: Parameters,
) -> Result<Json<One<ClientDetail>>, ApiError> {
    parameters.only(&[&["sessions"]])?;
    let ip = address(&ip)?;
    let sessions = parameters.number("sessions", 0..=1000)?.unwrap_or(100) as usize;
    let found = ask(&state, move |history| history.client(ip, sessions)).await?;
    found.map(One::new).ok_or_else(|| {
        ApiError::not_found(
            "client_not_found",
            format!("no client {ip} was seen on any interface"),
        )
    })
}

/// A part of a list of servers.
#[derive(Debug, Serialize, ToSchema)]
struct ServerList {
    /// Always true.
    success: bool,
    /// The servers of this page.
    data: Vec<Server>,
    /// How many they are.
    count: usize,
    /// Which part it is; there are no cursors.
    pagination: Pagination,
}

/// Servers, by address
#[utoipa::path(
    get,
    path = "/api/ntp/history/servers",
    operation_id = "list_servers",
    tag = "history",
    params(
        ("page" = Option<u64>, Query, minimum = 1, description = "Which page, from 1"),
        ("page_size" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Servers on a page; 20 unless told otherwise"),
        ("search_ip" = Option<String>, Query, description = "An address, a network, or the beginning of an address"),
        ("interface_name" = Option<String>, Query, description = "Any of these interfaces, separated by commas"),
    ),
    responses(
        (status = 200, description = "A page of servers; empty beyond the last", body = ServerList),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn servers(state: State, parameters: Parameters) -> Result<Json<ServerList>, ApiError> {
    parameters.only(&[&["page", "page_size", "search_ip", "interface_name"]])?;
    let page = parameters.page()?;
    let ranges = parameters.addresses()?;
    let interfaces = parameters.interfaces(&state.history)?;
    let (number, size) = (page.number.unwrap_or(1), page.size as usize);
    let (data, total) = ask(&state, move |history| {
        let found = history.servers(ranges.as_deref(), interfaces.as_deref(), number, size);
        Ok::<_, ApiError>(found)
    })
    .await?;
    let has_next = number.saturating_mul(page.size) < total;
    Ok(Json(ServerList {
        success: true,
        count: data.len(),
        data,
        pagination: Pagination::new(&page, total, has_next, None),
    }))
}

/// A server on every interface
#[utoipa::path(
    get,
    path = "/api/ntp/history/servers/{ip}",
    operation_id = "server",
    tag = "history",
    params(("ip" = String, Path, description = "Its address", example = "192.0.2.1")),
    responses(
        (status = 200, description = "What its answers say, by interface", body = List<Server>),
        (status = 400, description = "It is no address"),
        (status = 404, description = "It was never asked, or was forgotten"),
    )
)]
async fn server(
    state: State,
    Path(ip): Path<String>,
    parameters: Parameters,
) -> Result<Json<List<Server>>, ApiError> {
    parameters.only(&[])?;
    let ip = address(&ip)?;
    let found = ask(&state, move |history| Ok::<_, ApiError>(history.server(ip))).await?;
    if found.is_empty() {
        return Err(ApiError::not_found(
            "server_not_found",
            format!("no server {ip} was asked on any interface"),
        ));
    }
    Ok(List::new(found))
}

/// Every interface since the database began
#[utoipa::path(
    get,
    path = "/api/ntp/history/interfaces/statistics",
    operation_id = "interface_statistics",
    tag = "history",
    responses((status = 200, description = "Totals and distributions, by interface", body = List<InterfaceStatistics>))
)]
async fn interface_statistics(state: State) -> Result<Json<List<InterfaceStatistics>>, ApiError> {
    ask(&state, History::interface_statistics)
        .await
        .map(List::new)
}

/// How the history is kept, since the daemon started
#[utoipa::path(
    get,
    path = "/api/ntp/history/service/statistics",
    operation_id = "service_statistics",
    tag = "history",
    responses((status = 200, description = "What came in, what was written, what did not find a place", body = One<ServiceStatistics>))
)]
async fn service_statistics(state: State) -> Result<Json<One<ServiceStatistics>>, ApiError> {
    ask(&state, |history| {
        Ok::<_, ApiError>(history.service_statistics())
    })
    .await
    .map(One::new)
}

/// What happened on interfaces by the minute, the hour or the day
#[utoipa::path(
    get,
    path = "/api/ntp/history/rollups",
    operation_id = "rollups",
    tag = "history",
    params(
        ("interface_name" = Option<String>, Query, description = "Any of these interfaces, separated by commas"),
        ("resolution" = Option<String>, Query, description = "minute, hour (the default) or day", pattern = "^(minute|hour|day)$"),
        ("since" = Option<String>, Query, description = "Those that began then or later: RFC 3339, or seconds since 1970"),
        ("until" = Option<String>, Query, description = "Those that began then or before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 10000, description = "The latest so many of each interface; 1000 unless told otherwise"),
    ),
    responses(
        (status = 200, description = "By interface and time", body = List<RollupView>),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn rollups(state: State, parameters: Parameters) -> Result<Json<List<RollupView>>, ApiError> {
    parameters.only(&[&["interface_name", "resolution", "since", "until", "limit"]])?;
    let resolution = parameters
        .read("resolution", "minute, hour or day", |text| {
            Resolution::EACH
                .into_iter()
                .find(|resolution| resolution.seconds().is_some() && resolution.name() == text)
        })?
        .unwrap_or(Resolution::Hour);
    // Checks the times too.
    let filter = parameters.filter(&state.history)?;
    let second = |time: i64| time.div_euclid(1_000_000_000);
    let since = filter.since.map_or(i64::MIN, second);
    let until = filter.until.map_or(i64::MAX, second);
    let limit = parameters.number("limit", 1..=10_000)?.unwrap_or(1000) as usize;
    ask(&state, move |history| {
        history.rollups(
            filter.interfaces.as_deref(),
            resolution,
            since..=until,
            limit,
        )
    })
    .await
    .map(List::new)
}

/// How the history is.
#[derive(Debug, Serialize, ToSchema)]
struct HealthReply {
    /// Always true.
    success: bool,
    /// How it is.
    #[serde(flatten)]
    health: HistoryHealth,
}

/// Whether the history can be written and read
#[utoipa::path(
    get,
    path = "/api/ntp/history/health",
    operation_id = "history_health",
    tag = "history",
    responses((status = 200, description = "healthy, or degraded and why", body = HealthReply))
)]
async fn health(state: State) -> Result<Json<HealthReply>, ApiError> {
    let health = ask(&state, |history| Ok::<_, ApiError>(history.health())).await?;
    Ok(Json(HealthReply {
        success: true,
        health,
    }))
}

/// What is to be removed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(
    dead_code,
    reason = "it is only described: the values are read by Parameters"
)]
struct CleanupBody {
    /// What was seen last so many days ago or earlier.
    #[schema(minimum = 0, maximum = 36500)]
    older_than_days: Option<f64>,
    /// What was seen last before this time, in place of `older_than_days`: RFC 3339, or seconds
    /// since 1970.
    before: Option<String>,
    /// Only count.
    dry_run: Option<bool>,
    /// Give room in the file that is not used back, besides or alone.
    compact: Option<bool>,
}

/// What was removed, or would be.
#[derive(Debug, Serialize, ToSchema)]
struct CleanupReply {
    /// Always true.
    success: bool,
    /// What became of it, in words.
    message: String,
    /// Clients.
    deleted_count: u64,
    /// Each kind.
    data: CleanupCounts,
}

#[derive(Debug, Serialize, ToSchema)]
struct CleanupCounts {
    /// Nothing was removed, only counted.
    dry_run: bool,
    clients: u64,
    servers: u64,
    sessions: u64,
    rollups: u64,
    /// Where the file was compacted.
    database_bytes_before: Option<u64>,
    /// Where the file was compacted.
    database_bytes_after: Option<u64>,
}

/// Remove what is old, and make the file smaller
#[utoipa::path(
    post,
    path = "/api/ntp/history/cleanup",
    operation_id = "clean_up_history",
    tag = "history",
    request_body(content = CleanupBody, description = "What to remove: one of `older_than_days` and `before`, or only `compact`"),
    responses(
        (status = 200, description = "It was removed, or counted", body = CleanupReply),
        (status = 400, description = "The body cannot be"),
        (status = 415, description = "The body is not JSON"),
    )
)]
async fn cleanup(
    state: State,
    extract::Json(body): extract::Json<Parameters>,
) -> Result<Json<CleanupReply>, ApiError> {
    body.only(&[&["older_than_days", "before", "dry_run", "compact"]])?;
    let flag = |name: &str| {
        body.read(name, "true or false", |text| text.parse::<bool>().ok())
            .map(Option::unwrap_or_default)
    };
    let (dry_run, compact) = (flag("dry_run")?, flag("compact")?);
    let days = body.read(
        "older_than_days",
        "a number of days from 0 to 36500",
        |text| {
            let days: f64 = text.parse().ok()?;
            (0.0..=36_500.0).contains(&days).then_some(days)
        },
    )?;
    let before = match (days, body.time("before")?) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid_body(
                "older_than_days and before are both given; it has to be one of them",
            ));
        }
        (Some(days), None) => Some(clock::utc().saturating_sub((days * 86_400e9) as i64)),
        (None, before) => before,
    };
    if before.is_none() && !compact {
        return Err(ApiError::invalid_body(
            "neither older_than_days nor before is given, nor compact: there is nothing to do",
        ));
    }
    let (removed, sizes) = ask(&state, move |history| {
        let removed = match before {
            Some(before) => history.clean_up(before, dry_run)?,
            None => Removed::default(),
        };
        let sizes = (compact && !dry_run)
            .then(|| history.compact())
            .transpose()?;
        Ok::<_, anyhow::Error>((removed, sizes))
    })
    .await?;
    let Removed {
        clients,
        servers,
        sessions,
        rollups,
    } = removed;
    let verb = if dry_run {
        "would be removed"
    } else {
        "were removed"
    };
    Ok(Json(CleanupReply {
        success: true,
        message: format!(
            "{clients} clients, {servers} servers, {sessions} sessions and {rollups} rollups {verb}"
        ),
        deleted_count: clients,
        data: CleanupCounts {
            dry_run,
            clients,
            servers,
            sessions,
            rollups,
            database_bytes_before: sizes.map(|(before, _)| before),
            database_bytes_after: sizes.map(|(_, after)| after),
        },
    }))
}
