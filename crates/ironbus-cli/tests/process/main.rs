//! The binary as it is run: real processes, real files, real kills.

mod browser;
mod chromium;
mod kill;
mod logs;
mod page;
mod proxy;
mod roundtrip;
mod server;
mod tail;
