//! What can go wrong with a store, told so that callers can act on it.

use crate::event::{Aggregate, EventId, InvalidEvent, Sequence};
use crate::store::ExpectedVersion;

/// The source of an error: whatever the store is built on said.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why an append wasn't accepted. Except for [`Self::Unknown`], nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// An aggregate isn't at the expected version: load it, decide again, append again.
    #[error("{aggregate} is at version {actual}, expected {expected}; load it, decide again, append again")]
    Conflict {
        /// The aggregate.
        aggregate: Aggregate,
        /// What was expected of it.
        expected: ExpectedVersion,
        /// Its version, the sequence of its last event.
        actual: Sequence,
    },
    /// An event id of the batch is stored already, for an event that isn't the same.
    #[error("the event id {event_id} is already stored for another event; give every event an id of its own")]
    EventIdReused {
        /// The id.
        event_id: EventId,
    },
    /// Some events of the batch are stored already and others aren't, so it is no retry of one append.
    #[error(
        "{stored} of the batch's {total} events are already stored; append only the others, or the batch as it was first"
    )]
    PartlyStored {
        /// How many are stored.
        stored: usize,
        /// How many the batch has.
        total: usize,
    },
    /// The batch can't be stored by any store.
    #[error(transparent)]
    Invalid(#[from] InvalidAppend),
    /// There is no space left. Reads go on; appends are accepted again once there is space.
    #[error("no space left for the log: free some space on its disk, then try again; reads go on meanwhile")]
    StorageFull,
    /// The store can't be written by this process.
    #[error("the store was opened for reading only")]
    ReadOnly,
    /// The log is elsewhere and can't be reached. Nothing was written: try again later.
    #[error("the log can't be reached, so nothing was appended: {reason}")]
    Unavailable {
        /// Who is away, and since when.
        reason: String,
    },
    /// Another store node has a later epoch of this log, so this one accepts no more.
    #[error("this store node was superseded, so nothing was appended: {reason}")]
    Superseded {
        /// By whom, and what to do.
        reason: String,
    },
    /// The store is closed or closing.
    #[error("the store is closed")]
    Closed,
    /// The store failed, and nothing was written.
    #[error("the store failed: {0}")]
    Storage(#[source] Source),
    /// The store failed at a moment when it can't tell whether the batch was written. Appending again
    /// with the same event ids is safe and gives the answer.
    #[error("whether the append was written is unknown; retry it with the same event ids: {0}")]
    Unknown(#[source] Source),
}

/// Why a batch can't be stored by any store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAppend {
    /// There is no event in it, or none for one of its aggregates.
    #[error("an append needs at least one event for each aggregate it names")]
    Empty,
    /// It has too many events.
    #[error("{count} events in one append; at most {limit} are allowed, so split it")]
    TooManyEvents {
        /// How many it has.
        count: usize,
        /// How many it may have.
        limit: usize,
    },
    /// It has too many bytes of payload and metadata.
    #[error("{bytes} bytes of payload and metadata in one append; at most {limit} are allowed, so split it")]
    TooManyBytes {
        /// How many it has.
        bytes: usize,
        /// How many it may have.
        limit: usize,
    },
    /// One event id stands twice in it.
    #[error("the event id {event_id} stands twice in one append")]
    RepeatedId {
        /// The id.
        event_id: EventId,
    },
    /// One of its events can't be stored.
    #[error(transparent)]
    Event(#[from] InvalidEvent),
}

/// Why a store couldn't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The log is damaged: `ironbus verify` says where.
    #[error("the log is damaged at {place}: {reason}; run `ironbus verify`, and restore a backup")]
    Damaged {
        /// Where, as far as it is known.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The log is elsewhere and can't be reached: try again later.
    #[error("the log can't be reached: {reason}")]
    Unavailable {
        /// Who is away, and since when.
        reason: String,
    },
    /// The store is closed or closing.
    #[error("the store is closed")]
    Closed,
    /// The store failed.
    #[error("the log can't be read: {0}")]
    Storage(#[source] Source),
}
