//! What an event is: the ground that everything stands on. No I/O, nothing asynchronous.
//!
//! A [`NewEvent`] is what an application wants to say; a [`StoredEvent`] is what the log has
//! accepted, with its place (position and sequence) and its time. A stored event never changes.

mod decode;
mod encode;
mod ids;
mod json;
mod names;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use ids::{
    Aggregate, Cursor, Epoch, EventId, InvalidCursor, InvalidName, Position, Sequence, SessionId, StoreId,
};
pub use json::Json;
pub use names::Names;

use ids::check_name;

/// An event that isn't stored yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Its identity; `None` lets the store generate one. Give one to make an append safe to retry.
    pub event_id: Option<EventId>,
    /// What happened, for example `TodoCompleted`.
    pub event_type: Arc<str>,
    /// Which shape the payload has; an upcaster reads it. Counted from 1.
    pub schema_version: u32,
    /// The facts, as JSON, kept byte for byte.
    pub payload: Json,
    /// About the event rather than of it: correlation id, causation id, anything else.
    pub metadata: Metadata,
    /// When set, only readers entitled to this session see the event.
    pub session_id: Option<SessionId>,
}

impl NewEvent {
    /// The longest event type, in bytes of UTF-8.
    pub const MAX_TYPE_BYTES: usize = 256;
    /// The largest payload and the largest metadata, in bytes.
    pub const MAX_JSON_BYTES: usize = 1 << 20;

    /// An event of a type with a payload; everything else takes its default.
    #[must_use]
    pub fn new(event_type: impl Into<Arc<str>>, payload: Json) -> Self {
        Self {
            event_id: None,
            event_type: event_type.into(),
            schema_version: 1,
            payload,
            metadata: Metadata::default(),
            session_id: None,
        }
    }

    /// The same event with this identity.
    #[must_use]
    pub fn with_id(self, event_id: EventId) -> Self {
        Self { event_id: Some(event_id), ..self }
    }

    /// The same event with this metadata.
    #[must_use]
    pub fn with_metadata(self, metadata: Metadata) -> Self {
        Self { metadata, ..self }
    }

    /// The same event for one session alone.
    #[must_use]
    pub fn for_session(self, session_id: SessionId) -> Self {
        Self { session_id: Some(session_id), ..self }
    }

    /// The event as a store holds it, at the place that the store has given it. For implementations of a store.
    #[must_use]
    pub fn into_stored(
        self,
        event_id: EventId,
        aggregate: Aggregate,
        sequence: Sequence,
        position: Position,
        recorded_at: Timestamp,
    ) -> StoredEvent {
        StoredEvent {
            position,
            sequence,
            event_id,
            aggregate,
            event_type: self.event_type,
            schema_version: self.schema_version,
            payload: self.payload,
            metadata: self.metadata,
            session_id: self.session_id,
            recorded_at,
            encoded: Encoded::default(),
        }
    }

    /// Says what keeps the event from being stored, if anything does.
    ///
    /// # Errors
    ///
    /// [`InvalidEvent`] with the field and the limit.
    pub fn check(&self) -> Result<(), InvalidEvent> {
        check_name("event_type", &self.event_type, Self::MAX_TYPE_BYTES)?;
        if self.schema_version == 0 {
            return Err(InvalidEvent::SchemaVersionZero);
        }
        for (field, json) in [("payload", &self.payload), ("metadata", self.metadata.json())] {
            let bytes = json.as_bytes().len();
            if bytes > Self::MAX_JSON_BYTES {
                return Err(InvalidEvent::TooLarge { field, bytes, limit: Self::MAX_JSON_BYTES });
            }
        }
        Ok(())
    }
}

/// Why an event can't be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEvent {
    /// A name is empty, too long, or reserved.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Schema versions count from 1.
    #[error("`schema_version` must be at least 1")]
    SchemaVersionZero,
    /// The payload or the metadata is too large.
    #[error(
        "`{field}` has {bytes} bytes; at most {limit} are allowed. Store large content elsewhere and put a reference into the event"
    )]
    TooLarge {
        /// The field.
        field: &'static str,
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
}

/// Facts about an event: a JSON object, kept byte for byte.
///
/// `correlation_id` and `causation_id` are its two well-known members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata(Json);

impl Default for Metadata {
    fn default() -> Self {
        Self(Json::empty_object())
    }
}

/// Metadata that isn't a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`metadata` must be a JSON object")]
pub struct MetadataNotAnObject;

#[derive(Serialize, Deserialize)]
struct WellKnown {
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    causation_id: Option<String>,
}

impl Metadata {
    /// Takes a JSON object as metadata.
    ///
    /// # Errors
    ///
    /// [`MetadataNotAnObject`] for any other JSON.
    pub fn new(json: Json) -> Result<Self, MetadataNotAnObject> {
        if json.is_object() { Ok(Self(json)) } else { Err(MetadataNotAnObject) }
    }

    /// Metadata with the two well-known members: the conversation that an event belongs to, and the
    /// message that caused it.
    #[must_use]
    pub fn caused(correlation_id: Option<&str>, causation_id: Option<&str>) -> Self {
        let members = WellKnown {
            correlation_id: correlation_id.map(str::to_owned),
            causation_id: causation_id.map(str::to_owned),
        };
        Self(Json::of(&members).expect("two optional texts are always JSON"))
    }

    /// The conversation that the event belongs to, where the metadata says it.
    #[must_use]
    pub fn correlation_id(&self) -> Option<String> {
        self.0.to::<WellKnown>().ok()?.correlation_id
    }

    /// The message that caused the event, where the metadata says it.
    #[must_use]
    pub fn causation_id(&self) -> Option<String> {
        self.0.to::<WellKnown>().ok()?.causation_id
    }

    /// The object as JSON.
    #[must_use]
    pub fn json(&self) -> &Json {
        &self.0
    }

    /// Takes text that was checked when it was stored.
    pub(crate) fn trusted(text: &str) -> Self {
        Self(Json::trusted(text))
    }
}

/// An event that the log holds.
#[derive(Debug)]
pub struct StoredEvent {
    /// Its place in the whole log.
    pub position: Position,
    /// Its place within its aggregate.
    pub sequence: Sequence,
    /// Its identity.
    pub event_id: EventId,
    /// The aggregate it belongs to.
    pub aggregate: Aggregate,
    /// What happened.
    pub event_type: Arc<str>,
    /// Which shape the payload has.
    pub schema_version: u32,
    /// The facts, byte for byte as they were given.
    pub payload: Json,
    /// About the event, byte for byte as it was given.
    pub metadata: Metadata,
    /// The session it is meant for, if it is for one alone.
    pub session_id: Option<SessionId>,
    /// When the store accepted it, to the microsecond. Never goes back from one position to the next.
    pub recorded_at: Timestamp,
    /// Built at most once per node, and shared by every reader.
    pub(crate) encoded: Encoded,
}

/// The shared encodings of one event.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    /// And whether joining its lines has left it as it was.
    line: OnceLock<(Bytes, bool)>,
    sse: OnceLock<(Epoch, Bytes)>,
}

impl PartialEq for StoredEvent {
    fn eq(&self, other: &Self) -> bool {
        self.position == other.position
            && self.sequence == other.sequence
            && self.event_id == other.event_id
            && self.aggregate == other.aggregate
            && self.event_type == other.event_type
            && self.schema_version == other.schema_version
            && self.payload == other.payload
            && self.metadata == other.metadata
            && self.session_id == other.session_id
            && self.recorded_at == other.recorded_at
    }
}

/// An event for the tests of this crate.
#[cfg(test)]
pub(crate) fn test_event(
    aggregate: Aggregate,
    sequence: Sequence,
    session_id: Option<SessionId>,
) -> StoredEvent {
    StoredEvent {
        position: Position(1),
        sequence,
        event_id: EventId::generate(),
        aggregate,
        event_type: "Tested".into(),
        schema_version: 1,
        payload: Json::empty_object(),
        metadata: Metadata::default(),
        session_id,
        recorded_at: Timestamp::UNIX_EPOCH,
        encoded: Encoded::default(),
    }
}
