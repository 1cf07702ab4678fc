//! Zenoh for ironbus: one log for many nodes.
//!
//! [`ZenohOptions`] opens a session. [`StoreNode::join`] gives the log of a node to others and carries its
//! events; [`EdgeNode::start`] makes a node that has no log, whose store is a [`ZenohEventStore`]. The way
//! of an event goes on from the store node's publisher through [`bus`] to the edge node's follower
//! (`ironbus::tail`), which asks [`remote`] for what the bus left out; `service` answers that.
//! [`keys`] and [`wire`] are the language between them. [`storage`] is an event store without SQLite, whose log
//! several nodes share.
//! [`replica`] checks and mends stock Zenoh storages that hold a copy of `events/**`.

pub mod bus;
pub mod config;
pub mod edge;
mod heartbeat;
pub mod keys;
pub mod remote;
pub mod replica;
mod service;
pub mod storage;
pub mod store_node;
pub mod wire;
mod writers;

pub use bus::{Received, ZenohBus};
pub use config::{ConfigError, Role, Tls, UserPassword, ZenohOptions};
pub use edge::{EdgeNode, EdgeOptions};
pub use remote::{Patience, ZenohEventStore};
pub use store_node::{JoinError, StoreNode, StoreNodeOptions};
