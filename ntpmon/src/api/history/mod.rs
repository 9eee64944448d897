//! What was remembered, over HTTP: `/api/ntp/history`. Paths and fields are those of the Flask
//! application that came before, where it had them.

pub(super) mod parameters;
pub(super) mod schema;
#[cfg(test)]
mod tests;

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    parameters::{FILTERS, ORDER, PAGE, Page, Parameters, RESOLUTIONS},
    schema::{
        Address, Addresses, CleanupBody, ClockName, Names, OrderName, ResolutionName, Search,
        SearchBody, SortName, Time,
    },
};
use super::{
    State,
    error::ApiError,
    extract::{self, Path},
    reply::{List, One, Paged, Pagination, address, ask, of_server},
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
    netlink,
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

const SECOND: i64 = 1_000_000_000;

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

async fn list_clients(
    state: &State,
    filters: &Parameters,
    page: &Parameters,
    order: &Parameters,
) -> Result<Json<ClientList>, ApiError> {
    let (query, page) = Parameters::clients(filters, page, order, &state.history)?;
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
        ("page" = Option<u64>, Query, minimum = 1, maximum = 1_000_000_000, description = "Which page, from 1"),
        ("page_size" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Clients on a page; 20 unless told otherwise"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, in place of `page`"),
        ("search_ip" = inline(Option<Search>), Query, description = "An address, a network as 192.0.2.0/24, or the beginning of an address as 192.0.2."),
        ("client_ips" = inline(Option<Addresses>), Query, style = Form, explode = false, description = "Any of these addresses"),
        ("interface_name" = inline(Option<Names>), Query, style = Form, explode = false, description = "Any of these interfaces, separated by commas"),
        ("interface_names" = inline(Option<Names>), Query, style = Form, explode = false, description = "The same; who is in both is picked"),
        ("version" = Option<u8>, Query, minimum = 0, maximum = 7, description = "Of the packet that describes the client"),
        ("stratum" = Option<u8>, Query, minimum = 0, maximum = 255, description = "Of the packet that describes the client"),
        ("client_clock" = inline(Option<ClockName>), Query, description = "What is known of its clock"),
        ("clock_error_at_least_seconds" = Option<f64>, Query, minimum = 0, maximum = 4_294_967_296_f64, description = "Its clock is known to be wrong by so much at least, in either direction"),
        ("since" = inline(Option<Time>), Query, description = "Seen last then or later: RFC 3339, or seconds since 1970"),
        ("until" = inline(Option<Time>), Query, description = "Seen last then or before; no earlier than `since`"),
        ("sort" = inline(Option<SortName>), Query, description = "By what; last_seen unless told otherwise. What is not known comes last in either order"),
        ("order" = inline(Option<OrderName>), Query, description = "desc unless told otherwise"),
    ),
    responses(
        (status = 200, description = "A page of clients; empty beyond the last", body = ClientList),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn clients(state: State, parameters: Parameters) -> Result<Json<ClientList>, ApiError> {
    parameters.only(&[PAGE, FILTERS, ORDER])?;
    list_clients(&state, &parameters, &parameters, &parameters).await
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
    extract::Json(body): extract::Json<Parameters>,
) -> Result<Json<ClientList>, ApiError> {
    body.only(&[&["filters", "pagination"], ORDER])?;
    let filters = body.object("filters", "filters.")?;
    let pagination = body.object("pagination", "pagination.")?;
    filters.only(&[FILTERS])?;
    pagination.only(&[PAGE])?;
    list_clients(&state, &filters, &pagination, &body).await
}

/// A client on every interface, its last sessions and its activity by the hour
#[utoipa::path(
    get,
    path = "/api/ntp/history/clients/{ip}",
    operation_id = "client",
    tag = "history",
    params(
        ("ip" = inline(Address), Path, description = "Its address"),
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

/// Servers, by address
#[utoipa::path(
    get,
    path = "/api/ntp/history/servers",
    operation_id = "list_servers",
    tag = "history",
    params(
        ("page" = Option<u64>, Query, minimum = 1, maximum = 1_000_000_000, description = "Which page, from 1"),
        ("page_size" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Servers on a page; 20 unless told otherwise"),
        ("search_ip" = inline(Option<Search>), Query, description = "An address, a network, or the beginning of an address"),
        ("interface_name" = inline(Option<Names>), Query, style = Form, explode = false, description = "Any of these interfaces, separated by commas"),
    ),
    responses(
        (status = 200, description = "A page of servers; empty beyond the last", body = Paged<Server>),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn servers(state: State, parameters: Parameters) -> Result<Json<Paged<Server>>, ApiError> {
    parameters.only(&[&["page", "page_size", "search_ip", "interface_name"]])?;
    let page = parameters.page()?;
    let ranges = parameters.addresses()?;
    let interfaces = parameters.interfaces(&state.history)?;
    let (start, size) = (page.start(), page.size as usize);
    let (data, total) = ask(&state, move |history| {
        let found = history.servers(ranges.as_deref(), interfaces.as_deref(), start, size);
        Ok::<_, ApiError>(found)
    })
    .await?;
    Ok(Paged::new(data, &page, total))
}

/// A server on every interface
#[utoipa::path(
    get,
    path = "/api/ntp/history/servers/{ip}",
    operation_id = "server",
    tag = "history",
    params(("ip" = inline(Address), Path, description = "Its address")),
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
    let address = netlink::mapped(ip);
    let (found, _) = ask(&state, move |history| {
        let ranges = [address..=address];
        Ok::<_, ApiError>(history.servers(Some(&ranges), None, 0, usize::MAX))
    })
    .await?;
    of_server(found, ip)
}

/// Every interface since the database began
#[utoipa::path(
    get,
    path = "/api/ntp/history/interfaces/statistics",
    operation_id = "interface_statistics",
    tag = "history",
    responses((status = 200, description = "Totals and distributions, by interface", body = List<InterfaceStatistics>), (status = 400, description = "There is a parameter"))
)]
async fn interface_statistics(
    state: State,
    parameters: Parameters,
) -> Result<Json<List<InterfaceStatistics>>, ApiError> {
    parameters.only(&[])?;
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
    responses((status = 200, description = "What came in, what was written, what did not find a place", body = One<ServiceStatistics>), (status = 400, description = "There is a parameter"))
)]
async fn service_statistics(
    state: State,
    parameters: Parameters,
) -> Result<Json<One<ServiceStatistics>>, ApiError> {
    parameters.only(&[])?;
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
        ("interface_name" = inline(Option<Names>), Query, style = Form, explode = false, description = "Any of these interfaces, separated by commas"),
        ("resolution" = inline(Option<ResolutionName>), Query, description = "hour unless told otherwise"),
        ("since" = inline(Option<Time>), Query, description = "Those that began then or later: RFC 3339, or seconds since 1970"),
        ("until" = inline(Option<Time>), Query, description = "Those that began then or before; no earlier than `since`"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 10000, description = "The latest so many of each interface; 1000 unless told otherwise"),
    ),
    responses(
        (status = 200, description = "By interface and time", body = List<RollupView>),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn rollups(state: State, parameters: Parameters) -> Result<Json<List<RollupView>>, ApiError> {
    parameters.only(&[&["interface_name", "resolution", "since", "until", "limit"]])?;
    let resolution = parameters.word("resolution", RESOLUTIONS)?;
    let resolution = resolution.unwrap_or(Resolution::Hour);
    let interfaces = parameters.interfaces(&state.history)?;
    let (since, until) = parameters.between()?;
    // One that began at a broken second did not begin before it.
    let since = since.map_or(i64::MIN, |time| {
        time.div_euclid(SECOND) + i64::from(time.rem_euclid(SECOND) > 0)
    });
    let until = until.map_or(i64::MAX, |time| time.div_euclid(SECOND));
    let limit = parameters.number("limit", 1..=10_000)?.unwrap_or(1000) as usize;
    ask(&state, move |history| {
        history.rollups(interfaces.as_deref(), resolution, since..=until, limit)
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
    responses((status = 200, description = "healthy, or degraded and why", body = HealthReply), (status = 400, description = "There is a parameter"))
)]
async fn health(state: State, parameters: Parameters) -> Result<Json<HealthReply>, ApiError> {
    parameters.only(&[])?;
    let health = ask(&state, |history| Ok::<_, ApiError>(history.health())).await?;
    Ok(Json(HealthReply {
        success: true,
        health,
    }))
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
    let (dry_run, compact) = (body.flag("dry_run")?, body.flag("compact")?);
    let days = body.decimal("older_than_days", 0.0..=36_500.0)?;
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
        if !history.is_alive() {
            let why = "the thread that writes the history has ended".to_owned();
            return Err(ApiError::from(QueryError::Unavailable(why)));
        }
        let removed = match before {
            Some(before) => history.clean_up(before, dry_run)?,
            None => Removed::default(),
        };
        let sizes = (compact && !dry_run)
            .then(|| history.compact())
            .transpose()?;
        Ok((removed, sizes))
    })
    .await?;
    let Removed {
        clients,
        servers,
        sessions,
        rollups,
    } = removed;
    let mut done = Vec::new();
    if before.is_some() {
        let verb = if dry_run { "would be" } else { "were" };
        done.push(format!(
            "{clients} clients, {servers} servers, {sessions} sessions and {rollups} rollups \
             {verb} removed"
        ));
    }
    done.push(match sizes {
        Some((before, after)) => format!("the file had {before} bytes and has {after}"),
        None if compact => "a dry run compacts nothing".to_owned(),
        None => String::new(),
    });
    done.retain(|what| !what.is_empty());
    Ok(Json(CleanupReply {
        success: true,
        message: done.join("; "),
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
