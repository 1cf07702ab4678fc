//! Zenoh for ironbus. **So far only the language of keys**: the bus, the service of the store node and
//! Zenoh as storage come later, and nothing here opens a session yet.
//!
//! Keys and patterns of ironbus are Zenoh key expressions already, so the conversions only say so in the
//! type system; they can't fail. That they can't, and that ironbus and Zenoh agree about what matches,
//! is checked in `tests/keys.rs` with Zenoh's own matching as the oracle.

pub mod keys;
