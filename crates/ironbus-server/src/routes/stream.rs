//! `GET /v1/stream`: live events, from a cursor on, without a seam.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue, header};
use ironbus::{Cursor, Position, Start};
use serde::Deserialize;
use serde_json::json;

use super::query::{Strict, filter};
use crate::sse::{SseBody, control, reset};
use crate::{App, Problem};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamQuery {
    pattern: Option<String>,
    after: Option<Position>,
    last_event_id: Option<String>,
    #[serde(default)]
    names: bool,
}

/// `GET /v1/stream`
///
/// A cursor (the header `Last-Event-ID` that browsers send when they reconnect, else `last_event_id`)
/// wins over `after`, because a browser reconnects to the same address. A cursor that isn't of this log
/// is no error, which would stop an `EventSource` for good, but a `reset`.
pub(super) async fn stream(
    State(app): State<App>,
    Strict(query): Strict<StreamQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let filter = filter(&app, &parts, query.pattern.as_deref())?;
    let header = parts.headers.get("last-event-id").map(|id| String::from_utf8_lossy(id.as_bytes()));
    let last_seen = header.as_deref().or(query.last_event_id.as_deref()).filter(|id| !id.is_empty());

    let store = app.node.store();
    let head = store.head().await?;
    let epoch = head.lineage.epoch();
    let mut hello = BytesMut::new();
    hello.put(format!("retry: {}\n\n", app.options.retry.as_millis()).as_bytes());
    let start = match last_seen.map(str::parse::<Cursor>) {
        None => query.after.map_or(Start::Live, Start::After),
        Some(Ok(cursor)) => match head.lineage.check(cursor, head.position) {
            Ok(()) => {
                let place = json!({ "after": cursor.position, "epoch": epoch });
                hello.put(control("resumed", &place));
                Start::After(cursor.position)
            }
            Err(reason) => {
                hello.put(reset(&reason.to_string()));
                Start::Beginning
            }
        },
        Some(Err(error)) => {
            hello.put(reset(&error.to_string()));
            Start::Beginning
        }
    };
    let events = store.subscribe(filter, start).with_caught_up().with_watermarks(app.options.heartbeat);
    let body = SseBody::new(app, events, epoch, query.names, hello.freeze());
    let mut response = Body::new(body).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
