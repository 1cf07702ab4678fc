//! The binary as it is run: real processes, real files, real kills.

mod browser;
mod kill;
mod logs;
mod proxy;
mod roundtrip;
mod server;
mod tail;
