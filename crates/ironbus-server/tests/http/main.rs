//! The server as its clients see it: over real connections to a server of each test's own.

mod append;
mod read;
mod stream;
mod support;
