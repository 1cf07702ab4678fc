//! The typed layer on SQLite. `typed_on_slots` of `ironbus-zenoh` runs the same on a log of slots.

mod log;
mod typed;
