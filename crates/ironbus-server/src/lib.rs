//! ironbus over HTTP: append, load, read, and live streams by Server-Sent Events, over a [`Node`].
//!
//! A library: [`serve`] runs it on a listener of yours, [`router`] gives the routes to an axum program
//! of your own. Loopback is the default place for it; see [`ServerOptions::check_host`].
//!
//! The way of a request: [`serve`] (connections, time limits, draining) → `routes/` → the node's store;
//! what goes wrong leaves as a [`Problem`]; live events leave through `sse`. What a request may see is
//! decided by an [`Access`].

mod access;
mod body;
pub mod cloudevents;
mod draining;
mod metrics;
mod operators;
mod problem;
mod routes;
mod serve;
mod sse;

use std::sync::Arc;
use std::time::Duration;

pub use access::{
    Access, AnyAccess, Denied, Grant, OperatorToken, PublicAccess, SessionSecret, SessionToken,
    SessionTokens, ShortSecret,
};
pub use operators::Operators;
pub use problem::Problem;
pub use routes::router;
pub use serve::serve;

use draining::Draining;
use ironbus::Node;
use metrics::Metrics;

/// How the server behaves.
#[derive(Clone)]
pub struct ServerOptions {
    /// The largest request body, in bytes; a larger one is refused with 413.
    pub max_body_bytes: usize,
    /// A stream on which nothing was sent for so long gets a comment, so that proxies keep it open.
    pub heartbeat: Duration,
    /// How long a browser waits before it reconnects a stream (`retry:`).
    pub retry: Duration,
    /// How long a shutdown waits for requests under way; what isn't done by then is cut off.
    pub drain: Duration,
    /// How long a client may take for a request's head, and again for its body.
    pub request_timeout: Duration,
    /// The origins of other pages that may read from here, with the cookie of their session, as browsers
    /// send them (`https://app.example.org`, nothing behind the host or port); none by default.
    pub cors_origins: Vec<String>,
    /// Which session-scoped events a request may see.
    pub access: Arc<dyn Access>,
    /// Who may take steps of the log's migration.
    pub operators: Operators,
    /// Whether only requests to `localhost` or a loopback address are answered. On by default: it keeps
    /// a page from elsewhere from reaching a loopback server through a name of its own (DNS rebinding).
    pub check_host: bool,
    /// How many connections are served at the same time; further ones wait to be accepted.
    pub max_connections: usize,
    /// How many threads write to the clients of live streams, which then cost a fraction of what a connection costs
    /// otherwise. As many as there are processors by default; they sleep while nothing is to be written. With 0 a
    /// stream is the body of its response like any other.
    pub stream_threads: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_body_bytes: 24 << 20,
            heartbeat: Duration::from_secs(15),
            retry: Duration::from_secs(2),
            drain: Duration::from_secs(5),
            request_timeout: Duration::from_secs(15),
            cors_origins: Vec::new(),
            access: Arc::new(PublicAccess),
            operators: Operators::default(),
            check_host: true,
            max_connections: 16_384,
            stream_threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        }
    }
}

/// What every request needs.
#[derive(Clone)]
struct App(Arc<AppInner>);

struct AppInner {
    node: Node,
    options: ServerOptions,
    metrics: Metrics,
    draining: Draining,
}

impl std::ops::Deref for App {
    type Target = AppInner;

    fn deref(&self) -> &AppInner {
        &self.0
    }
}
