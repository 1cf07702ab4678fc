//! The binary as it is run: real processes, real files, real kills.

mod kill;
mod logs;
mod roundtrip;
mod server;
mod tail;
