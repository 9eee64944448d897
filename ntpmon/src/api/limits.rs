//! What a request may cost: the size of its body, its time, and how many there are at once.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{Method, header::CONTENT_LENGTH},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// Refuses a body that says it is too large, before any of it is read. One that does not say is
/// refused by whoever reads it, at the limit.
pub(super) async fn body(State(limit): State<usize>, request: Request, next: Next) -> Response {
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return ApiError::body_too_large(limit).into_response();
    }
    next.run(request).await
}

/// The places for requests that are worked on.
#[derive(Clone, Debug)]
pub(super) struct Busy {
    places: Arc<Semaphore>,
    total: usize,
}

impl Busy {
    pub(super) fn new(total: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(total.min(Semaphore::MAX_PERMITS))),
            total,
        }
    }
}

/// Sends away what would have to wait for a place.
pub(super) async fn busy(State(busy): State<Busy>, request: Request, next: Next) -> Response {
    match busy.places.try_acquire_owned() {
        Ok(place) => next.run(request).await.map(|body| keeping(body, place)),
        Err(_) => ApiError::unavailable(
            "too_busy",
            format!(
                "{} requests are being worked on, which is the limit; try again in a second",
                busy.total
            ),
        )
        .into_response(),
    }
}

/// A body that is made while it is sent keeps the place until it is over, or nobody reads it any
/// more. One that is there whole is no work any more.
fn keeping(body: Body, place: OwnedSemaphorePermit) -> Body {
    if body.size_hint().exact().is_some() {
        return body;
    }
    Body::from_stream(body.into_data_stream().inspect(move |_| {
        // Gone with the stream.
        let _ = &place;
    }))
}

/// Gives up on a request that has not been answered in time.
pub(super) async fn timeout(
    State(limit): State<Duration>,
    request: Request,
    next: Next,
) -> Response {
    let method: Method = request.method().clone();
    let path = request.uri().path().to_owned();
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            tracing::warn!("{method} {path} was given up after {limit:?}");
            ApiError::unavailable(
                "timeout",
                format!("there was no answer within {limit:?}, which is the limit"),
            )
            .into_response()
        }
    }
}
