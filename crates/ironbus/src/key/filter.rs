//! Which events a reader gets: a pattern, and the sessions it is entitled to.
//!
//! Invariant: an event with a session scope is shown only to a reader entitled to that session, whatever
//! its pattern says. An entitlement comes from the application, never from what a client asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{KeyPattern, pattern::Shape};
use crate::event::{Aggregate, Sequence, SessionId, StoredEvent};

/// The session-scoped events that a reader may see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Entitlement {
    /// None: only events without a session scope.
    #[default]
    Public,
    /// Those of these sessions, beside all events without a session scope.
    Sessions(Arc<BTreeSet<SessionId>>),
    /// All of them. For trusted code: projections, exports, operators.
    Everything,
}

impl Entitlement {
    /// The entitlement of one session's own reader.
    #[must_use]
    pub fn session(session_id: SessionId) -> Self {
        Self::Sessions(Arc::new(BTreeSet::from([session_id])))
    }

    /// Whether a reader with this entitlement may see an event of this scope.
    #[must_use]
    pub fn allows(&self, session_id: Option<&SessionId>) -> bool {
        match (session_id, self) {
            (None, _) | (_, Self::Everything) => true,
            (Some(_), Self::Public) => false,
            (Some(session), Self::Sessions(sessions)) => sessions.contains(session),
        }
    }
}

/// What a reader gets: the events that match a pattern and that it is entitled to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFilter {
    /// Which events are asked for.
    pub pattern: KeyPattern,
    /// Which session-scoped ones among them may be seen.
    pub entitlement: Entitlement,
}

impl EventFilter {
    /// Every event, sessions included: for trusted code alone.
    #[must_use]
    pub fn everything() -> Self {
        Self { pattern: KeyPattern::everything(), entitlement: Entitlement::Everything }
    }

    /// The events that match `pattern` and have no session scope.
    #[must_use]
    pub fn public(pattern: KeyPattern) -> Self {
        Self { pattern, entitlement: Entitlement::Public }
    }

    /// The same pattern for a reader with this entitlement.
    #[must_use]
    pub fn entitled(self, entitlement: Entitlement) -> Self {
        Self { entitlement, ..self }
    }

    /// Whether the reader gets this event.
    #[must_use]
    pub fn matches(&self, event: &StoredEvent) -> bool {
        self.entitlement.allows(event.session_id.as_ref()) && self.pattern.matches(event)
    }

    /// The same for an event of which only its place is known yet.
    #[must_use]
    pub fn matches_place(
        &self,
        aggregate: &Aggregate,
        sequence: Sequence,
        session_id: Option<&SessionId>,
    ) -> bool {
        self.entitlement.allows(session_id) && self.pattern.matches_place(aggregate, sequence, session_id)
    }

    /// Whether every event whatever passes, so that nothing needs to be looked at.
    pub(crate) fn passes_all(&self) -> bool {
        *self.pattern.shape() == Shape::Everything && self.entitlement == Entitlement::Everything
    }
}

impl From<KeyPattern> for EventFilter {
    fn from(pattern: KeyPattern) -> Self {
        Self::public(pattern)
    }
}
