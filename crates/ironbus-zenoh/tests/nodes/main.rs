//! Nodes with real Zenoh sessions between them.

mod contract;
mod edges;
mod others;
mod raw;
mod shared;
mod support;
