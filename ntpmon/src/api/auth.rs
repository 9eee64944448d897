//! Who may ask for what. With tokens, a bearer token of the right scope; without any, whoever is
//! on this host, provided that no web page asks in their name: the Host header has to be a
//! loopback name, against DNS rebinding, and a page of another origin changes nothing.

use std::net::{IpAddr, SocketAddr};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request},
    http::{
        StatusCode,
        header::{AUTHORIZATION, HOST},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use tower_http::csrf::{CsrfLayer, ProtectionError};

use super::{
    State,
    error::{ApiError, shown},
};
use crate::{config::Origin, tokens::Scope};

/// Whether whoever asks is one who may ask at all. It comes before every route, also those that
/// need no token.
pub(super) async fn access(state: State, request: Request, next: Next) -> Response {
    if state.tokens.get().is_empty() {
        let refused = from_loopback(&request).and_then(|()| asked_by_loopback_name(&request));
        if let Err(error) = refused {
            return error.into_response();
        }
    }
    next.run(request).await
}

fn forbidden(code: &'static str, message: String) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, code, message)
}

fn from_loopback(request: &Request) -> Result<(), ApiError> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    match peer.map(|peer| peer.0.ip().to_canonical()) {
        Some(ip) if ip.is_loopback() => Ok(()),
        peer => Err(forbidden(
            "loopback_only",
            format!(
                "no tokens are configured, so only this host is served, not {}; \
                 'ntpmon token create' makes a token",
                peer.map_or_else(|| "an unknown peer".to_owned(), |ip| ip.to_string())
            ),
        )),
    }
}

/// A page of the attacker's, whose name he lets point to 127.0.0.1, sends his name.
fn asked_by_loopback_name(request: &Request) -> Result<(), ApiError> {
    let header = request.headers().get(HOST);
    let header = header.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let target = request.uri().authority().map(Authority::to_string);
    if header.is_none() && target.is_none() {
        return Err(forbidden(
            "host_not_loopback",
            "there is no Host header; without tokens it has to be localhost, 127.0.0.1 or [::1]"
                .to_owned(),
        ));
    }
    match header
        .iter()
        .chain(&target)
        .find(|name| !is_loopback_name(name))
    {
        None => Ok(()),
        Some(name) => Err(forbidden(
            "host_not_loopback",
            format!(
                "the Host is '{}'; without tokens it has to be localhost, 127.0.0.1 or [::1]",
                shown(name)
            ),
        )),
    }
}

fn is_loopback_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    match bare.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

/// Refuses what a page of another origin would change. Both a token and the lack of one can be
/// in the hands of a browser that shows such a page.
pub(super) fn same_origin(
    allowed: &[Origin],
) -> CsrfLayer<impl FnMut(ProtectionError) -> Response<Body> + Clone + use<>> {
    let layer = CsrfLayer::new();
    let layer = allowed.iter().fold(layer, |layer, origin| {
        // It was taken as one when it was parsed.
        let text = origin.header().to_str().unwrap_or_default();
        layer.clone().add_trusted_origin(text).unwrap_or(layer)
    });
    layer.with_rejection_response(|_| {
        forbidden(
            "cross_origin",
            "a web page of another origin asked for this; api.cors_origins lists those that may"
                .to_owned(),
        )
        .into_response()
    })
}

/// Whether the request's token has read scope.
pub(super) async fn read(state: State, request: Request, next: Next) -> Response {
    scoped(&state, Scope::Read, request, next).await
}

/// Whether the request's token has admin scope.
pub(super) async fn admin(state: State, request: Request, next: Next) -> Response {
    scoped(&state, Scope::Admin, request, next).await
}

async fn scoped(state: &State, needed: Scope, request: Request, next: Next) -> Response {
    match authorize(state, needed, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn authorize(state: &State, needed: Scope, request: &Request) -> Result<(), ApiError> {
    let tokens = state.tokens.get();
    if tokens.is_empty() {
        return Ok(());
    }
    let scope = needed.name();
    let unauthorized =
        |code, message: String| Err(ApiError::new(StatusCode::UNAUTHORIZED, code, message));
    let Some(header) = request.headers().get(AUTHORIZATION) else {
        return unauthorized(
            "token_missing",
            format!("this needs a token of {scope} scope: 'Authorization: Bearer TOKEN'"),
        );
    };
    // RFC 9110: the scheme's case does not matter.
    let presented = header.to_str().ok().and_then(|header| {
        let (scheme, token) = header.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let Some(presented) = presented else {
        return unauthorized(
            "token_malformed",
            "the Authorization header has to be 'Bearer TOKEN'".to_owned(),
        );
    };
    let Some(token) = tokens.find(presented) else {
        return unauthorized(
            "token_unknown",
            format!("this token is not known here; this needs one of {scope} scope"),
        );
    };
    match (needed, token.scope) {
        (Scope::Read, _) | (Scope::Admin, Scope::Admin) => Ok(()),
        (Scope::Admin, Scope::Read) => Err(forbidden(
            "scope_insufficient",
            format!(
                "the token '{}' has read scope; {} {} needs admin scope",
                token.name,
                request.method(),
                shown(request.uri().path())
            ),
        )),
    }
}
