//! Stock Zenoh storages as downstream read replicas of a log.
//!
//! A router with Zenoh's storage manager keeps what is put on `events/**` and answers queries on it. It loses
//! what was put while it was away, keeps no attachment, and acknowledges nothing. But keys are unique and never
//! rewritten, and an event's JSON holds its position: so what a replica has can be compared with the log, event
//! by event, and what is missing can be put again.
//!
//! [`Storage`] finds it, [`Replica`] asks it and puts to it, [`Comparison`] says what that comes to, and
//! [`Strangers`] what it has that the log hasn't.

mod asked;
mod comparison;
mod storage;
mod strangers;

pub use asked::Replica;
pub use comparison::{Comparison, Ranges};
pub use storage::Storage;
pub use strangers::Strangers;

use crate::config::ConfigError;

/// Why a replica can't be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// No session can be opened as asked for.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nothing that is reached says that it has a storage.
    #[error(
        "no storage of a Zenoh storage manager on `events/**` was found; connect to its router, and let its admin space be read (zenohd does by default)"
    )]
    NoStorage,
    /// There are storages, but not this one.
    #[error("there is no storage `{name}`; there is: {there}")]
    NoSuchStorage {
        /// What was asked for.
        name: String,
        /// What was found.
        there: String,
    },
    /// There are several, and none was chosen.
    #[error("there are several storages, so say which is the replica, by its name or its router: {there}")]
    Several {
        /// What was found.
        there: String,
    },
    /// A question wasn't answered in time.
    #[error("the replica didn't answer within {seconds} s, so nothing is known of what it holds; try again")]
    Silent {
        /// How long was waited.
        seconds: u64,
    },
    /// The replica was there, and is away.
    #[error("the replica went away while it was asked, so what it holds isn't known; try again")]
    Away,
    /// The answer about all keys ended early.
    #[error(
        "the replica told of {told} keys of the log where it had just shown {held}: its answer was cut off, or keys were deleted; try again"
    )]
    CutOff {
        /// How many keys of the log the answer held.
        told: u64,
        /// How many events it had answered one by one.
        held: u64,
    },
    /// Zenoh refused.
    #[error("Zenoh refused: {reason}")]
    Zenoh {
        /// What it said.
        reason: String,
    },
}

impl From<zenoh::Error> for ReplicaError {
    fn from(error: zenoh::Error) -> Self {
        Self::Zenoh { reason: error.to_string() }
    }
}
