//! The server as its clients see it: over real connections to a server of each test's own.

mod append;
mod migration;
mod read;
mod sessions;
mod stream;
mod support;
