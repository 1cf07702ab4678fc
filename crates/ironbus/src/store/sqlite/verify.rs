//! Walking the log: contiguity, sequences, hash chain, the journal of the migration, and SQLite's own check.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use super::OpenError;
use super::journal;
use super::reader::{aggregate_of, event_at_row};
use super::schema::{fold_in_at_close, open_reader, read_lineage, refused};
use crate::event::{Aggregate, Position, Sequence};
use crate::store::{CHAIN_START, ChainHash, Phase, chain};

/// What a walk over the whole log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// How many events were walked.
    pub events: u64,
    /// Over how many aggregates.
    pub aggregates: u64,
    /// The log's head, as the file says.
    pub head: Position,
    /// The hash over all events, in hexadecimal: equal logs have equal ones.
    pub chain: String,
    /// The number of the migration's phase in force.
    pub phase: u8,
    /// How many steps of the migration were taken.
    pub steps: u64,
    /// What is wrong; empty for a sound log. At most [`Verification::MAX_FAULTS`] are told.
    pub faults: Vec<Fault>,
}

impl Verification {
    /// After so many faults the walk ends.
    pub const MAX_FAULTS: usize = 100;

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// One thing that is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Positions aren't contiguous.
    #[error("position {expected} is missing: the next event is at {found}")]
    Position {
        /// The position that had to come.
        expected: Position,
        /// The one that came.
        found: Position,
    },
    /// An aggregate's sequences aren't contiguous.
    #[error("at position {position}, {aggregate} has sequence {found} where {expected} had to come")]
    Sequence {
        /// Where.
        position: Position,
        /// The aggregate.
        aggregate: Aggregate,
        /// The sequence that had to come.
        expected: Sequence,
        /// The one that came.
        found: Sequence,
    },
    /// The event isn't what was stored: its hash differs.
    #[error("the event at position {position} is not the one that was stored: its hash differs")]
    Hash {
        /// Where.
        position: Position,
    },
    /// A row can't be read as an event.
    #[error("the event after position {after} can't be read: {reason}")]
    Unreadable {
        /// The last position that could be read.
        after: Position,
        /// What is wrong with it.
        reason: String,
    },
    /// The head doesn't agree with the last event.
    #[error("the log's head says position {head}, but its last event is at {last}")]
    Head {
        /// What the head says.
        head: Position,
        /// Where the last event is.
        last: Position,
    },
    /// The steps of the migration aren't numbered without holes.
    #[error("step {expected} of the migration is missing: the next one is {found}")]
    Step {
        /// The step that had to come.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// A step of the migration doesn't begin where the one before it ended.
    #[error("step {step} of the migration leaves phase {found}, but the log was in phase {expected}")]
    StepFrom {
        /// The step.
        step: u64,
        /// Where the step before it ended.
        expected: Phase,
        /// Where it begins.
        found: Phase,
    },
    /// A row can't be read as a step of the migration.
    #[error("the step of the migration after step {after} can't be read: {reason}")]
    UnreadableStep {
        /// The last step that could be read.
        after: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The phase in force isn't the one that the last step led to.
    #[error("the log says that it is in phase {found}, but the steps of its migration led to phase {} ({reached})", reached.number())]
    Phase {
        /// The number of the phase that the log says it is in.
        found: u8,
        /// Where the last step led.
        reached: Phase,
    },
    /// The head and the last event, which are at the same position, have different hashes.
    #[error("the log's head and its last event, at position {head}, have different hashes")]
    HeadHash {
        /// Where both are.
        head: Position,
    },
    /// The epochs can't be those of a log.
    #[error("the epochs can't be those of a log: {0}")]
    Epochs(String),
    /// SQLite found its own structures damaged.
    #[error("SQLite's integrity check says: {0}")]
    Sqlite(String),
}

/// Walks the whole log and says what is wrong with it. Needs no writer and disturbs none. `progress` is
/// told now and then how many of how many events were walked.
///
/// # Errors
///
/// [`OpenError`] if the file can't be opened at all, or isn't ours.
pub fn verify(path: &Path, mut progress: impl FnMut(u64, u64)) -> Result<Verification, OpenError> {
    let wrap = |error| refused(path, error);
    if !path.exists() {
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no log here");
        return Err(OpenError::Io { path: path.to_owned(), source });
    }
    let connection = open_reader(path)?;
    // One snapshot for all of it, so that a writer beside us changes nothing that we compare.
    connection.execute_batch("BEGIN").map_err(wrap)?;
    let (head, stored) = connection
        .query_row("SELECT head, chain FROM log", [], |row| {
            Ok((row.get::<_, u64>(0)?, row.get::<_, ChainHash>(1)?))
        })
        .map_err(wrap)?;
    let head = Position(head);
    let mut walk = Walk::default();
    let walked = walk_events(&connection, head, &mut walk, &mut progress);
    if let Err(error) = walked {
        walk.faults.push(Fault::Unreadable { after: walk.last, reason: error.to_string() });
    }
    if walk.faults.is_empty() && walk.last != head {
        walk.faults.push(Fault::Head { head, last: walk.last });
    } else if walk.faults.is_empty() && walk.hash != stored {
        walk.faults.push(Fault::HeadHash { head });
    }
    match read_lineage(&connection) {
        Ok(Some(_)) => {}
        Ok(None) => walk.faults.push(Fault::Epochs("they are empty or out of order".into())),
        Err(error) => walk.faults.push(Fault::Epochs(error.to_string())),
    }
    let (phase, steps) = journal::verify(&connection, &mut walk.faults).unwrap_or_else(|error| {
        walk.faults.push(Fault::UnreadableStep { after: 0, reason: error.to_string() });
        (0, 0)
    });
    integrity_check(&connection, &mut walk.faults);
    // A file that is not sound stays as it is, for whoever looks into it.
    fold_in_at_close(&connection, walk.faults.is_empty()).map_err(wrap)?;
    Ok(Verification {
        events: walk.events,
        aggregates: walk.sequences.len() as u64,
        head,
        chain: blake3::Hash::from_bytes(walk.hash).to_hex().to_string(),
        phase,
        steps,
        faults: walk.faults,
    })
}

#[derive(Default)]
struct Walk {
    last: Position,
    hash: ChainHash,
    events: u64,
    sequences: HashMap<i64, (Aggregate, Sequence)>,
    faults: Vec<Fault>,
}

fn walk_events(
    connection: &rusqlite::Connection,
    head: Position,
    walk: &mut Walk,
    progress: &mut impl FnMut(u64, u64),
) -> rusqlite::Result<()> {
    let mut select = connection.prepare(
        "SELECT position, aggregate, sequence, session_id, event_id, event_type, schema_version,
                recorded_at, metadata, payload, chain
         FROM event ORDER BY position",
    )?;
    let mut rows = select.query([])?;
    walk.hash = CHAIN_START;
    while let Some(row) = rows.next()? {
        let key: i64 = row.get(1)?;
        let (aggregate, last) = match walk.sequences.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert((aggregate_of(connection, key)?, Sequence::START)),
        };
        let event = event_at_row(row, aggregate.clone())?;
        if event.position != walk.last.next() {
            walk.faults.push(Fault::Position { expected: walk.last.next(), found: event.position });
        }
        let expected = Sequence(last.0 + 1);
        if event.sequence != expected {
            walk.faults.push(Fault::Sequence {
                position: event.position,
                aggregate: aggregate.clone(),
                expected,
                found: event.sequence,
            });
        }
        *last = event.sequence;
        let stored: ChainHash = row.get(10)?;
        if chain(&walk.hash, &event) != stored {
            walk.faults.push(Fault::Hash { position: event.position });
        }
        // Going on from the stored hash, one changed event is one fault and not one for all after it.
        walk.hash = stored;
        walk.last = event.position;
        walk.events += 1;
        if walk.events.is_multiple_of(4096) {
            progress(walk.events, head.0);
        }
        if walk.faults.len() >= Verification::MAX_FAULTS {
            break;
        }
    }
    progress(walk.events, head.0);
    Ok(())
}

fn integrity_check(connection: &rusqlite::Connection, faults: &mut Vec<Fault>) {
    let checked = connection.prepare("PRAGMA integrity_check(20)").and_then(|mut check| {
        let rows = check.query_map([], |row| row.get::<_, String>(0))?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    });
    match checked {
        Ok(lines) => {
            faults.extend(lines.into_iter().filter(|line| line != "ok").map(Fault::Sqlite));
        }
        Err(error) => faults.push(Fault::Sqlite(error.to_string())),
    }
}
