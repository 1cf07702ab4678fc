//! Going over from one log to another while everything runs: from a SQLite file to a log in RocksDB or in an object
//! store, and back.
//!
//! ```text
//!  begun ─▶ copying ─▶ sealed ─▶ opened ─▶ mirroring ─▶ (the way back is the same)
//!           appends     nobody    appends    the old log is kept up to date,
//!           go on       appends   go on      so that the way back is short
//! ```
//!
//! [`NodeLog`] is the log that a node has, whichever is in force; [`Whereabouts`] is the file that says so;
//! [`Mover`] carries a move out; [`LogPlaces`] opens logs by their addresses.
//!
//! Invariants:
//! - at any moment at most one log accepts appends, and it holds all that was ever acknowledged: the old log is
//!   sealed, and that is durable, before the rest is copied; the new one is opened only if it ends where the old one
//!   was sealed, with the same hash over all events;
//! - events keep their positions, ids and times, and the epoch that begins keeps all of the one before, so no reader
//!   notices, whatever cursor it comes back with;
//! - whoever moves may be killed at any moment: what is done is found in the logs themselves, and done again it changes
//!   nothing. The file names the two logs; which of them is in force follows from which is sealed.

mod mover;
mod node_log;
mod place;
mod restore;
mod whereabouts;

pub(crate) use mover::{Exchanged, open};
pub use mover::{MoveError, MoveStatus, Mover, Stage};
pub use node_log::NodeLog;
pub(crate) use place::Places;
pub use place::{Found, InvalidPlace, LogPlace, LogPlaces};
pub use restore::restore;
pub use whereabouts::{Move, Whereabouts};
