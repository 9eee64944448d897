//! What the areas of the API have in common: how the history is asked, and the shapes of what is
//! answered.

use std::net::IpAddr;

use axum::{Json, http::StatusCode};
use serde::Serialize;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::{
    State,
    error::{ApiError, shown},
    history::parameters::{ADDRESS, Page},
};
use crate::history::{History, query::QueryError};

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

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Unavailable(_) => {
                Self::unavailable("history_unavailable", error.to_string())
            }
            QueryError::Cursor(text) => {
                let message = QueryError::Cursor(shown(&text)).to_string();
                Self::new(StatusCode::BAD_REQUEST, "invalid_cursor", message)
            }
            QueryError::Failed(error) => Self::internal(&error),
        }
    }
}

/// Any list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct List<T> {
    /// Always true.
    success: bool,
    /// How many there are.
    count: usize,
    /// They.
    data: Vec<T>,
}

impl<T> List<T> {
    pub(super) fn new(data: Vec<T>) -> Json<Self> {
        Json(Self {
            success: true,
            count: data.len(),
            data,
        })
    }
}

/// Any single thing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct One<T> {
    /// Always true.
    success: bool,
    /// It.
    data: T,
}

impl<T> One<T> {
    pub(super) const fn new(data: T) -> Json<Self> {
        Json(Self {
            success: true,
            data,
        })
    }
}

/// Which part of a list this is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pagination {
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
    pub(super) fn new(
        page: &Page,
        total: u64,
        has_next: bool,
        next_cursor: Option<String>,
    ) -> Self {
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

/// A part of a list that has pages and no cursors.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Paged<T> {
    /// Always true.
    success: bool,
    /// Those of this page.
    data: Vec<T>,
    /// How many they are.
    count: usize,
    /// Which part it is; there are no cursors.
    pagination: Pagination,
}

impl<T> Paged<T> {
    /// What is on a page, of so many.
    pub(super) fn new(data: Vec<T>, page: &Page, total: u64) -> Json<Self> {
        let seen = page.start().saturating_add(data.len()) as u64;
        let has_next = seen < total && !data.is_empty();
        Json(Self {
            success: true,
            count: data.len(),
            data,
            pagination: Pagination::new(page, total, has_next, None),
        })
    }
}

/// A part of a list whose items are numbered, the last first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Numbered<T> {
    /// Always true.
    success: bool,
    /// How many there are in this answer.
    count: usize,
    /// They.
    data: Vec<T>,
    /// Give this as `before` to get what follows; null at the end.
    next_before: Option<u64>,
}

impl<T> Numbered<T> {
    /// The first `limit` of what was found; one more than that shows that more follow.
    pub(super) fn new(mut data: Vec<T>, limit: usize, number: impl Fn(&T) -> u64) -> Json<Self> {
        let has_more = data.len() > limit;
        data.truncate(limit);
        let last = data.last().map(number);
        Json(Self {
            success: true,
            count: data.len(),
            next_before: last.filter(|_| has_more),
            data,
        })
    }
}

/// What is known of a server, by interface.
pub(super) fn of_server<T>(found: Vec<T>, ip: IpAddr) -> Result<Json<List<T>>, ApiError> {
    if found.is_empty() {
        return Err(ApiError::not_found(
            "server_not_found",
            format!("no server {ip} was asked on any interface"),
        ));
    }
    Ok(List::new(found))
}

/// An address in a path.
pub(super) fn address(text: &str) -> Result<IpAddr, ApiError> {
    text.parse()
        .map_err(|_| ApiError::invalid_parameter("the address", text, ADDRESS))
}
