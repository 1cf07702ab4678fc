//! The suites of streams and sessions as in `http`, unchanged, with each stream the body of its response, as behind
//! layers of an application's own.

#[path = "../http/sessions.rs"]
mod sessions;
#[path = "../http/stream.rs"]
mod stream;
#[path = "../http/support.rs"]
mod support;
