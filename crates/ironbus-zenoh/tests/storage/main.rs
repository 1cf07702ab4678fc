//! The event store over a commit log.

mod appends;
mod contract;
mod copies;
mod damage;
mod epochs;
mod faults;
mod journal;
mod leader;
mod moves;
mod patience;
mod probe;
mod starts;
mod support;
