//! A live stream as the body of a response.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, header};
use http_body::Frame;
use tokio::time::{Instant, Sleep};

use super::live::{Gathered, LiveStream, Offered};
use super::{CHUNK, FAREWELL, PAUSE};
use crate::draining::Watch;

/// A body that takes the offered stream when it is first polled.
pub(super) enum SseBody {
    Offered(Offered),
    Open(Box<OpenBody>),
    Ended,
}

pub(super) struct OpenBody {
    stream: LiveStream,
    /// When something was last sent.
    sent: Instant,
    /// Comes up once something may be due because nothing was sent for a while. It is set anew only then, and not
    /// whenever something is sent.
    timer: Pin<Box<Sleep>>,
    /// Set while the log can't be read: the next try.
    pause: Option<Pin<Box<Sleep>>>,
    draining: Watch,
    /// When the client's credentials expire, if they do.
    expiry: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl OpenBody {
    fn new(stream: LiveStream) -> Self {
        Self {
            sent: Instant::now(),
            timer: Box::pin(tokio::time::sleep(stream.heartbeat_every())),
            pause: None,
            draining: stream.app().draining.watch(),
            expiry: stream.until().map(|until| Box::pin(tokio::time::sleep_until(until.into()))),
            ended: false,
            stream,
        }
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if Pin::new(&mut self.draining).poll(context).is_ready() {
            self.ended = true;
            return Poll::Ready(Some(Bytes::from_static(FAREWELL)));
        }
        if self.expiry.as_mut().is_some_and(|expiry| expiry.as_mut().poll(context).is_ready()) {
            self.ended = true;
            return Poll::Ready(Some(self.stream.expired()));
        }
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.pause = None;
        }
        let chunk = self.gather(context);
        if chunk.is_some() || self.ended {
            self.sent = Instant::now();
            return Poll::Ready(chunk);
        }
        if self.is_quiet(context) {
            return Poll::Ready(Some(self.stream.heartbeat()));
        }
        Poll::Pending
    }

    /// Whether it is time for a heartbeat, which is then taken for sent.
    fn is_quiet(&mut self, context: &mut Context<'_>) -> bool {
        if self.timer.as_mut().poll(context).is_pending() {
            return false;
        }
        let (now, every) = (Instant::now(), self.stream.heartbeat_every());
        let quiet = self.sent + every <= now;
        if quiet {
            self.sent = now;
        }
        self.timer.as_mut().reset(self.sent + every);
        // Polled once more, so that the task is woken when it comes up.
        if self.timer.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
        quiet
    }

    /// Everything that is ready now, in one chunk.
    fn gather(&mut self, context: &mut Context<'_>) -> Option<Bytes> {
        let mut chunk = Chunk::default();
        match self.stream.gather(context, &mut chunk) {
            Gathered::More | Gathered::All => {}
            Gathered::Unreadable => {
                let mut pause = Box::pin(tokio::time::sleep(PAUSE));
                if pause.as_mut().poll(context).is_ready() {
                    context.waker().wake_by_ref();
                }
                self.pause = Some(pause);
            }
            Gathered::End => self.ended = true,
        }
        chunk.join()
    }
}

/// Frames that go as one: a single one is shared, several are joined.
#[derive(Default)]
struct Chunk {
    single: Option<Bytes>,
    joined: BytesMut,
}

impl Chunk {
    fn join(self) -> Option<Bytes> {
        self.single.or_else(|| (!self.joined.is_empty()).then(|| self.joined.freeze()))
    }
}

impl Extend<Bytes> for Chunk {
    fn extend<T: IntoIterator<Item = Bytes>>(&mut self, frames: T) {
        for frame in frames {
            match self.single.take() {
                None if self.joined.is_empty() => self.single = Some(frame),
                None => self.joined.extend_from_slice(&frame),
                Some(before) => {
                    self.joined.reserve(CHUNK.min(8 * (before.len() + frame.len())));
                    self.joined.extend_from_slice(&before);
                    self.joined.extend_from_slice(&frame);
                }
            }
        }
    }
}

impl http_body::Body for SseBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let chunk = match this {
            Self::Offered(offered) => match offered.take() {
                Some((hello, stream)) => {
                    *this = Self::Open(Box::new(OpenBody::new(stream)));
                    Poll::Ready(Some(hello))
                }
                None => {
                    *this = Self::Ended;
                    Poll::Ready(None)
                }
            },
            Self::Open(open) => open.poll_chunk(context),
            Self::Ended => Poll::Ready(None),
        };
        chunk.map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
    }
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
