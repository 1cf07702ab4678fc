//! The routes, one file for each thing that a client wants.

mod append;
mod migration;
mod page;
mod query;
mod read;
mod status;
mod stream;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use ironbus::Node;
use tokio_util::sync::CancellationToken;
use tower_http::cors::{AllowCredentials, AllowOrigin, CorsLayer};

pub(crate) use query::entitlement;

use crate::draining::Draining;
use crate::metrics::Metrics;
use crate::{App, AppInner, Problem, ServerOptions};

/// The routes over a node, for an axum program of your own. Streams end when `draining` is cancelled;
/// limits on connections and their time are then yours to set. To be called within a tokio runtime.
pub fn router(node: Node, options: ServerOptions, draining: CancellationToken) -> axum::Router {
    routes(node, options, Draining::after(draining))
}

pub(crate) fn routes(node: Node, options: ServerOptions, draining: Draining) -> axum::Router {
    let app = App(Arc::new(AppInner { node, options, metrics: Metrics::new(), draining }));
    tokio::spawn(sample_rates(app.clone()));
    let origins = app.options.cors_origins.clone();
    let is_known = move |origin: &HeaderValue, _: &Parts| origins.iter().any(|known| *origin == **known);
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(is_known.clone()))
        // A page of these origins may send the cookie of its session; to no other is an answer shown.
        .allow_credentials(AllowCredentials::predicate(is_known))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::CONTENT_TYPE, header::ACCEPT, header::AUTHORIZATION]);
    axum::Router::new()
        .route("/v1/aggregates/{type}/{id}/events", get(read::aggregate).post(append::to_aggregate))
        .route("/v1/events", get(read::events).post(append::batch))
        .route("/v1/stream", get(stream::stream))
        .route("/v1/sessions/{id}/stream", get(stream::session))
        .route("/v1/migration", get(migration::show))
        .route("/v1/migration/advance", post(migration::advance))
        .route("/v1/migration/rollback", post(migration::rollback))
        .route("/v1/migration/cancel", post(migration::cancel))
        .route("/v1/migration/settle", post(migration::settle))
        .route("/v1/migration/watch", get(migration::watch))
        .route("/v1/status", get(status::status))
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
        .route("/openapi.json", get(page::openapi))
        .route("/", get(page::index))
        .route("/assets/{name}", get(page::asset))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(cors)
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

async fn no_such_route(request: Request) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no-such-route",
        "There is nothing here",
        format!("no route `{}`; /openapi.json lists them all", request.uri().path()),
    )
}

async fn no_such_method(request: Request) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "no-such-method",
        "The method isn't known here",
        format!(
            "`{}` isn't answered on `{}`; /openapi.json lists what is",
            request.method(),
            request.uri().path()
        ),
    )
}

/// Looks at every request before its route, and counts every answer.
async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let response = if app.options.check_host && !is_local(&request) {
        Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "host",
            "This server answers under a local name only",
            "the Host header names neither localhost nor a loopback address; use http://127.0.0.1, or start \
             the server with an explicit permission for remote clients",
        )
        .into_response()
    } else {
        next.run(request).await
    };
    app.metrics.answered(&route, response.status().as_u16());
    response
}

fn is_local(request: &Request) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str)) else {
        // Only HTTP/1.0 may leave it out, and no browser speaks that.
        return true;
    };
    let name = if let Some(bracketed) = host.strip_prefix('[') {
        bracketed.split(']').next().unwrap_or_default()
    } else {
        host.split(':').next().unwrap_or_default()
    };
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Notes the head once a second, for the rates that `/v1/status` shows, until the server drains.
async fn sample_rates(app: App) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = app.draining.token().cancelled() => return,
            _ = second.tick() => app.metrics.sample_head(app.node.tail().head().0),
        }
    }
}
