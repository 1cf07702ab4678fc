//! The binary as it is run: real processes, real files, real kills.

mod backup;
mod browser;
mod carrying;
mod chromium;
mod disk_full;
mod edge_page;
mod kill;
mod logs;
mod migrate;
mod migration_page;
mod moves;
mod near;
mod page;
mod proxy;
mod roundtrip;
mod server;
mod sessions;
mod tail;
