//! The same suite as `http`, unchanged, over a log in slots instead of SQLite: in a folder, or where
//! `IRONBUS_TEST_LOG` says (`rocksdb:rocks`).

#[path = "../http/append.rs"]
mod append;
#[path = "../http/migration.rs"]
mod migration;
#[path = "../http/read.rs"]
mod read;
#[path = "../http/sessions.rs"]
mod sessions;
#[path = "../http/stream.rs"]
mod stream;
#[path = "../http/support.rs"]
mod support;
