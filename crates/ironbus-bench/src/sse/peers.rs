//! The servers that ours is measured beside. Each answers any request with a stream of frames that are the same as
//! ours in size, and none of them resumes, filters, or notices what it lost.

use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::State;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use super::server::frame;

/// How many events a broadcast channel holds: as many as are ever under way here.
const ROOM: usize = 1024;

/// What a server is told to do.
pub(super) trait Server {
    /// Sends so many events, as if they had just happened.
    fn publish(&mut self, count: u64);

    /// The resident memory of its process, in KiB.
    fn resident(&self) -> u64 {
        super::server::resident_of("self")
    }
}

/// Publishes to whoever has subscribed to a broadcast channel.
pub(super) struct Broadcasting<T>(broadcast::Sender<T>, u64, fn(u64) -> T);

impl<T: Clone + Send + 'static> Server for Broadcasting<T> {
    fn publish(&mut self, count: u64) {
        for _ in 0..count {
            self.1 += 1;
            // Nobody may listen yet.
            let _ = self.0.send((self.2)(self.1));
        }
    }
}

/// As the guides show it: axum's `Sse` over a broadcast channel, each event formatted for each client.
pub(super) fn axum_sse() -> (axum::Router, Box<dyn Server + Send>) {
    async fn stream(
        State(events): State<broadcast::Sender<Arc<(u64, String)>>>,
    ) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
        let events = BroadcastStream::new(events.subscribe()).filter_map(|event| async move {
            let event = event.ok()?;
            Some(Ok(Event::default().id(format!("1.{}", event.0)).data(&event.1)))
        });
        Sse::new(events)
    }
    let sender = broadcast::Sender::new(ROOM);
    let routes = axum::Router::new().fallback(stream).with_state(sender.clone());
    let event = |number| Arc::new((number, super::server::data(number)));
    (routes, Box::new(Broadcasting(sender, 0, event)))
}

/// A body of frames that were formatted once, which gives everything that is pending at once.
struct Frames(BroadcastStream<Bytes>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let mut pending: Option<Bytes> = None;
        let mut joined = BytesMut::new();
        while joined.len() < 64 << 10
            && let Poll::Ready(Some(Ok(frame))) = self.0.poll_next_unpin(context)
        {
            match pending.take() {
                None if joined.is_empty() => pending = Some(frame),
                before => {
                    joined.extend(before);
                    joined.extend_from_slice(&frame);
                }
            }
        }
        match pending.or_else(|| (!joined.is_empty()).then(|| joined.freeze())) {
            Some(bytes) => Poll::Ready(Some(Ok(http_body::Frame::data(bytes)))),
            None => Poll::Pending,
        }
    }
}

/// The best that a body of hyper does: shared frames, everything pending in one.
pub(super) fn shared_frames() -> (axum::Router, Box<dyn Server + Send>) {
    async fn stream(State(events): State<broadcast::Sender<Bytes>>) -> Response {
        let body = Body::new(Frames(BroadcastStream::new(events.subscribe())));
        ([("content-type", "text/event-stream")], body).into_response()
    }
    let sender = broadcast::Sender::new(ROOM);
    let routes = axum::Router::new().fallback(stream).with_state(sender.clone());
    (routes, Box::new(Broadcasting(sender, 0, frame)))
}

/// The floor: one thread that writes the same bytes to every socket, for as long as each takes them.
pub(super) struct Floor {
    events: Sender<Bytes>,
    waker: Arc<mio::Waker>,
    number: u64,
}

impl Server for Floor {
    fn publish(&mut self, count: u64) {
        let mut frames = BytesMut::new();
        for _ in 0..count {
            self.number += 1;
            frames.extend_from_slice(&frame(self.number));
        }
        self.events.send(frames.freeze()).expect("the thread runs");
        self.waker.wake().expect("woken");
    }
}

pub(super) fn floor(listener: std::net::TcpListener) -> Box<dyn Server + Send> {
    listener.set_nonblocking(true).expect("set");
    let listener = mio::net::TcpListener::from_std(listener);
    let poll = mio::Poll::new().expect("a poll");
    let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(usize::MAX)).expect("a waker"));
    let (events, published) = channel();
    std::thread::spawn(move || write_to_all(poll, listener, &published));
    Box::new(Floor { events, waker, number: 0 })
}

struct Open {
    socket: mio::net::TcpStream,
    asked: bool,
    /// How much of everything that was published it has.
    sent: usize,
    blocked: bool,
}

fn write_to_all(mut poll: mio::Poll, mut listener: mio::net::TcpListener, published: &Receiver<Bytes>) {
    const LISTENER: mio::Token = mio::Token(usize::MAX - 1);
    poll.registry().register(&mut listener, LISTENER, mio::Interest::READABLE).expect("registered");
    let mut clients: Vec<Open> = Vec::new();
    let mut happened = mio::Events::with_capacity(1024);
    // What isn't sent to all yet, and how much was forgotten before.
    let (mut pending, mut forgotten) = (BytesMut::new(), 0);
    loop {
        poll.poll(&mut happened, None).expect("polled");
        let mut all = false;
        let mut some = Vec::new();
        for event in &happened {
            match event.token() {
                LISTENER => {
                    while let Ok((mut socket, _)) = listener.accept() {
                        let _ = socket.set_nodelay(true);
                        let both = mio::Interest::READABLE | mio::Interest::WRITABLE;
                        let token = mio::Token(clients.len());
                        poll.registry().register(&mut socket, token, both).expect("registered");
                        let sent = forgotten + pending.len();
                        clients.push(Open { socket, asked: false, sent, blocked: false });
                    }
                }
                mio::Token(usize::MAX) => {
                    all = true;
                    published.try_iter().for_each(|frames| pending.extend_from_slice(&frames));
                }
                mio::Token(number) => {
                    let client = &mut clients[number];
                    let mut buffer = [0; 2048];
                    if event.is_readable() && !client.asked && client.socket.read(&mut buffer).is_ok() {
                        client.asked = true;
                        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
                        client.socket.write_all(head).expect("a small head");
                    }
                    if event.is_writable() && client.blocked {
                        client.blocked = false;
                        some.push(number);
                    }
                }
            }
        }
        let mut write = |client: &mut Open| {
            while client.asked && !client.blocked && client.sent < forgotten + pending.len() {
                match client.socket.write(&pending[client.sent - forgotten..]) {
                    Ok(written) => client.sent += written,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => client.blocked = true,
                    Err(error) => panic!("a client is gone: {error}"),
                }
            }
        };
        if all {
            clients.iter_mut().for_each(&mut write);
        } else {
            some.iter().for_each(|number| write(&mut clients[*number]));
        }
        if clients.iter().all(|client| client.sent == forgotten + pending.len()) {
            forgotten += pending.len();
            pending.clear();
        }
    }
}
