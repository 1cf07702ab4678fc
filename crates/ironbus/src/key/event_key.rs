//! The key of one event.

use std::borrow::Cow;
use std::fmt;

use super::{ROOT, SESSION, chunk};
use crate::event::{Aggregate, InvalidName, Sequence, SessionId, StoredEvent};

/// The key of one event: four chunks, or six with a session scope, none of them a wildcard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey(Box<str>);

impl EventKey {
    /// The key of the event of `aggregate` at `sequence`.
    #[must_use]
    pub fn new(aggregate: &Aggregate, sequence: Sequence, session_id: Option<&SessionId>) -> Self {
        KeyChunks::new(aggregate, sequence, session_id).join()
    }

    /// The key of a stored event.
    #[must_use]
    pub fn of(event: &StoredEvent) -> Self {
        Self::new(&event.aggregate, event.sequence, event.session_id.as_ref())
    }

    /// Reads a key back.
    ///
    /// # Errors
    ///
    /// [`InvalidEventKey`] when `key` isn't one that [`EventKey::new`] builds.
    pub fn parse(key: &str) -> Result<(Aggregate, Sequence, Option<SessionId>), InvalidEventKey> {
        let chunks: Vec<&str> = key.split('/').collect();
        let (session, place) = match *chunks {
            [ROOT, SESSION, session, kind, id, sequence] => (Some(session), [kind, id, sequence]),
            [ROOT, kind, id, sequence] => (None, [kind, id, sequence]),
            _ => return Err(InvalidEventKey::Shape { key: key.to_owned() }),
        };
        let text = |chunk: &str| {
            chunk::decode(chunk)
                .map(Cow::into_owned)
                .ok_or_else(|| InvalidEventKey::Chunk { key: key.to_owned(), chunk: chunk.to_owned() })
        };
        let sequence = place[2]
            .parse::<u64>()
            .ok()
            .filter(|number| *number > 0 && number.to_string() == place[2])
            .ok_or_else(|| InvalidEventKey::Sequence { key: key.to_owned(), chunk: place[2].to_owned() })?;
        let aggregate = Aggregate::new(text(place[0])?, text(place[1])?)?;
        let session = session.map(|chunk| Ok::<_, InvalidEventKey>(SessionId::new(text(chunk)?)?));
        Ok((aggregate, Sequence(sequence), session.transpose()?))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text isn't the key of an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEventKey {
    /// The number or the fixed words of its chunks are wrong.
    #[error(
        "`{key}` isn't an event key: expected events/{{type}}/{{id}}/{{sequence}} or events/session/{{session}}/{{type}}/{{id}}/{{sequence}}"
    )]
    Shape {
        /// The text.
        key: String,
    },
    /// A chunk isn't percent-encoded the one way that keys are.
    #[error("in the key `{key}`, `{chunk}` isn't a percent-encoded name")]
    Chunk {
        /// The text.
        key: String,
        /// The offending part.
        chunk: String,
    },
    /// The last chunk isn't a sequence, counted from 1.
    #[error("in the key `{key}`, `{chunk}` isn't a sequence (a whole number from 1)")]
    Sequence {
        /// The text.
        key: String,
        /// The offending part.
        chunk: String,
    },
    /// A chunk decodes to a name that no event may have.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

/// The chunks of an event's key without the key: what matching needs, mostly without allocating.
pub(crate) struct KeyChunks<'a> {
    chunks: [Cow<'a, str>; 6],
    len: usize,
}

impl<'a> KeyChunks<'a> {
    pub(crate) fn of(event: &'a StoredEvent) -> Self {
        Self::new(&event.aggregate, event.sequence, event.session_id.as_ref())
    }

    pub(crate) fn new(
        aggregate: &'a Aggregate,
        sequence: Sequence,
        session_id: Option<&'a SessionId>,
    ) -> Self {
        let kind = chunk::encode(aggregate.aggregate_type());
        let id = chunk::encode(aggregate.aggregate_id());
        let number = Cow::Owned(itoa::Buffer::new().format(sequence.0).to_owned());
        let none = Cow::Borrowed("");
        match session_id {
            Some(session) => Self {
                chunks: [ROOT.into(), SESSION.into(), chunk::encode(session.as_str()), kind, id, number],
                len: 6,
            },
            None => Self { chunks: [ROOT.into(), kind, id, number, none.clone(), none], len: 4 },
        }
    }

    pub(crate) fn as_slice(&self) -> &[Cow<'a, str>] {
        &self.chunks[..self.len]
    }

    fn join(&self) -> EventKey {
        EventKey(self.as_slice().join("/").into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_read_as_documented() {
        let todo = Aggregate::new("Todo", "uuid-123").expect("valid");
        assert_eq!(EventKey::new(&todo, Sequence(2), None).as_str(), "events/Todo/uuid-123/2");
        let session = SessionId::new("s/1").expect("valid");
        assert_eq!(
            EventKey::new(&todo, Sequence(2), Some(&session)).as_str(),
            "events/session/s%2F1/Todo/uuid-123/2"
        );
    }

    #[test]
    fn what_is_not_a_key_is_refused_with_the_offending_part() {
        let refused = |key: &str| EventKey::parse(key).expect_err(key).to_string();
        assert!(refused("events/Todo/1").contains("expected events/"));
        assert!(refused("events/Todo/1/0").contains("`0` isn't a sequence"));
        assert!(refused("events/Todo/1/01").contains("`01` isn't a sequence"));
        assert!(refused("events/Todo/%2f/1").contains("`%2f` isn't a percent-encoded name"));
        assert!(refused("events/Todo//1").contains("`` isn't a percent-encoded name"));
        assert!(refused("events/session/1/1").contains("reserved"));
    }

    /// The ids of real logs, and everything that a key expression forbids or gives a meaning.
    fn names() -> impl Strategy<Value = String> {
        prop_oneof![
            "(?s)[^\0]{1,24}",
            "[/#*?@%$ ]{1,8}",
            "(events|session|\\*\\*|\\$\\*|@a|%2F|a/b|12|é漢|case 1)",
        ]
    }

    proptest! {
        #[test]
        fn no_id_adds_a_chunk_or_a_wildcard_and_every_id_survives(
            kind in names(), id in names(), sequence in 1..u64::MAX, session in prop::option::of(names()),
        ) {
            prop_assume!(kind != "session");
            let aggregate = Aggregate::new(kind, id).expect("valid");
            let session = session.map(|id| SessionId::new(id).expect("valid"));
            let key = EventKey::new(&aggregate, Sequence(sequence), session.as_ref());
            let chunks = key.as_str().split('/').count();
            prop_assert_eq!(chunks, if session.is_some() { 6 } else { 4 });
            prop_assert!(!key.as_str().contains(['*', '$', '#', '?']));
            prop_assert!(key.as_str().split('/').all(|chunk| !chunk.is_empty() && !chunk.starts_with('@')));
            prop_assert_eq!(EventKey::parse(key.as_str()), Ok((aggregate, Sequence(sequence), session)));
        }
    }
}
