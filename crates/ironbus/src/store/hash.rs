//! The hash chain over the log: `H(n) = BLAKE3(H(n-1) ‖ event(n))`, with `H(0)` all zeros.
//!
//! Two logs with the same hash at a position hold the same events up to it. The encoding of an event is
//! unambiguous: numbers are little-endian and fixed in size, texts carry their length. Every kind of store
//! chains its events in the same way, so that logs can be compared across kinds.

use crate::event::StoredEvent;

/// The hash of the log up to one position.
pub type ChainHash = [u8; 32];

/// The hash before the first event.
pub const CHAIN_START: ChainHash = [0; 32];

/// The hash of the log up to `event`, which follows the events that `previous` is the hash of.
#[must_use]
pub fn chain(previous: &ChainHash, event: &StoredEvent) -> ChainHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous);
    hasher.update(&event.position.0.to_le_bytes());
    hasher.update(&event.sequence.0.to_le_bytes());
    hasher.update(event.event_id.0.as_bytes());
    hasher.update(&u64::from(event.schema_version).to_le_bytes());
    hasher.update(&event.recorded_at.as_microsecond().to_le_bytes());
    let session = event.session_id.as_ref();
    let mut text = |text: &[u8]| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text);
    };
    text(event.aggregate.aggregate_type().as_bytes());
    text(event.aggregate.aggregate_id().as_bytes());
    text(event.event_type.as_bytes());
    text(event.payload.as_bytes());
    text(event.metadata.json().as_bytes());
    // A session id is never empty, so the empty text says that there is none.
    text(session.map_or("", |id| id.as_str()).as_bytes());
    *hasher.finalize().as_bytes()
}
