//! The event store over a commit log.

mod appends;
mod contract;
mod damage;
mod epochs;
mod faults;
mod probe;
mod starts;
mod support;
