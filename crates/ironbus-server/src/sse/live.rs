//! What a client is sent, whichever way it goes: the subscription's deliveries as frames.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_core::Stream as _;
use ironbus::node::OpenStream;
use ironbus::{Cursor, Delivery, Epoch, Position, StoredEvent, Subscription};
use parking_lot::Mutex;
use serde_json::json;

use super::body::{SseBody, event_stream};
use super::{CHUNK, HEARTBEAT};
use crate::App;

/// A stream that was asked for, and how far its client was told of the log.
pub(crate) struct LiveStream {
    app: App,
    events: Subscription,
    names: bool,
    /// The position that the client would resume after.
    told: Position,
    /// When the client's credentials expire, if they do.
    until: Option<Instant>,
    _open: OpenStream,
}

/// What came of gathering frames.
pub(super) enum Gathered {
    /// More is ready than was taken.
    More,
    /// Nothing more is ready; whoever polled is woken when that changes.
    All,
    /// The log can't be read; to be tried again after a while.
    Unreadable,
    /// The store was closed.
    End,
}

impl LiveStream {
    /// A stream of what `events` yields, until the client's credentials expire.
    pub(crate) fn new(app: App, events: Subscription, names: bool, until: Option<SystemTime>) -> Self {
        let (told, open) = (events.cursor(), app.node.count_stream());
        // From here on by a clock that nobody sets.
        let left = until.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
        let until = left.and_then(|left| Instant::now().checked_add(left));
        Self { app, events, names, told, until, _open: open }
    }

    pub(super) fn heartbeat_every(&self) -> Duration {
        self.app.options.heartbeat
    }

    pub(super) fn app(&self) -> &App {
        &self.app
    }

    /// When the client's credentials expire, if they do.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Hands what is ready to `out`, frame by frame, up to [`CHUNK`] bytes.
    pub(super) fn gather(&mut self, context: &mut Context<'_>, out: &mut impl Extend<Bytes>) -> Gathered {
        let (mut bytes, mut events) = (0, 0);
        let gathered = loop {
            if bytes >= CHUNK {
                break Gathered::More;
            }
            match Pin::new(&mut self.events).poll_next(context) {
                Poll::Ready(Some(Ok(delivery))) => {
                    events += u64::from(matches!(delivery, Delivery::Event(_)));
                    let frame = self.frame(&delivery);
                    bytes += frame.len();
                    out.extend([frame]);
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::warn!(%error, "a stream can't read the log; trying again in a second");
                    break Gathered::Unreadable;
                }
                Poll::Ready(None) => break Gathered::End,
                Poll::Pending => break Gathered::All,
            }
        };
        if events > 0 {
            self.app.metrics.sse_events.inc_by(events);
        }
        gathered
    }

    /// What keeps a quiet connection open: the cursor where it has moved past what doesn't match, or a comment.
    pub(super) fn heartbeat(&mut self) -> Bytes {
        let looked_at = self.events.cursor();
        if looked_at <= self.told {
            return Bytes::from_static(HEARTBEAT);
        }
        self.told = looked_at;
        format!("id: {}\n\n", Cursor { epoch: self.events.epoch(), position: looked_at }).into()
    }

    /// Said when the client's credentials have expired.
    pub(super) fn expired(&self) -> Bytes {
        let retry = self.app.options.retry.as_millis();
        format!(": the credentials have expired; reconnect with new ones\nretry: {retry}\n\n").into()
    }

    fn frame(&mut self, delivery: &Delivery) -> Bytes {
        // Not the log's, which may be a later one already, without what is sent here.
        let epoch = self.events.epoch();
        match delivery {
            Delivery::Event(event) => {
                self.told = event.position;
                if self.names { named(event, epoch) } else { event.sse_frame(epoch) }
            }
            Delivery::CaughtUp(position) => control("caught_up", &json!({ "position": position })),
            Delivery::Watermark(position) => {
                self.told = *position;
                format!("id: {}\n\n", Cursor { epoch, position: *position }).into()
            }
            Delivery::Reset(reason) => {
                self.told = Position::START;
                reset(&reason.to_string())
            }
        }
    }
}

/// A stream that goes as the body of its response, unless whoever serves the connection takes it before.
#[derive(Clone)]
pub(crate) struct Offered(Arc<Mutex<Option<(Bytes, LiveStream)>>>);

impl Offered {
    /// The stream, and what it begins with; nothing for all who ask later.
    pub(super) fn take(&self) -> Option<(Bytes, LiveStream)> {
        self.0.lock().take()
    }
}

/// The response to who asked for a stream. `hello` is what it begins with.
pub(crate) fn stream_response(stream: LiveStream, hello: Bytes) -> Response {
    let offered = Offered(Arc::new(Mutex::new(Some((hello, stream)))));
    let mut response = event_stream(Body::new(SseBody::Offered(offered.clone())));
    response.extensions_mut().insert(offered);
    response
}

/// The event's frame with its type as the name of the SSE event.
fn named(event: &StoredEvent, epoch: Epoch) -> Bytes {
    let frame = event.sse_frame(epoch);
    let mut out = BytesMut::with_capacity(frame.len() + event.event_type.len() + 8);
    out.extend_from_slice(b"event: ");
    // A line break within a type would end the field.
    out.extend(event.event_type.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
    out.extend_from_slice(b"\n");
    out.extend_from_slice(&frame);
    out.freeze()
}

/// A control event: a name and data, without an id.
pub(crate) fn control(name: &str, data: &serde_json::Value) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// Says that the client's cursor isn't of this log, so that all it built from it must be forgotten.
pub(crate) fn reset(reason: &str) -> Bytes {
    control("reset", &json!({ "reason": reason, "after": 0 }))
}
