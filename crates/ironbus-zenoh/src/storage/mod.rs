//! An event store without a database: a log of slots with compare-and-set below, Zenoh above.
//!
//! An append goes: [`ZenohStorageEventStore`] → the committing task → `plan` decides one batch for all
//! appends that wait, on the `state` folded from every slot before → [`CommitLog::commit`] puts it into the
//! next slot, or says what is there → what is there is folded → the tail → the acknowledgement.
//!
//! Invariants:
//! - of all that is put into one slot exactly one batch is there; a slot is never skipped, never filled
//!   before all before it are folded, and never written over;
//! - so a batch is always planned on the whole log before it. Clocks, pauses and partitions decide who wins a
//!   slot, never what is true in it;
//! - an acknowledged append is one batch's, on stable storage; its events stand together, at contiguous
//!   positions;
//! - what is read of the log bears a checksum and is compared with what was folded; nothing else is served.

mod aside;
mod batch;
mod bytes;
mod committer;
mod follow;
mod journal;
mod leader;
mod log;
pub mod memory;
#[cfg(test)]
mod model;
#[cfg(test)]
mod moving;
#[cfg(feature = "object-store")]
mod object;
mod own;
mod places;
mod plan;
#[cfg(feature = "rocksdb")]
mod rocks;
#[cfg(feature = "s3")]
mod s3;
mod state;
mod store;

pub use self::batch::{Batch, Record};
pub use self::bytes::Damage;
pub use self::follow::{StorageVerification, Trouble, verify};
pub use self::log::{CommitLog, Committed, LogError, Slot};
pub use self::memory::MemoryLog;
#[cfg(feature = "object-store")]
pub use self::object::{ObjectLog, ProbeError};
pub use self::places::StoragePlaces;
#[cfg(feature = "rocksdb")]
pub use self::rocks::{RocksLog, RocksOpenError};
#[cfg(feature = "s3")]
pub use self::s3::{S3Credentials, S3Options, provide_tls};
pub use self::state::Fault;
pub use self::store::{Pace, StorageOpenError, StorageOptions, ZenohStorageEventStore};
