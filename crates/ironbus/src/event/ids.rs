//! The numbers and names that place an event: positions, sequences, ids, epochs, cursors.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A place in the whole log: global, contiguous, counted from 1 in commit order.
///
/// [`Position::START`] (0) is the place before the first event; as an `after` it means "everything".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// The place before the first event.
    pub const START: Self = Self(0);

    /// The position that follows this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A place within one aggregate: counted from 1, without holes.
///
/// 0 is the version of an aggregate that has no events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The place before an aggregate's first event.
    pub const START: Self = Self(0);
}

/// The incarnation of a log. A restored backup or a promoted copy gets a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Which log this is; given once, when the log is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(pub Uuid);

/// An event's identity, given by the client or generated (UUIDv7). Appends are idempotent by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub Uuid);

impl EventId {
    /// A new id, ordered by time (UUIDv7).
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

/// A position together with the epoch in which it was read: what a reader keeps to resume.
///
/// Written as `{epoch}.{position}`, which is also the `id:` of an SSE frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The epoch of the log that the position was read from.
    pub epoch: Epoch,
    /// The last position that the reader has dealt with.
    pub position: Position,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch.0, self.position.0)
    }
}

/// A text that isn't a cursor of the form `{epoch}.{position}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a cursor; a cursor is written {{epoch}}.{{position}}, for example 1.42")]
pub struct InvalidCursor(String);

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |part: &str| {
            let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| part.parse::<u64>().ok()).flatten()
        };
        text.split_once('.')
            .and_then(|(epoch, position)| {
                Some(Self { epoch: Epoch(digits(epoch)?), position: Position(digits(position)?) })
            })
            .ok_or_else(|| InvalidCursor(text.chars().take(64).collect()))
    }
}

macro_rules! displayed_as_inner {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
displayed_as_inner!(Position, Sequence, Epoch, StoreId, EventId);

/// The aggregate that an event belongs to: its type and its id, both free text.
///
/// Cheap to clone; the store hands out one allocation per aggregate where it can.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Aggregate {
    aggregate_type: Arc<str>,
    aggregate_id: Arc<str>,
}

impl Aggregate {
    /// The longest aggregate type, in bytes of UTF-8.
    pub const MAX_TYPE_BYTES: usize = 128;
    /// The longest aggregate id, in bytes of UTF-8.
    pub const MAX_ID_BYTES: usize = 512;
    /// The aggregate type that keys reserve for session-scoped events.
    pub const RESERVED_TYPE: &str = "session";

    /// Names an aggregate.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] when either part is empty, longer than its limit, or contains a NUL, or when
    /// the type is the reserved word `session`.
    pub fn new(
        aggregate_type: impl Into<Arc<str>>,
        aggregate_id: impl Into<Arc<str>>,
    ) -> Result<Self, InvalidName> {
        let (aggregate_type, aggregate_id) = (aggregate_type.into(), aggregate_id.into());
        check_name("aggregate_type", &aggregate_type, Self::MAX_TYPE_BYTES)?;
        check_name("aggregate_id", &aggregate_id, Self::MAX_ID_BYTES)?;
        if &*aggregate_type == Self::RESERVED_TYPE {
            return Err(InvalidName::Reserved);
        }
        Ok(Self { aggregate_type, aggregate_id })
    }

    /// The kind of aggregate, for example `Incident`.
    #[must_use]
    pub fn aggregate_type(&self) -> &str {
        &self.aggregate_type
    }

    /// Which one of its kind.
    #[must_use]
    pub fn aggregate_id(&self) -> &str {
        &self.aggregate_id
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.aggregate_type, self.aggregate_id)
    }
}

impl fmt::Debug for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aggregate({:?}, {:?})", self.aggregate_type, self.aggregate_id)
    }
}

/// The session that an event is meant for; nobody else may see the event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// The longest session id, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 256;

    /// Names a session.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] when it is empty, longer than [`Self::MAX_BYTES`], or contains a NUL.
    pub fn new(id: impl Into<Arc<str>>) -> Result<Self, InvalidName> {
        let id = id.into();
        check_name("session_id", &id, Self::MAX_BYTES)?;
        Ok(Self(id))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a name can't be part of an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// The name is empty.
    #[error("`{field}` must not be empty")]
    Empty {
        /// The field that was to hold it.
        field: &'static str,
    },
    /// The name is longer than its field allows. Keys are capped far below what a bus can carry
    /// (a key of 66,000 bytes aborts a Zenoh 1.10 process).
    #[error("`{field}` has {bytes} bytes; at most {limit} are allowed")]
    TooLong {
        /// The field that was to hold it.
        field: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The name contains a NUL character.
    #[error("`{field}` contains a NUL character, which no name may")]
    Nul {
        /// The field that was to hold it.
        field: &'static str,
    },
    /// The aggregate type is `session`, under which session-scoped events have their keys.
    #[error("the aggregate type `session` is reserved for the keys of session-scoped events; choose another")]
    Reserved,
}

pub(crate) fn check_name(field: &'static str, name: &str, limit: usize) -> Result<(), InvalidName> {
    if name.is_empty() {
        Err(InvalidName::Empty { field })
    } else if name.len() > limit {
        Err(InvalidName::TooLong { field, bytes: name.len(), limit })
    } else if name.contains('\0') {
        Err(InvalidName::Nul { field })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_what_it_writes() {
        let cursor = Cursor { epoch: Epoch(3), position: Position(42) };
        assert_eq!(cursor.to_string(), "3.42");
        assert_eq!("3.42".parse(), Ok(cursor));
    }

    #[test]
    fn what_is_not_a_cursor_is_refused() {
        for text in ["", "42", ".1", "1.", "+1.2", "1.-2", "1.2.3", "a.b", "1.99999999999999999999"] {
            assert!(text.parse::<Cursor>().is_err(), "{text:?} was taken for a cursor");
        }
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(Aggregate::new("session", "1"), Err(InvalidName::Reserved));
        assert_eq!(Aggregate::new("", "1"), Err(InvalidName::Empty { field: "aggregate_type" }));
        assert_eq!(Aggregate::new("Todo", "a\0"), Err(InvalidName::Nul { field: "aggregate_id" }));
        assert_eq!(
            Aggregate::new("Todo", "x".repeat(513)),
            Err(InvalidName::TooLong { field: "aggregate_id", bytes: 513, limit: 512 })
        );
        assert!(Aggregate::new("Todo", "a/b #*?@%$ é漢").is_ok());
    }
}
