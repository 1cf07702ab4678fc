//! Takes a connection from HTTP once the response to it is a live stream.
//!
//! The service around the routes sees such a response before HTTP does. It writes the response's head itself, hands
//! it over with the stream, and never answers HTTP, which is then taken apart for its socket. The body isn't chunked:
//! it ends with the connection (RFC 9112, section 6.3), so that a frame goes to every client as the same bytes.
//!
//! Invariant: nothing of an earlier response is owed to the client at that time; else the stream goes as a body. hyper
//! reads the head of a request only after it has flushed the answer to the one before; that isn't promised, so this
//! doesn't rest on it ([`Watched`]).

use std::convert::Infallible;
use std::io::{IoSlice, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::SystemTime;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{Method, Request, Version, header};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::live::{LiveStream, Offered};

/// A stream that goes on without HTTP, and what is to be sent before its first event.
pub(crate) struct Taken {
    pub(super) first: Bytes,
    pub(super) stream: LiveStream,
}

type Routes = TowerToHyperService<axum::Router>;

/// The routes, for one connection from which a stream may be taken.
pub(crate) struct TakingOver {
    routes: Routes,
    owed: Arc<AtomicBool>,
    hand: Arc<Mutex<Option<oneshot::Sender<Taken>>>>,
}

/// The service of one connection, its socket, and where the stream appears that it became; if it `may`.
pub(crate) fn taking_over(
    routes: Routes,
    socket: TcpStream,
    may: bool,
) -> (TakingOver, Watched, oneshot::Receiver<Taken>) {
    let owed = Arc::new(AtomicBool::new(false));
    let (hand, taken) = oneshot::channel();
    let hand = Arc::new(Mutex::new(may.then_some(hand)));
    (TakingOver { routes, owed: Arc::clone(&owed), hand }, Watched { socket, owed }, taken)
}

impl Service<Request<Incoming>> for TakingOver {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let may = *request.method() == Method::GET && request.version() == Version::HTTP_11;
        let answer = self.routes.call(request);
        let (owed, hand) = (Arc::clone(&self.owed), Arc::clone(&self.hand));
        Box::pin(async move {
            let mut response = answer.await?;
            let Some(offered) = response.extensions_mut().remove::<Offered>() else { return Ok(response) };
            if !may || owed.load(Ordering::Acquire) {
                return Ok(response);
            }
            let Some(hand) = hand.lock().take() else { return Ok(response) };
            let Some((hello, stream)) = offered.take() else { return Ok(response) };
            let first = [head(&response), hello].concat().into();
            // Whoever serves the connection may be ending; then nobody is answered any more.
            let _ = hand.send(Taken { first, stream });
            std::future::pending().await
        })
    }
}

/// The head of a response whose body ends with the connection.
fn head(response: &Response<Body>) -> Bytes {
    let mut head = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        if *name == header::CONNECTION || *name == header::TRANSFER_ENCODING {
            continue;
        }
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    write!(head, "date: {date}\r\nconnection: close\r\n\r\n").expect("memory takes it");
    head.into()
}

/// A socket that knows whether something that was to be written to it hasn't been.
pub(crate) struct Watched {
    socket: TcpStream,
    owed: Arc<AtomicBool>,
}

impl Watched {
    pub(crate) fn into_inner(self) -> TcpStream {
        self.socket
    }

    fn note(&self, offered: usize, written: &Poll<std::io::Result<usize>>) {
        let all = matches!(written, Poll::Ready(Ok(written)) if *written == offered);
        self.owed.store(!all, Ordering::Release);
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.note(bytes.len(), &written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.note(slices.iter().map(|slice| slice.len()).sum(), &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
