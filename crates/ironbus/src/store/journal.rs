//! What a log's own database keeps of its migration: the phase in force, and every step that led to it.
//!
//! It stands beside the events and not among them: no position is taken, no subscriber sees a step.
//!
//! Invariants:
//! - the phase in force is the one that the last step led to, and `Broadcast` before the first;
//! - steps are numbered from 1 without holes, and each begins where the one before it ended;
//! - a step is written by whoever writes the log, in one order with the appends, and durable (also where
//!   appends aren't) once it is acknowledged.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{Json, Position};
use crate::store::ReadError;

/// How far a log has come on its way from one process to many nodes.
///
/// What leads from one to another is told in [`crate::migration`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Phase 1: events travel within one process.
    #[default]
    Broadcast,
    /// Phase 2: events travel both ways, and both are compared.
    Dual,
    /// Phase 3: events travel over Zenoh.
    Zenoh,
    /// Phase 4: the log itself is a log of slots over Zenoh, without SQLite.
    ZenohStorage,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Broadcast, Self::Dual, Self::Zenoh, Self::ZenohStorage];

    /// Its number, from 1.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Broadcast => 1,
            Self::Dual => 2,
            Self::Zenoh => 3,
            Self::ZenohStorage => 4,
        }
    }

    /// The phase of a number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.number() == number)
    }

    /// The phase after this one.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::from_number(self.number() + 1)
    }

    /// The phase before this one.
    #[must_use]
    pub fn previous(self) -> Option<Self> {
        Self::from_number(self.number() - 1)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Broadcast => "broadcast",
            Self::Dual => "dual",
            Self::Zenoh => "zenoh",
            Self::ZenohStorage => "zenoh_storage",
        })
    }
}

/// A text that names no phase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no phase; the phases are broadcast (1), dual (2), zenoh (3) and zenoh_storage (4)")]
pub struct InvalidPhase(String);

impl FromStr for Phase {
    type Err = InvalidPhase;

    /// Reads a phase by its name or its number.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|phase| phase.to_string() == text.replace('-', "_"));
        named
            .or_else(|| text.parse().ok().and_then(Self::from_number))
            .ok_or_else(|| InvalidPhase(text.chars().take(64).collect()))
    }
}

/// A step that is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewStep {
    /// The phase that it leaves; it must be the one in force.
    pub from: Phase,
    /// The phase that it leads to.
    pub to: Phase,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// What was measured when it was decided.
    pub figures: Json,
}

impl NewStep {
    /// The most bytes of a step's `by`.
    pub const MAX_BY_BYTES: usize = 256;
    /// The most bytes of a step's `reason`.
    pub const MAX_REASON_BYTES: usize = 4096;

    /// Says what keeps the step from being recorded by any journal, if anything does.
    ///
    /// # Errors
    ///
    /// [`InvalidStep`] with what to change.
    pub fn check(&self) -> Result<(), InvalidStep> {
        let fields = [("by", &self.by, Self::MAX_BY_BYTES), ("reason", &self.reason, Self::MAX_REASON_BYTES)];
        for (field, text, limit) in fields {
            if text.trim().is_empty() {
                return Err(InvalidStep::Empty { field });
            }
            if text.len() > limit {
                return Err(InvalidStep::TooLong { field, bytes: text.len(), limit });
            }
        }
        Ok(())
    }
}

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStep {
    /// Its number, from 1.
    pub step: u64,
    /// When it was recorded.
    pub at: Timestamp,
    /// The last position of the log before it.
    pub after: Position,
    /// The phase that it left.
    pub from: Phase,
    /// The phase that it led to.
    pub to: Phase,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// What was measured when it was decided.
    pub figures: Json,
}

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalPage {
    /// The phase in force.
    pub phase: Phase,
    /// How many steps were taken in all.
    pub taken: u64,
    /// The last of them, in order.
    pub steps: Vec<JournalStep>,
}

/// Where the phase in force and the steps to it are kept.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// The phase in force, and at most `last` of the steps that led to it.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when the journal can't be read.
    async fn journal(&self, last: usize) -> Result<JournalPage, ReadError>;

    /// Records a step, and with it the phase that it leads to. Returns when it is durable. Dropping the
    /// future doesn't take the step back.
    ///
    /// # Errors
    ///
    /// [`JournalError`]: in every case but [`JournalError::Unknown`] nothing was recorded.
    async fn record(&self, step: NewStep) -> Result<JournalStep, JournalError>;
}

/// Why a step can't be recorded by any journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidStep {
    /// It doesn't say who asked for it, or why.
    #[error("`{field}` must not be empty: the record of a migration says who took each step and why")]
    Empty {
        /// The field.
        field: &'static str,
    },
    /// A text is too long.
    #[error("`{field}` has {bytes} bytes; at most {limit} are allowed")]
    TooLong {
        /// The field.
        field: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
}

/// The source of an error: whatever the journal is built on said.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a step wasn't recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another step was faster.
    #[error("the log is in phase {actual} and no longer in phase {expected}: another step was faster")]
    Moved {
        /// The phase that the step was to leave.
        expected: Phase,
        /// The phase in force.
        actual: Phase,
    },
    /// No journal takes such a step.
    #[error(transparent)]
    Invalid(#[from] InvalidStep),
    /// There is no space left; for a step back, also none that was kept for it.
    #[error("no space left to record the step: free 1 MiB on the log's disk, then try again")]
    StorageFull,
    /// The log can't be written by this process.
    #[error("the log was opened for reading only, so no step can be recorded")]
    ReadOnly,
    /// Another store node has the log in a later epoch.
    #[error("no step is recorded here: {reason}")]
    Superseded {
        /// Which, and what to do.
        reason: String,
    },
    /// The log is closed or closing.
    #[error("the log is closed")]
    Closed,
    /// The log failed, and nothing was recorded.
    #[error("the step can't be recorded: {0}")]
    Storage(#[source] Source),
    /// The log failed at a moment when it can't tell whether the step was recorded. The journal tells,
    /// once it can be read.
    #[error("whether the step was recorded is unknown; the status tells: {0}")]
    Unknown(#[source] Source),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_read_by_its_name_and_by_its_number() {
        for phase in Phase::ALL {
            assert_eq!(phase.to_string().parse(), Ok(phase));
            assert_eq!(phase.number().to_string().parse(), Ok(phase));
            let written = serde_json::to_string(&phase).expect("a word");
            assert_eq!(written, format!("\"{phase}\""));
            assert_eq!(phase.next().map_or(phase, |next| next.previous().expect("there is one")), phase);
        }
        for text in ["", "0", "5", "Dual", "zenoh "] {
            assert!(text.parse::<Phase>().is_err(), "{text:?} was taken for a phase");
        }
    }
}
