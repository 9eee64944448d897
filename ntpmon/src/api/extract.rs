//! What handlers take out of a request: axum's extractors with refusals in the envelope, which
//! name the field at fault and the value it had.

use axum::{
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, Request,
        rejection::{BytesRejection, FailedToBufferBody},
    },
    http::{StatusCode, header::CONTENT_TYPE, request::Parts},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    State,
    error::{ApiError, shown, shown_until},
};

/// What serde says of a value, which may be long, is told to this length.
const MESSAGE: usize = 500;

/// A JSON object in the body. Unknown fields are ignored.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

/// A JSON object in the body; no body, with or without a content type, or null, means
/// the defaults.
#[derive(Clone, Copy, Debug)]
pub struct OptionalJson<T>(pub T);

/// The parameters of the query. Unknown ones are ignored.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

/// The parameters of the path.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

/// A JSON object, and nothing else: serde would also take a list for a struct.
#[derive(Clone, Copy, Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = T;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a JSON object, {…}")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer
            .deserialize_map(Map(std::marker::PhantomData))
            .map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<State> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &State) -> Result<Self, ApiError> {
        match body(request, state).await? {
            Some(value) => Ok(Self(value)),
            None => Err(ApiError::invalid_body(
                "the body is empty or null; it has to be a JSON object",
            )),
        }
    }
}

impl<T: DeserializeOwned + Default> FromRequest<State> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &State) -> Result<Self, ApiError> {
        Ok(Self(body(request, state).await?.unwrap_or_default()))
    }
}

/// The body as JSON, or none when it is empty or null.
async fn body<T: DeserializeOwned>(request: Request, state: &State) -> Result<Option<T>, ApiError> {
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    let bytes = Bytes::from_request(request, state)
        .await
        .map_err(|rejection| match rejection {
            BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
                ApiError::body_too_large(state.settings.max_body)
            }
            other => ApiError::invalid_body(format!("the body cannot be read: {other}")),
        })?;
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    let content_type = content_type.as_ref().map_or("", |value| {
        // What is not text is no type that is known.
        value.to_str().unwrap_or("?")
    });
    if !is_json(content_type) {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            format!(
                "the body's content type is '{}'; it has to be application/json",
                shown(content_type)
            ),
        ));
    }
    if bytes.trim_ascii() == b"null" {
        return Ok(None);
    }
    from_json(&bytes).map(Some)
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || (essence.len() > 5 && essence.to_ascii_lowercase().ends_with("+json"))
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let Object(value) = serde_path_to_error::deserialize::<_, Object<T>>(&mut deserializer)
        .map_err(|error| {
            let path = error.path().to_string();
            let error = error.into_inner();
            if error.classify() != serde_json::error::Category::Data {
                return ApiError::invalid_body(format!("the body is not JSON: {error}"));
            }
            let text = error.to_string();
            // The path says where; a line and a column would say it again.
            let text = text
                .rsplit_once(" at line ")
                .map_or(&*text, |(what, _)| what);
            let place = if path == "." { "the body" } else { &path };
            ApiError::invalid_body(format!("{place}: {}", shown_until(text, MESSAGE)))
        })?;
    deserializer
        .end()
        .map_err(|error| ApiError::invalid_body(format!("the body is not JSON: {error}")))?;
    Ok(value)
}

impl<T: DeserializeOwned> FromRequestParts<State> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, ApiError> {
        axum::extract::Query::<T>::try_from_uri(&parts.uri)
            .map(|query| Self(query.0))
            .map_err(|rejection| {
                // "…: the parameter: what serde says"
                let text = rejection.body_text();
                let text = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
                    .map(|pairs| pairs.0)
                    .unwrap_or_default();
                let message = text.split_once(": ").and_then(|(name, why)| {
                    let (_, value) = pairs.iter().find(|(key, _)| key == name)?;
                    Some(format!("{name} is '{}': {why}", shown(value)))
                });
                ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "invalid_parameter",
                    message.unwrap_or_else(|| format!("the query: {text}")),
                )
            })
    }
}

impl<T: DeserializeOwned + Send> FromRequestParts<State> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, ApiError> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(path) => Ok(Self(path.0)),
            Err(rejection) => Err(ApiError::new(
                rejection.status(),
                "invalid_parameter",
                format!("the path: {}", rejection.body_text()),
            )),
        }
    }
}

/// Handlers take the state by itself.
impl FromRequestParts<Self> for State {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(_: &mut Parts, state: &Self) -> Result<Self, Self::Rejection> {
        Ok(state.clone())
    }
}
