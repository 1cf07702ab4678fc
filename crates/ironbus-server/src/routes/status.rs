//! How the node is: for people, for orchestrators, for Prometheus.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::{App, Problem};

/// `GET /v1/status`
pub(super) async fn status(State(app): State<App>) -> Result<Json<Value>, Problem> {
    let head = app.node.store().head().await?;
    let (accepted, refused, events) = app.metrics.append_counts();
    let percentiles = app.metrics.append_percentiles();
    let seconds = percentiles.map(|(p50, p99)| json!({ "p50": p50.as_secs_f64(), "p99": p99.as_secs_f64() }));
    let (last_second, last_minute) = app.metrics.rates();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "store_id": head.store_id,
        "epoch": head.lineage.epoch(),
        "head": head.position,
        "earliest": head.earliest,
        "mode": app.node.bus().mode().to_string(),
        "uptime_seconds": app.metrics.uptime().as_secs(),
        "sse_clients": app.metrics.sse_clients.get(),
        "sse_events": app.metrics.sse_events.get(),
        "subscriptions": app.node.tail().subscriptions(),
        "listeners": app.node.bus().listeners(),
        "appends": { "accepted": accepted, "refused": refused, "events": events, "seconds": seconds },
        "events_per_second": { "1s": last_second, "60s": last_minute },
        "ready": !app.draining.is_cancelled(),
        "data": app.node.log_path().display().to_string(),
        "log_bytes": log_bytes(&app),
    })))
}

/// `GET /healthz`: the process answers.
pub(super) async fn healthz() -> Json<Value> {
    Json(json!({ "healthy": true }))
}

/// `GET /readyz`: the log can be reached and the server isn't draining.
pub(super) async fn readyz(State(app): State<App>) -> Result<Json<Value>, Problem> {
    let head = app.node.store().head().await;
    if app.draining.is_cancelled() || head.is_err() {
        let detail = "the server is shutting down; send requests elsewhere or try again later";
        let title = "The server isn't ready";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", title, detail));
    }
    Ok(Json(json!({ "ready": true })))
}

/// `GET /metrics`
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let tail = app.node.tail();
    let text = app.metrics.encode(tail.head().0, tail.subscriptions(), log_bytes(&app));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// The size of the log's file and its write-ahead log.
fn log_bytes(app: &App) -> u64 {
    let path = app.node.log_path();
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let size = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |file| file.len());
    size(path) + size(wal.as_ref())
}
