//! Live events, from a cursor on, without a seam: those of a pattern, or those of one session.

use std::time::SystemTime;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::{BufMut, BytesMut};
use http::request::Parts;
use ironbus::{Cursor, EventFilter, KeyPattern, Position, ReadError, SessionId, Start};
use serde::Deserialize;
use serde_json::json;

use super::query::{Strict, filter, pattern};
use crate::sse::{LiveStream, control, reset, stream_response};
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

/// From where on a client wants events, and whether they are to be named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    after: Option<Position>,
    last_event_id: Option<String>,
    #[serde(default)]
    names: bool,
}

/// `GET /v1/stream`
pub(super) async fn stream(
    State(app): State<App>,
    Strict(query): Strict<StreamQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let StreamQuery { pattern: text, after, last_event_id, names } = query;
    let (filter, until) = filter(&app, &parts, pattern(text.as_deref())?)?;
    follow(app, &parts, filter, until, Wanted { after, last_event_id, names }).await
}

/// `GET /v1/sessions/{id}/stream`
pub(super) async fn session(
    State(app): State<App>,
    Path(id): Path<String>,
    Strict(wanted): Strict<Wanted>,
    request: Request,
) -> Result<Response, Problem> {
    let session =
        SessionId::new(id).map_err(|error| Problem::bad_request("invalid-name", error.to_string()))?;
    let (parts, _) = request.into_parts();
    let (filter, until) = filter(&app, &parts, KeyPattern::session(&session))?;
    follow(app, &parts, filter, until, wanted).await
}

/// A cursor (the header `Last-Event-ID` that browsers send when they reconnect, else `last_event_id`)
/// wins over `after`, because a browser reconnects to the same address. A cursor that isn't of this log
/// is no error, which would stop an `EventSource` for good, but a `reset`.
async fn follow(
    app: App,
    parts: &Parts,
    filter: EventFilter,
    until: Option<SystemTime>,
    wanted: Wanted,
) -> Result<Response, Problem> {
    let header = parts.headers.get("last-event-id").map(|id| String::from_utf8_lossy(id.as_bytes()));
    let last_seen = header.as_deref().or(wanted.last_event_id.as_deref()).filter(|id| !id.is_empty());

    let store = app.node.store();
    let mut hello = BytesMut::new();
    hello.put(format!("retry: {}\n\n", app.options.retry.as_millis()).as_bytes());
    let start = match last_seen.map(str::parse::<Cursor>) {
        None => wanted.after.map_or(Start::Live, Start::After),
        Some(Ok(cursor)) => match store.head().await {
            Ok(head) => match head.lineage.check(cursor, head.position) {
                Ok(()) => {
                    let place = json!({ "after": cursor.position, "epoch": head.lineage.epoch() });
                    hello.put(control("resumed", &place));
                    Start::After(cursor.position)
                }
                Err(reason) => {
                    hello.put(reset(&reason.to_string()));
                    Start::Beginning
                }
            },
            // The log is away. An error would stop an `EventSource` for good, so the stream opens and
            // the subscription checks the cursor as soon as the log is back.
            Err(ReadError::Unavailable { .. }) => Start::Resume(cursor),
            Err(error) => return Err(error.into()),
        },
        Some(Err(error)) => {
            hello.put(reset(&error.to_string()));
            Start::Beginning
        }
    };
    let events = store.subscribe(filter, start).with_caught_up();
    Ok(stream_response(LiveStream::new(app, events, wanted.names, until), hello.freeze()))
}
