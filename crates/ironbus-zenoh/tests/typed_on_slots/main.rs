//! The typed layer on a log of slots: the tests of `ironbus`, unchanged.

mod log;
#[path = "../../../ironbus/tests/typed/typed.rs"]
mod typed;
