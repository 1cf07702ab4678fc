//! The page and the description of the API: part of the binary, nothing from the outside.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::Problem;

const INDEX: &str = include_str!("../../page/index.html");
const OPENAPI: &str = include_str!("../../openapi.json");

/// The files of the page: name, content type, content.
const ASSETS: [(&str, &str, &str); 11] = [
    ("api.js", JAVASCRIPT, include_str!("../../page/api.js")),
    ("app.js", JAVASCRIPT, include_str!("../../page/app.js")),
    ("charts.js", JAVASCRIPT, include_str!("../../page/charts.js")),
    ("format.js", JAVASCRIPT, include_str!("../../page/format.js")),
    ("history.js", JAVASCRIPT, include_str!("../../page/history.js")),
    ("icon.svg", "image/svg+xml", include_str!("../../page/icon.svg")),
    ("json.js", JAVASCRIPT, include_str!("../../page/json.js")),
    ("list.js", JAVASCRIPT, include_str!("../../page/list.js")),
    ("migration.js", JAVASCRIPT, include_str!("../../page/migration.js")),
    ("stream.js", JAVASCRIPT, include_str!("../../page/stream.js")),
    ("style.css", "text/css; charset=utf-8", include_str!("../../page/style.css")),
];

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// `GET /`
pub(super) async fn index() -> Response {
    embedded("text/html; charset=utf-8", INDEX)
}

/// `GET /assets/{name}`
pub(super) async fn asset(Path(name): Path<String>) -> Result<Response, Problem> {
    let found = ASSETS.iter().find(|(known, _, _)| *known == name);
    let (_, kind, content) = found.ok_or_else(|| {
        let detail = format!("the page has no file `{name}`");
        Problem::new(StatusCode::NOT_FOUND, "no-such-asset", "There is nothing here", detail)
    })?;
    Ok(embedded(kind, content))
}

/// `GET /openapi.json`
pub(super) async fn openapi() -> Response {
    embedded("application/json", OPENAPI)
}

fn embedded(kind: &'static str, content: &'static str) -> Response {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    (headers, content).into_response()
}
