//! How servers are, over HTTP: `/api/ntp/servers`.

use axum::Json;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    State,
    error::ApiError,
    extract::Path,
    history::{
        parameters::{ORDER, ORDERS, Parameters, ROLES, SERVER_SORTS},
        schema::{Address, Names, OrderName, RoleName, Search, ServerSortName},
    },
    reply::{List, Paged, address, ask, of_server},
};
use crate::{
    history::servers::{ServerHealth, ServerQuery},
    netlink,
};

pub(super) fn reading() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(servers))
        .routes(routes!(server))
}

/// How each server is, as far as passing packets say
#[utoipa::path(
    get,
    path = "/api/ntp/servers",
    operation_id = "server_health",
    tag = "servers",
    params(
        ("page" = Option<u64>, Query, minimum = 1, maximum = 1_000_000_000, description = "Which page, from 1"),
        ("page_size" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Servers on a page; 20 unless told otherwise"),
        ("search_ip" = inline(Option<Search>), Query, description = "An address, a network, or the beginning of an address"),
        ("interface_name" = inline(Option<Names>), Query, style = Form, explode = false, description = "Any of these interfaces, separated by commas"),
        ("role" = inline(Option<RoleName>), Query, description = "Where this host is that to those who ask: with client, the servers that this host asks"),
        ("sort" = inline(Option<ServerSortName>), Query, description = "By what; server_ip unless told otherwise. offset is by how far it is from zero, whichever way. What is not known comes last in either order"),
        ("order" = inline(Option<OrderName>), Query, description = "asc unless told otherwise"),
    ),
    responses(
        (status = 200, description = "A page of servers; empty beyond the last", body = Paged<ServerHealth>),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn servers(
    state: State,
    parameters: Parameters,
) -> Result<Json<Paged<ServerHealth>>, ApiError> {
    const KNOWN: &[&str] = &["page", "page_size", "search_ip", "interface_name", "role"];
    parameters.only(&[KNOWN, ORDER])?;
    let page = parameters.page()?;
    let query = ServerQuery {
        addresses: parameters.addresses()?,
        interfaces: parameters.interfaces(&state.history)?,
        role: parameters.word("role", ROLES)?,
        sort: parameters.word("sort", SERVER_SORTS)?.unwrap_or_default(),
        descending: parameters.word("order", ORDERS)?.unwrap_or(false),
        skip: page.start(),
        most: page.size as usize,
    };
    let (data, total) = ask(&state, move |history| {
        Ok::<_, ApiError>(history.server_health(&query))
    })
    .await?;
    Ok(Paged::new(data, &page, total))
}

/// How a server is, on every interface
#[utoipa::path(
    get,
    path = "/api/ntp/servers/{ip}",
    operation_id = "health_of_server",
    tag = "servers",
    params(("ip" = inline(Address), Path, description = "Its address")),
    responses(
        (status = 200, description = "How it is, by interface", body = List<ServerHealth>),
        (status = 400, description = "It is no address"),
        (status = 404, description = "It was never asked, or was forgotten"),
    )
)]
async fn server(
    state: State,
    Path(ip): Path<String>,
    parameters: Parameters,
) -> Result<Json<List<ServerHealth>>, ApiError> {
    parameters.only(&[])?;
    let ip = address(&ip)?;
    let mapped = netlink::mapped(ip);
    let query = ServerQuery {
        addresses: Some(vec![mapped..=mapped]),
        most: usize::MAX,
        ..ServerQuery::default()
    };
    let (found, _) = ask(&state, move |history| {
        Ok::<_, ApiError>(history.server_health(&query))
    })
    .await?;
    of_server(found, ip)
}
