//! The OpenAPI document, made from the code, and a page to browse it that loads nothing from
//! elsewhere. What all routes have in common (the failures of the ground, the token) is put in
//! here, so that a route says only what is its own.

use std::sync::Arc;

use axum::{
    Router,
    http::{
        HeaderValue,
        header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    },
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use utoipa::{
    OpenApi,
    openapi::{
        ContentBuilder, Ref, RefOr, ResponseBuilder, SecurityRequirement,
        path::{Operation, PathItem},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_swagger_ui::Config;

use super::{
    State,
    error::{ApiError, ErrorBody, shown},
    extract::Path,
};
use crate::tokens::Scope;

/// Where the document is.
pub const DOCUMENT: &str = "/api/openapi.json";

/// Where the page is.
pub const PAGE: &str = "/api/docs";

/// The name of the security scheme in the document.
const TOKEN: &str = "token";

/// What the page may do: only what this host serves. Swagger UI writes style attributes and has
/// its pictures inline.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; \
     style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; \
     connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "ntpmon",
        description = "Every NTP packet of a host, paired, timed and remembered. Times are RFC 3339 \
            in UTC, durations are seconds, what is unknown is null. A request that fails gets \
            {\"success\": false, \"code\", \"message\"}. Without tokens only this host is served."
    ),
    components(schemas(ErrorBody))
)]
struct Document;

/// The document of all routes, from those of either scope.
pub(super) fn document(
    read: utoipa::openapi::OpenApi,
    admin: utoipa::openapi::OpenApi,
) -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    for (mut part, scope) in [(read, Scope::Read), (admin, Scope::Admin)] {
        for item in part.paths.paths.values_mut() {
            for operation in operations(item) {
                complete(operation, scope);
            }
        }
        document.merge(part);
    }
    document
        .components
        .get_or_insert_default()
        .add_security_scheme(
        TOKEN,
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some(
                    "A token of 'ntpmon token create'. None is needed where none is configured.",
                ))
                .build(),
        ),
    );
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.patch,
    ]
    .into_iter()
    .flatten()
}

/// Adds what every route can answer and needs.
fn complete(operation: &mut Operation, scope: Scope) {
    let needed = match scope {
        Scope::Read => "Needs a token of read scope.",
        Scope::Admin => "Needs a token of admin scope.",
    };
    let description = operation.description.get_or_insert_default();
    if !description.is_empty() {
        description.push_str("\n\n");
    }
    description.push_str(needed);
    // Either a token, or none: without any configured, none is needed.
    operation.security = Some(vec![
        SecurityRequirement::new(TOKEN, Vec::<String>::new()),
        SecurityRequirement::default(),
    ]);
    let common = [
        ("401", "No token, or one that is not known"),
        (
            "403",
            "The token's scope does not reach, or without tokens: not from this host",
        ),
        ("406", "No content coding that is acceptable to the client"),
        ("413", "The body is larger than is taken"),
        ("500", "The daemon could not do it; the message says why"),
        (
            "503",
            "Too many requests at once, or this one took too long",
        ),
    ];
    let responses = &mut operation.responses.responses;
    for (status, description) in common {
        responses
            .entry(status.to_owned())
            .or_insert_with(|| RefOr::T(ResponseBuilder::new().description(description).build()));
    }
    for (status, response) in responses {
        let failed = status.starts_with('4') || status.starts_with('5');
        if let RefOr::T(response) = response
            && failed
            && response.content.is_empty()
        {
            let body = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("ErrorBody")))
                .build();
            response
                .content
                .insert("application/json".to_owned(), RefOr::T(body));
        }
    }
    // Said before the request reaches us, so without an envelope.
    for (status, description) in [
        ("414", "The path with its query is longer than is taken"),
        ("431", "The headers are more or longer than are taken"),
    ] {
        let response = ResponseBuilder::new().description(description).build();
        operation
            .responses
            .responses
            .insert(status.to_owned(), RefOr::T(response));
    }
}

/// The document, the page, and the way to it from the root.
pub(super) fn routes(document: utoipa::openapi::OpenApi) -> Router<State> {
    let document = Arc::new(document);
    let config = Arc::new(
        Config::from(DOCUMENT)
            .validator_url("none")
            .try_it_out_enabled(true)
            .display_request_duration(true)
            .default_models_expand_depth(0),
    );
    let index = Arc::clone(&config);
    Router::new()
        .route(DOCUMENT, get(move || async move { axum::Json(document) }))
        // The page's own links are relative, so it needs the last slash.
        .route(PAGE, get(|| async { Redirect::permanent("/api/docs/") }))
        .route("/api/docs/", get(move || async move { page("", index) }))
        .route(
            "/api/docs/{*file}",
            get(move |Path(file): Path<String>| async move { page(&file, config) }),
        )
        .route("/", get(|| async { Redirect::temporary("/api/docs/") }))
}

fn page(file: &str, config: Arc<Config<'static>>) -> Result<Response, ApiError> {
    let found = utoipa_swagger_ui::serve(file, config)
        .map_err(|error| ApiError::internal(&anyhow::anyhow!("the page's {file}: {error}")))?;
    let Some(found) = found else {
        return Err(ApiError::not_found(
            "unknown_path",
            format!("the page has no file '{}'", shown(file)),
        ));
    };
    let policy = HeaderValue::from_static(PAGE_POLICY);
    Ok((
        [(CONTENT_TYPE, found.content_type)],
        [(CONTENT_SECURITY_POLICY, policy)],
        found.bytes,
    )
        .into_response())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::body::Body;
    use serde_json::Value;

    use crate::api::{
        router,
        tests::{ask, request, state},
    };

    const TEXT: &str = include_str!("../../../docs/api.md");

    /// What follows on a heading, up to the next of its kind or above.
    fn section(heading: &str) -> &'static str {
        let level = heading.split(' ').next().unwrap();
        let (_, rest) = TEXT
            .split_once(&format!("\n{heading}\n"))
            .unwrap_or_else(|| panic!("docs/api.md has no '{heading}'"));
        let end = (1..=level.len())
            .filter_map(|level| rest.find(&format!("\n{} ", "#".repeat(level))))
            .min();
        &rest[..end.unwrap_or(rest.len())]
    }

    /// The names of fields in a schema, also of those in them.
    fn fields(document: &Value, schema: &Value, found: &mut BTreeSet<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.rsplit('/').next().unwrap();
            fields(document, &document["components"]["schemas"][name], found);
        }
        for kind in ["oneOf", "allOf", "anyOf"] {
            for part in schema[kind].as_array().into_iter().flatten() {
                fields(document, part, found);
            }
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            found.insert(name.clone());
            fields(document, field, found);
        }
    }

    /// What came before has scripts of others, and is more lenient.
    const STRICT: [&str; 6] = [
        "/api/ntp/servers",
        "/api/ntp/events",
        "/api/ntp/clients",
        "/api/ntp/checks",
        "/api/ntp/alerts",
        "/api/ptp/",
    ];

    #[tokio::test]
    async fn no_parameter_that_is_not_known_is_passed_over_least_of_all_by_what_changes_something()
    {
        let (_, read) = crate::api::reading().split_for_parts();
        let (_, admin) = crate::api::changing().split_for_parts();
        let document = serde_json::to_value(super::document(read, admin)).unwrap();
        let router = router(state());
        let mut asked = 0;
        for (path, item) in document["paths"].as_object().unwrap() {
            if !STRICT.iter().any(|start| path.starts_with(start)) {
                continue;
            }
            let place = path.replace(['{', '}'], "");
            for method in item.as_object().unwrap().keys() {
                let place = format!("{place}?dry_run=true");
                let request = request(&method.to_uppercase(), &place).body(Body::empty());
                let answer = ask(&router, request.unwrap()).await;
                let message = answer.failed(400, "unknown_parameter");
                assert!(message.contains("dry_run"), "{method} {path}: {message}");
                asked += 1;
            }
        }
        assert!(asked > 30, "{asked}");
    }

    #[test]
    fn the_text_for_people_has_every_route_with_every_parameter_and_no_other() {
        let (_, read) = crate::api::reading().split_for_parts();
        let (_, admin) = crate::api::changing().split_for_parts();
        let document = serde_json::to_value(super::document(read, admin)).unwrap();
        let mut routes = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let route = format!("{} {path}", method.to_uppercase());
                let mut names = BTreeSet::new();
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    names.insert(parameter["name"].as_str().unwrap().to_owned());
                }
                let body = &operation["requestBody"]["content"]["application/json"]["schema"];
                fields(&document, body, &mut names);
                let text = section(&format!("### {route}"));
                for name in names {
                    assert!(
                        [text, section("## Filters")]
                            .iter()
                            .any(|text| text.contains(&format!("`{name}`"))
                                || text.contains(&format!("`{{{name}}}`"))),
                        "docs/api.md says nothing of {name} under {route}"
                    );
                }
                routes.insert(route);
            }
        }
        let told: BTreeSet<String> = TEXT
            .lines()
            .filter_map(|line| line.strip_prefix("### "))
            .filter(|title| title.contains(" /"))
            .map(str::to_owned)
            .collect();
        assert_eq!(told, routes);
        assert!(routes.len() > 15, "{routes:?}");
    }
}
