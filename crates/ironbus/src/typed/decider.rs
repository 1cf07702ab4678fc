//! Deciders: the rules of one kind of aggregate as two pure functions.

use super::DomainEvent;
use crate::event::{Metadata, SessionId};

/// The rules of one kind of aggregate. Pure: no I/O, no clock, no randomness, so that a decision can be
/// made again when somebody else was faster. What the rules need of the outside comes with the command.
pub trait Decider: Send + Sync + 'static {
    /// What the events so far add up to; the default is an aggregate without events.
    type State: Default + Send;
    /// What is asked for.
    type Command: Sync;
    /// What happens.
    type Event: DomainEvent;
    /// Why a command is refused.
    type Error: Send;

    /// What happens upon a command; no events mean that nothing needs to.
    ///
    /// # Errors
    ///
    /// The application's own reason to refuse the command.
    fn decide(state: &Self::State, command: &Self::Command) -> Result<Vec<Self::Event>, Self::Error>;

    /// The state after an event. An event has happened: it can't be refused any more.
    #[must_use]
    fn evolve(state: Self::State, event: &Self::Event) -> Self::State;
}

/// What goes with a command and isn't part of it; every event of the decision gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandContext {
    /// Correlation id, causation id, anything else.
    pub metadata: Metadata,
    /// When set, only readers entitled to this session see the events.
    pub session_id: Option<SessionId>,
}

impl From<Metadata> for CommandContext {
    fn from(metadata: Metadata) -> Self {
        Self { metadata, session_id: None }
    }
}
