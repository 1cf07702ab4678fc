//! Live streams as Server-Sent Events, from a subscription to a client's socket.
//!
//! A stream leaves on one of two ways, from the same route and with the same bytes:
//!
//! - `body`: as the body of an HTTP response. Works wherever the routes do, behind any layer, over TLS or HTTP/2 of
//!   an application's own;
//! - `shard`: by a few threads of [`crate::serve`] that write to many sockets each. Once the head of the response is
//!   known, the connection is taken from HTTP (`takeover`), and what was the price of a connection, its task and its
//!   buffers, is given back.
//!
//! Either way a client holds no buffer of ours but what is being written to it: events are pulled from the
//! subscription when there is room, so a client that stops reading stops being served, falls out of the ring, and
//! reads the log when it goes on. Everything that waits is sent at once, up to [`CHUNK`] bytes. An event's frame is
//! built once per node and shared.
//!
//! Control events (`resumed`, `caught_up`, `reset`) carry no id, so that they don't move the cursor that
//! a browser resumes from. A bare `id:` moves it where nothing matched for a while.
//!
//! Invariant: nothing is sent once the credentials that the stream was opened with have expired. It ends
//! then, so that its client comes again with new ones.

use std::time::Duration;

mod body;
mod live;
mod shard;
mod shards;
mod takeover;

pub(crate) use body::event_stream;
pub(crate) use live::{LiveStream, control, reset, stream_response};
pub(crate) use shards::Shards;
pub(crate) use takeover::{Taken, taking_over};

/// No more is sent at once than this many bytes, but for a single larger event.
const CHUNK: usize = 64 * 1024;

/// Said to every client when the server drains.
const FAREWELL: &[u8] = b": the server is shutting down; reconnect\n\n";

/// A comment that keeps a quiet connection open.
const HEARTBEAT: &[u8] = b":\n\n";

/// How long a stream waits before it tries again where the log couldn't be read.
const PAUSE: Duration = Duration::from_secs(1);
