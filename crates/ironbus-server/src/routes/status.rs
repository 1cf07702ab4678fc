//! How the node is: for people, for orchestrators, for Prometheus.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use ironbus::Position;
use ironbus::bus::EventBus as _;
use serde_json::{Value, json};

use crate::{App, Problem};

/// `GET /v1/status`
pub(super) async fn status(State(app): State<App>) -> Result<Json<Value>, Problem> {
    // A node that can't reach the log still tells how it is.
    let head = app.node.store().head().await.ok();
    let (accepted, refused, events) = app.metrics.append_counts();
    let percentiles = app.metrics.append_percentiles();
    let seconds = percentiles.map(|(p50, p99)| json!({ "p50": p50.as_secs_f64(), "p99": p99.as_secs_f64() }));
    let (last_second, last_minute) = app.metrics.rates();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "store_id": head.as_ref().map(|head| head.store_id),
        "epoch": app.node.tail().epoch(),
        "epoch_began": app.node.own_log().and_then(|log| log.current().epoch_began()),
        "head": head.as_ref().map_or(app.node.tail().head(), |head| head.position),
        "earliest": head.as_ref().map_or(Position(1), |head| head.earliest),
        "mode": app.node.bus().mode().to_string(),
        "phase": app.node.migration().map(|migration| migration.status().phase),
        "uptime_seconds": app.metrics.uptime().as_secs(),
        "sse_clients": app.node.open_streams(),
        "sse_events": app.metrics.sse_events.get(),
        "subscriptions": app.node.tail().subscriptions(),
        "listeners": app.node.bus().listeners(),
        "appends": { "accepted": accepted, "refused": refused, "events": events, "seconds": seconds },
        "events_per_second": { "1s": last_second, "60s": last_minute },
        "ready": !app.draining.has_begun() && app.node.log_access().is_ready(),
        "log": app.node.log_access().to_string(),
        "place": app.node.own_log().map(|log| log.place()),
        "data": app.node.log_path().map(|path| path.display().to_string()),
        "log_bytes": log_bytes(&app),
    })))
}

/// `GET /healthz`: the process answers.
pub(super) async fn healthz() -> Json<Value> {
    Json(json!({ "healthy": true }))
}

/// `GET /readyz`: the log can be reached and the server isn't draining.
pub(super) async fn readyz(State(app): State<App>) -> Result<Json<Value>, Problem> {
    let access = app.node.log_access();
    let why_not = if app.draining.has_begun() {
        Some("the server is shutting down; send requests elsewhere or try again later".to_owned())
    } else if !access.is_ready() {
        Some(access.to_string())
    } else {
        app.node.store().head().await.err().map(|error| error.to_string())
    };
    match why_not {
        None => Ok(Json(json!({ "ready": true, "log": access.to_string() }))),
        Some(why) => {
            let title = "The server isn't ready";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", title, why))
        }
    }
}

/// `GET /metrics`
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let tail = app.node.tail();
    let (subscriptions, streams) = (tail.subscriptions(), app.node.open_streams());
    let text = app.metrics.encode(tail.head().0, subscriptions, streams, log_bytes(&app));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// The size of the log's file and its write-ahead log; 0 on a node that has none.
fn log_bytes(app: &App) -> u64 {
    let Some(path) = app.node.log_path() else { return 0 };
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let size = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |file| file.len());
    size(&path) + size(wal.as_ref())
}
