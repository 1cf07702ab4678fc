//! The migration: its rules against models, and its controller on a bus and a journal that tests can fail,
//! stop and kill.

mod controller;
mod kills;
mod node;
mod parity;
mod step;
mod support;
mod triggers;
