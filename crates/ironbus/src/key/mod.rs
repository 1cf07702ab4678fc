//! The keys of events and the patterns that select them. No other module builds a key.
//!
//! `events/{aggregate_type}/{aggregate_id}/{sequence}`, and for an event with a session scope
//! `events/session/{session_id}/{aggregate_type}/{aggregate_id}/{sequence}`.
//!
//! Invariants: a built key has exactly its number of chunks and no wildcard, whatever the ids contain;
//! it decodes back to exactly the ids; a pattern matches a key if and only if Zenoh's key expressions
//! say so (checked against them in the crate `ironbus-zenoh`).

mod chunk;
mod event_key;
mod filter;
mod index;
mod pattern;

pub use event_key::{EventKey, InvalidEventKey};
pub use filter::{Entitlement, EventFilter};
pub use pattern::{InvalidPattern, KeyPattern};

pub(crate) use event_key::KeyChunks;
pub(crate) use index::{Hanging, Index};
pub(crate) use pattern::Shape;

/// The first chunk of every event key.
pub(crate) const ROOT: &str = "events";
/// The second chunk of a session-scoped event's key.
pub(crate) const SESSION: &str = "session";
