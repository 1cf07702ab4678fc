//! The same suite as `commands`, unchanged, over logs in slots instead of SQLite: in a folder, or where
//! `IRONBUS_TEST_LOG` says (`rocksdb:rocks`).

#[path = "../commands/main.rs"]
mod commands;
