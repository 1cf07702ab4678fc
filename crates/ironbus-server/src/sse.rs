//! A live stream as the body of a response: Server-Sent Events from a subscription.
//!
//! A client holds no buffer of ours but what hyper is writing to it: events are pulled from the
//! subscription when the connection has room, so a client that stops reading stops being served, falls
//! out of the ring, and reads the log when it goes on. Everything that waits is sent in one chunk, up to
//! [`CHUNK`] bytes. An event's frame is built once per node and shared.
//!
//! Control events (`resumed`, `caught_up`, `reset`) carry no id, so that they don't move the cursor that
//! a browser resumes from. A bare `id:` moves it where nothing matched for a while.
//!
//! Invariant: nothing is sent once the credentials that the stream was opened with have expired. It ends
//! then, so that its client comes again with new ones.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, header};
use http_body::Frame;
use ironbus::node::OpenStream;
use ironbus::{Cursor, Delivery, Epoch, StoredEvent, Subscription};
use serde_json::json;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use futures_core::Stream as _;

use crate::App;

/// A chunk isn't filled beyond this many bytes, but for a single larger event.
const CHUNK: usize = 64 * 1024;

pub(crate) struct SseBody {
    app: App,
    events: Subscription,
    names: bool,
    first: Option<Bytes>,
    heartbeat: Pin<Box<Sleep>>,
    /// Set while the log can't be read: the next try.
    pause: Option<Pin<Box<Sleep>>>,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    /// When the client's credentials expire, if they do.
    expiry: Option<Pin<Box<Sleep>>>,
    ended: bool,
    _open: OpenStream,
}

impl SseBody {
    /// A body that begins with `hello` and then sends what `events` yields, until the client's
    /// credentials expire.
    pub(crate) fn new(
        app: App,
        events: Subscription,
        names: bool,
        until: Option<SystemTime>,
        hello: Bytes,
    ) -> Self {
        let left = until.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
        Self {
            _open: app.node.count_stream(),
            events,
            names,
            first: Some(hello),
            heartbeat: Box::pin(tokio::time::sleep(app.options.heartbeat)),
            pause: None,
            draining: Box::pin(app.draining.clone().cancelled_owned()),
            expiry: left.map(|left| Box::pin(tokio::time::sleep(left))),
            ended: false,
            app,
        }
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(hello) = self.first.take() {
            return Poll::Ready(Some(hello));
        }
        if self.draining.as_mut().poll(context).is_ready() {
            self.ended = true;
            return Poll::Ready(Some(Bytes::from_static(b": the server is shutting down; reconnect\n\n")));
        }
        if self.expiry.as_mut().is_some_and(|expiry| expiry.as_mut().poll(context).is_ready()) {
            self.ended = true;
            let retry = self.app.options.retry.as_millis();
            let farewell =
                format!(": the credentials have expired; reconnect with new ones\nretry: {retry}\n\n");
            return Poll::Ready(Some(farewell.into()));
        }
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.pause = None;
        }
        let chunk = self.gather(context);
        if chunk.is_some() || self.ended {
            let next = Instant::now() + self.app.options.heartbeat;
            self.heartbeat.as_mut().reset(next);
            return Poll::Ready(chunk);
        }
        if self.heartbeat.as_mut().poll(context).is_ready() {
            let next = Instant::now() + self.app.options.heartbeat;
            self.heartbeat.as_mut().reset(next);
            // Polled once more, so that the task is woken for the next one too.
            if self.heartbeat.as_mut().poll(context).is_ready() {
                context.waker().wake_by_ref();
            }
            return Poll::Ready(Some(Bytes::from_static(b":\n\n")));
        }
        Poll::Pending
    }

    /// Everything that is ready now, in one chunk: a single frame is shared, several are joined.
    fn gather(&mut self, context: &mut Context<'_>) -> Option<Bytes> {
        let mut single: Option<Bytes> = None;
        let mut joined = BytesMut::new();
        loop {
            let size = joined.len() + single.as_ref().map_or(0, Bytes::len);
            if size >= CHUNK {
                break;
            }
            let frame = match Pin::new(&mut self.events).poll_next(context) {
                Poll::Ready(Some(Ok(delivery))) => self.frame(&delivery),
                Poll::Ready(Some(Err(error))) => {
                    tracing::warn!(%error, "a stream can't read the log; trying again in a second");
                    let mut pause = Box::pin(tokio::time::sleep(Duration::from_secs(1)));
                    if pause.as_mut().poll(context).is_ready() {
                        context.waker().wake_by_ref();
                    }
                    self.pause = Some(pause);
                    break;
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    break;
                }
                Poll::Pending => break,
            };
            match single.take() {
                None if joined.is_empty() => single = Some(frame),
                None => joined.extend_from_slice(&frame),
                Some(before) => {
                    joined.reserve(CHUNK.min(8 * (before.len() + frame.len())));
                    joined.extend_from_slice(&before);
                    joined.extend_from_slice(&frame);
                }
            }
        }
        single.or_else(|| (!joined.is_empty()).then(|| joined.freeze()))
    }

    fn frame(&self, delivery: &Delivery) -> Bytes {
        // Not the log's, which may be a later one already, without what is sent here.
        let epoch = self.events.epoch();
        match delivery {
            Delivery::Event(event) => {
                self.app.metrics.sse_events.inc();
                if self.names { named(event, epoch) } else { event.sse_frame(epoch) }
            }
            Delivery::CaughtUp(position) => control("caught_up", &json!({ "position": position })),
            Delivery::Watermark(position) => {
                format!("id: {}\n\n", Cursor { epoch, position: *position }).into()
            }
            Delivery::Reset(reason) => reset(&reason.to_string()),
        }
    }
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

/// A body of Server-Sent Events as a response that no cache keeps and no proxy holds back.
pub(crate) fn event_stream(body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A control event: a name and data, without an id.
pub(crate) fn control(name: &str, data: &serde_json::Value) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// Says that the client's cursor isn't of this log, so that all it built from it must be forgotten.
pub(crate) fn reset(reason: &str) -> Bytes {
    control("reset", &json!({ "reason": reason, "after": 0 }))
}

impl http_body::Body for SseBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.get_mut().poll_chunk(context).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
    }
}
