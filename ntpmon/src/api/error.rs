//! What a client is told when a request fails: a status, a code that programs branch on and a
//! sentence that says what was wrong, with which value, and what would be right. Every failure
//! leaves as the same envelope, also those that axum, tower and panics make.

use std::{any::Any, fmt::Display};

use axum::{
    Json,
    extract::Request,
    http::{
        HeaderValue, Method, StatusCode, Uri,
        header::{RETRY_AFTER, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What programs branch on: lower case, words joined by underscores, never changed.
    pub code: &'static str,
    /// What was wrong, where, with which value, and what would be right.
    pub message: String,
}

/// The envelope of a failure.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// Always false.
    #[schema(example = false)]
    success: bool,
    /// What programs branch on.
    #[schema(example = "interface_not_found")]
    code: &'static str,
    /// What was wrong, with which value, and what would be right.
    message: String,
}

/// Marks a response that is in the envelope already.
#[derive(Clone)]
struct Enveloped;

/// Values that people send are shown to this length.
const SHOWN: usize = 100;

impl ApiError {
    /// Any failure.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// 400: a parameter of the query or the path that cannot be.
    pub fn invalid_parameter(name: &str, value: impl Display, expected: impl Display) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_parameter",
            format!(
                "{name} is '{}'; it has to be {expected}",
                shown(&value.to_string())
            ),
        )
    }

    /// 400: a body that cannot be.
    pub fn invalid_body(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_body", message)
    }

    /// 404: what was asked for does not exist.
    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// 413, with the limit in bytes.
    pub(super) fn body_too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body is larger than {limit} bytes, the most that is taken here"),
        )
    }

    /// 500: what the daemon could not do though the request was right. It is logged here.
    pub fn internal(error: &anyhow::Error) -> Self {
        tracing::error!("a request failed: {error:#}");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            format!("{error:#}"),
        )
    }

    /// 503: the daemon cannot say now, but may soon.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }
}

impl From<anyhow::Error> for ApiError {
    fn from(error: anyhow::Error) -> Self {
        Self::internal(&error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status;
        let body = ErrorBody {
            success: false,
            code: self.code,
            message: self.message,
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(
                    WWW_AUTHENTICATE,
                    HeaderValue::from_static("Bearer realm=\"ntpmon\""),
                );
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response.extensions_mut().insert(Enveloped);
        response
    }
}

/// The value as far as it is shown in a message.
pub(super) fn shown(value: &str) -> String {
    shown_until(value, SHOWN)
}

pub(super) fn shown_until(value: &str, length: usize) -> String {
    match value.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// Puts the failures that others made into the envelope.
pub(super) async fn envelope(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let uri = request.uri().clone();
    let response = next.run(request).await;
    let status = response.status();
    let failed = status.is_client_error() || status.is_server_error();
    if !failed || response.extensions().get::<Enveloped>().is_some() {
        return response;
    }
    let code = match status {
        StatusCode::NOT_ACCEPTABLE => "not_acceptable",
        StatusCode::BAD_REQUEST => "bad_request",
        status if status.is_client_error() => "refused",
        _ => "internal",
    };
    let reason = status.canonical_reason().unwrap_or("failed");
    let message = format!("{method} {}: {}", shown(uri.path()), reason.to_lowercase());
    let mut enveloped = ApiError::new(status, code, message).into_response();
    let (parts, _) = response.into_parts();
    for (name, value) in &parts.headers {
        if name != axum::http::header::CONTENT_LENGTH && name != axum::http::header::CONTENT_TYPE {
            enveloped.headers_mut().insert(name, value.clone());
        }
    }
    enveloped
}

/// The answer to a path that does not exist.
pub(super) async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::not_found(
        "unknown_path",
        format!(
            "there is nothing at {}; /api/docs lists what there is",
            shown(uri.path())
        ),
    )
}

/// The answer to a method that the path does not have. axum adds the Allow header.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!(
            "{} is not a method of {}; the Allow header lists those that are",
            shown(method.as_str()),
            shown(uri.path())
        ),
    )
}

/// The answer when a handler panicked.
#[allow(clippy::needless_pass_by_value)] // The signature is tower-http's.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let what = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!("a request met a bug, a panic: {what}");
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "the daemon met a bug while it answered; its log says more",
    )
    .into_response()
}
