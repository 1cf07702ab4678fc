//! The writer thread: the only one that changes the log, and where the order of events is made.
//!
//! It takes every append that waits, checks each against the state that those before it leave, and
//! commits all of them in one transaction (group commit), so that many clients share one sync of the
//! disk. After the commit it feeds the tail, and only then acknowledges.
//!
//! Invariants:
//! - a refused append writes nothing: an append is planned in full before its first row is inserted;
//! - what the memory knows (`head`, `chain`, `versions`) is what the transaction holds; whenever a
//!   transaction ends otherwise than by a commit, it is read anew from the file.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::carried::Carried;
use super::checkpoint::Checkpoints;
use super::journal;
use super::reader::{aggregate_of, event_at_row, row_of, select_events, version_of};
use super::reserve::Reserve;
use super::schema::{LogState, WriteLock, insert_epoch, read_state, synced};
use crate::event::{Aggregate, Encoded, EventId, NewEvent, Position, Sequence, StoredEvent};
use crate::store::{
    Append, AppendError, Appended, ChainHash, JournalError, JournalStep, LogEnd, NewStep, Phase, Recorded,
    chain,
};
use crate::tail::Tail;

pub(super) enum Command {
    Append(Append, oneshot::Sender<Result<Appended, AppendError>>),
    Record(NewStep, oneshot::Sender<Result<JournalStep, JournalError>>),
    Mark(Mark, oneshot::Sender<Result<LogEnd, AppendError>>),
    KeepCarried,
    Close(oneshot::Sender<()>),
}

/// What is done to a log as a whole, and why.
pub(super) enum Mark {
    Seal(String),
    BeginEpoch(String),
}

/// For how long the writer looks for the next append before it sleeps: a client that appends one event after another
/// comes back within that, and to wake a thread would take it about a tenth of a sync more.
const LOOK: Duration = Duration::from_micros(100);

/// For how long a group waits for as many appends as the last one had: those who were answered together come back
/// about together, and one more in a group costs less than one more group.
const GATHER: Duration = Duration::from_micros(100);

/// One transaction takes no more than this; what waits beyond it goes into the next.
const GROUP_EVENTS: usize = 4096;
const GROUP_BYTES: usize = 8 << 20;

/// How many aggregates' versions are remembered. When full, all are forgotten and looked up again.
const KNOWN_AGGREGATES: usize = 1 << 16;

pub(super) struct Writer {
    path: PathBuf,
    checkpoints: Checkpoints,
    connection: Connection,
    state: LogState,
    versions: HashMap<Aggregate, Known>,
    tail: Arc<Tail>,
    /// Whether the tail ends with the log.
    owns_tail: bool,
    carried: Arc<Carried>,
    reserve: Reserve,
    _lock: WriteLock,
}

#[derive(Clone, Copy)]
struct Known {
    /// `None` for an aggregate that has no row yet.
    row: Option<i64>,
    version: Sequence,
}

/// What became of one append within an open transaction.
enum Outcome {
    Written(Vec<Arc<StoredEvent>>),
    StoredBefore(Vec<Recorded>),
}

/// Why one append, or the transaction around it, can't go on.
enum Failure {
    /// This append is refused; the transaction goes on without it.
    Refused(AppendError),
    /// The transaction is spoiled.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

type Waiting = (Append, oneshot::Sender<Result<Appended, AppendError>>);

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        (connection, checkpoints): (Connection, Checkpoints),
        state: LogState,
        (tail, owns_tail): (Arc<Tail>, bool),
        carried: Arc<Carried>,
        reserve: Reserve,
        lock: WriteLock,
    ) -> Self {
        let versions = HashMap::new();
        Self {
            path,
            checkpoints,
            connection,
            state,
            versions,
            tail,
            owns_tail,
            carried,
            reserve,
            _lock: lock,
        }
    }

    /// Runs until every handle of the store is gone or it is told to close.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let (mut closing, mut busy) = (None, false);
        let mut group: Vec<Waiting> = Vec::new();
        // How many appends the last group had.
        let mut together = 0;
        while closing.is_none() {
            let Some(first) = next(&mut commands, busy) else { break };
            busy = true;
            let (mut events, mut bytes) = (0, 0);
            let (mut step, mut mark, mut keep) = (None, None, false);
            let (mut next, began) = (Some(first), Instant::now());
            while let Some(command) = next {
                match command {
                    Command::Append(append, reply) => {
                        events += append.len();
                        bytes += append.bytes();
                        group.push((append, reply));
                    }
                    // Recorded after the appends before it and before those after it.
                    Command::Record(new, reply) => {
                        step = Some((new, reply));
                        break;
                    }
                    Command::Mark(new, reply) => {
                        mark = Some((new, reply));
                        break;
                    }
                    Command::KeepCarried => keep = true,
                    Command::Close(done) => {
                        closing = Some(done);
                        commands.close();
                        break;
                    }
                }
                let full = events >= GROUP_EVENTS || bytes >= GROUP_BYTES;
                next = if full { None } else { soon(&mut commands, group.len() < together, began) };
            }
            together = group.len();
            self.commit_group(&mut group);
            self.checkpoints.after_commit(&self.connection);
            if let Some((new, reply)) = step {
                // Who asked may have stopped waiting; the step stands all the same.
                let _ = reply.send(self.record(new));
            }
            if let Some((new, reply)) = mark {
                let _ = reply.send(self.mark(&new));
            }
            if keep {
                self.keep_carried();
            }
        }
        self.close();
        drop(self);
        if let Some(done) = closing {
            // Whoever asked may have stopped waiting; the store is closed all the same.
            let _ = done.send(());
        }
    }

    /// How far the log was carried, as far as it can be said: where it doesn't leave this process, all of it
    /// was; where it does and nobody says how far, no further than was known.
    fn carried_now(&self) -> Position {
        match self.carried.settled(Instant::now()) {
            Some(carried) => carried.min(self.state.head),
            None if self.state.phase == Phase::Broadcast => self.state.head,
            None => self.state.carried,
        }
    }

    /// Writes how far the log was carried, if that is news.
    fn keep_carried(&mut self) {
        let carried = self.carried_now();
        if carried == self.state.carried {
            return;
        }
        match self.connection.execute("UPDATE log SET carried = ?1", [carried.0]) {
            Ok(_) => self.state.carried = carried,
            Err(error) => {
                tracing::debug!(%error, "how far the log was carried isn't kept; after a crash more is carried again");
            }
        }
    }

    /// What was committed is synced, and then needs no mark any more.
    fn sync(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch("PRAGMA synchronous = FULL")?;
        // Its sync is one of the whole write-ahead log; what was folded in before was synced then.
        self.connection.execute("UPDATE log SET unsynced = NULL WHERE unsynced IS NOT NULL", [])?;
        Ok(())
    }

    fn close(&mut self) {
        self.keep_carried();
        if let Err(error) = self.sync() {
            tracing::warn!(%error, "the log could not be synced; if the machine is started anew, it begins a new epoch");
        }
        self.checkpoints.stop();
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::warn!(%error, "the write-ahead log could not be folded in; the next start does it");
        }
        if self.owns_tail {
            self.tail.close();
        }
    }

    /// Seals the log, or begins an epoch, which opens it again.
    fn mark(&mut self, mark: &Mark) -> Result<LogEnd, AppendError> {
        let state = &self.state;
        let done = synced(&self.connection, |connection| match mark {
            Mark::Seal(_) if state.sealed.is_some() => Ok(()),
            Mark::Seal(why) => connection.execute("UPDATE log SET sealed = ?1", [why]).map(drop),
            Mark::BeginEpoch(why) => {
                insert_epoch(connection, state, why)?;
                connection.execute("UPDATE log SET sealed = NULL", []).map(drop)
            }
        });
        // What failed may have come to the file all the same.
        self.forget_transaction();
        done.map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => AppendError::StorageFull,
            _ => AppendError::Unknown(error.into()),
        })?;
        let LogState { head, chain, .. } = self.state;
        let epoch = self.state.lineage.epoch();
        if let Mark::BeginEpoch(_) = mark {
            self.tail.adopt(epoch, head);
        }
        Ok(LogEnd { epoch, head, chain })
    }

    fn commit_group(&mut self, group: &mut Vec<Waiting>) {
        if group.is_empty() {
            return;
        }
        match self.transact(group.iter().map(|(append, _)| append)) {
            Ok(outcomes) => self.acknowledge(group.drain(..).zip(outcomes)),
            // One append may have spoiled it for all: each goes alone, so that each gets its own answer.
            Err(error) if group.len() > 1 && !matches!(error, AppendError::Unknown(_)) => {
                tracing::debug!(%error, appends = group.len(), "a group commit failed; appending one by one");
                for waiting in group.drain(..) {
                    match self.transact(std::iter::once(&waiting.0)) {
                        Ok(outcomes) => self.acknowledge(std::iter::once(waiting).zip(outcomes)),
                        Err(error) => answer(waiting.1, Err(error)),
                    }
                }
            }
            Err(error) => {
                let text = error.to_string();
                let unknown = matches!(error, AppendError::Unknown(_));
                let mut first = Some(error);
                for (_, reply) in group.drain(..) {
                    let error = first.take().unwrap_or_else(|| {
                        if unknown {
                            AppendError::Unknown(text.clone().into())
                        } else {
                            AppendError::Storage(text.clone().into())
                        }
                    });
                    answer(reply, Err(error));
                }
            }
        }
    }

    /// Feeds the tail with what was committed, then answers everybody.
    fn acknowledge(&self, done: impl Iterator<Item = (Waiting, Result<Outcome, AppendError>)>) {
        let mut committed = Vec::new();
        let mut answers = Vec::new();
        for ((_, reply), outcome) in done {
            let result = outcome.map(|outcome| match outcome {
                Outcome::StoredBefore(events) => events,
                Outcome::Written(events) => {
                    let places = events.iter().map(|event| place(event)).collect();
                    committed.extend(events);
                    places
                }
            });
            answers.push((reply, result));
        }
        if let Err(hole) = self.tail.publish(&committed) {
            unreachable!("the writer publishes every commit, in order: {hole}");
        }
        for (reply, result) in answers {
            answer(reply, result.map(Appended::new));
        }
    }

    /// One transaction over all of `appends`; on an error nothing of any of them is written.
    fn transact<'a>(
        &mut self,
        appends: impl Iterator<Item = &'a Append>,
    ) -> Result<Vec<Result<Outcome, AppendError>>, AppendError> {
        let head = self.state.head;
        let written = self.begin_and_write(appends);
        let committed = written.and_then(|outcomes| {
            if self.state.head == head {
                self.connection.execute_batch("ROLLBACK").map_err(definite)?;
                return Ok(outcomes);
            }
            self.commit()?;
            Ok(outcomes)
        });
        if committed.is_err() {
            self.forget_transaction();
        }
        committed
    }

    fn begin_and_write<'a>(
        &mut self,
        appends: impl Iterator<Item = &'a Append>,
    ) -> Result<Vec<Result<Outcome, AppendError>>, AppendError> {
        self.connection
            .prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut begin| begin.execute([]))
            .map_err(definite)?;
        let mut outcomes = Vec::new();
        for append in appends {
            outcomes.push(match self.write(append) {
                Ok(outcome) => Ok(outcome),
                Err(Failure::Refused(error)) => Err(error),
                Err(Failure::Sqlite(error)) => return Err(definite(error)),
            });
        }
        Ok(outcomes)
    }

    fn commit(&mut self) -> Result<(), AppendError> {
        self.state.carried = self.carried_now();
        self.connection
            .prepare_cached("UPDATE log SET head = ?1, chain = ?2, carried = ?3")
            .and_then(|mut update| {
                update.execute((self.state.head.0, self.state.chain, self.state.carried.0))
            })
            .map_err(definite)?;
        self.connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])).map_err(
            |error| match error.sqlite_error_code() {
                // A full disk is met while the pages are written, before the commit record.
                Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => definite(error),
                _ => AppendError::Unknown(error.into()),
            },
        )?;
        Ok(())
    }

    /// Records a step of the migration. A step back finds room on a full disk too.
    fn record(&mut self, new: NewStep) -> Result<JournalStep, JournalError> {
        let back = (new.to < new.from).then(|| new.clone());
        let (mut recorded, mut freed) = (self.try_record(new), false);
        if let (Err(JournalError::StorageFull), Some(back)) = (&recorded, back)
            && self.reserve.free()
        {
            tracing::warn!("the disk is full: a step back is recorded where the reserve was");
            (recorded, freed) = (self.try_record(back), true);
        }
        if recorded.is_ok() || freed {
            // What it took, here or on a former full disk, as far as the write-ahead log hasn't kept it.
            self.reserve.fill();
        }
        recorded
    }

    fn try_record(&mut self, new: NewStep) -> Result<JournalStep, JournalError> {
        if let Some(reason) = &self.state.sealed {
            return Err(JournalError::Superseded { reason: reason.clone() });
        }
        let carried = self.carried_now();
        let recorded = journal::record(&self.connection, &self.state, new, carried);
        match &recorded {
            Ok(step) => (self.state.phase, self.state.carried) = (step.to, carried),
            Err(JournalError::Moved { .. }) => {}
            Err(_) => self.forget_transaction(),
        }
        recorded
    }

    /// Ends a transaction that failed, and reads anew what the file holds.
    fn forget_transaction(&mut self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a failed transaction could not be rolled back");
        }
        self.versions.clear();
        match read_state(&self.path, &self.connection) {
            Ok(state) => self.state = state,
            // Positions below the file's head would break its primary key, so nothing false is written.
            Err(error) => tracing::error!(%error, "the log's head could not be read after a failure"),
        }
    }

    fn write(&mut self, append: &Append) -> Result<Outcome, Failure> {
        if let Some(places) = self.stored_before(append)? {
            return Ok(Outcome::StoredBefore(places));
        }
        if let Some(reason) = &self.state.sealed {
            return Err(Failure::Refused(AppendError::Superseded { reason: reason.clone() }));
        }
        self.check_versions(append)?;
        let mut events = Vec::with_capacity(append.len());
        for write in &append.writes {
            let mut known = self.known(&write.aggregate)?;
            let row = match known.row {
                Some(row) => row,
                None => insert_aggregate(&self.connection, &write.aggregate)?,
            };
            for event in &write.events {
                known.version = Sequence(known.version.0 + 1);
                events.push(self.insert(&write.aggregate, row, known.version, event)?);
            }
            self.remember(&write.aggregate, Known { row: Some(row), version: known.version });
        }
        Ok(Outcome::Written(events))
    }

    /// The places of the batch's events if all of them are stored already: then it is a retry.
    fn stored_before(&self, append: &Append) -> Result<Option<Vec<Recorded>>, Failure> {
        let mut places = Vec::new();
        let mut other = None;
        for write in &append.writes {
            for event in &write.events {
                let Some(event_id) = event.event_id else { continue };
                let Some(stored) = self.find(event_id)? else { continue };
                if !is_same(&stored, &write.aggregate, event) {
                    other = other.or(Some(event_id));
                }
                places.push(place(&stored));
            }
        }
        if let Some(event_id) = other {
            return Err(Failure::Refused(AppendError::EventIdReused { event_id }));
        }
        match places.len() {
            0 => Ok(None),
            stored if stored == append.len() => Ok(Some(places)),
            stored => Err(Failure::Refused(AppendError::PartlyStored { stored, total: append.len() })),
        }
    }

    fn find(&self, event_id: EventId) -> rusqlite::Result<Option<StoredEvent>> {
        let mut find = self.connection.prepare_cached(select_events!("WHERE event_id = ?1"))?;
        find.query_row([event_id.0.as_bytes()], |row| {
            let aggregate = aggregate_of(&self.connection, row.get(1)?)?;
            event_at_row(row, aggregate)
        })
        .optional()
    }

    /// Checks every expected version against the state that the batch's earlier writes produce.
    fn check_versions(&mut self, append: &Append) -> Result<(), Failure> {
        let mut planned: HashMap<&Aggregate, Sequence> = HashMap::new();
        for write in &append.writes {
            let actual = match planned.get(&write.aggregate) {
                Some(version) => *version,
                None => self.known(&write.aggregate)?.version,
            };
            if !write.expected.admits(actual) {
                return Err(Failure::Refused(AppendError::Conflict {
                    aggregate: write.aggregate.clone(),
                    expected: write.expected,
                    actual,
                }));
            }
            if append.writes.len() > 1 {
                planned.insert(&write.aggregate, Sequence(actual.0 + write.events.len() as u64));
            }
        }
        Ok(())
    }

    fn known(&mut self, aggregate: &Aggregate) -> rusqlite::Result<Known> {
        if let Some(known) = self.versions.get(aggregate) {
            return Ok(*known);
        }
        let row = row_of(&self.connection, aggregate)?;
        let version = match row {
            Some(row) => version_of(&self.connection, row)?,
            None => Sequence::START,
        };
        let known = Known { row, version };
        self.remember(aggregate, known);
        Ok(known)
    }

    fn remember(&mut self, aggregate: &Aggregate, known: Known) {
        if let Some(slot) = self.versions.get_mut(aggregate) {
            *slot = known;
            return;
        }
        if self.versions.len() >= KNOWN_AGGREGATES {
            self.versions.clear();
        }
        self.versions.insert(aggregate.clone(), known);
    }

    fn insert(
        &mut self,
        aggregate: &Aggregate,
        row: i64,
        sequence: Sequence,
        event: &NewEvent,
    ) -> rusqlite::Result<Arc<StoredEvent>> {
        // The clock may be set back; the log's time never goes back with it.
        let now = Timestamp::now().as_microsecond().max(self.state.last_recorded_at);
        let stored = StoredEvent {
            position: self.state.head.next(),
            sequence,
            event_id: event.event_id.unwrap_or_else(EventId::generate),
            aggregate: aggregate.clone(),
            event_type: Arc::clone(&event.event_type),
            schema_version: event.schema_version,
            payload: event.payload.clone(),
            metadata: event.metadata.clone(),
            session_id: event.session_id.clone(),
            recorded_at: Timestamp::from_microsecond(now).expect("the clock's own time is in range"),
            encoded: Encoded::default(),
        };
        let hash = chain(&self.state.chain, &stored);
        insert_event(&self.connection, row, &stored, &hash)?;
        self.state.head = stored.position;
        self.state.chain = hash;
        self.state.last_recorded_at = now;
        Ok(Arc::new(stored))
    }
}

/// Gives an aggregate its row.
pub(super) fn insert_aggregate(connection: &Connection, aggregate: &Aggregate) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("INSERT INTO aggregate (aggregate_type, aggregate_id) VALUES (?1, ?2)")?
        .insert((aggregate.aggregate_type(), aggregate.aggregate_id()))
}

/// Inserts an event and the hash of the log up to it.
pub(super) fn insert_event(
    connection: &Connection,
    aggregate: i64,
    event: &StoredEvent,
    hash: &ChainHash,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO event (position, aggregate, sequence, event_id, event_type, schema_version,
                 recorded_at, session_id, chain, metadata, payload)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute((
            event.position.0,
            aggregate,
            event.sequence.0,
            Uuid::as_bytes(&event.event_id.0),
            &*event.event_type,
            event.schema_version,
            event.recorded_at.as_microsecond(),
            event.session_id.as_ref().map(|id| id.as_str()),
            hash,
            event.metadata.json().as_str(),
            event.payload.as_str(),
        ))?;
    Ok(())
}

/// The next command. A thread that is `busy` looks for it a while before it sleeps.
fn next(commands: &mut mpsc::Receiver<Command>, busy: bool) -> Option<Command> {
    let began = Instant::now();
    while busy && began.elapsed() < LOOK {
        match commands.try_recv() {
            Ok(command) => return Some(command),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => std::thread::yield_now(),
        }
    }
    commands.blocking_recv()
}

/// A command that waits already, or where more are `expected`, one that comes soon.
fn soon(commands: &mut mpsc::Receiver<Command>, expected: bool, began: Instant) -> Option<Command> {
    loop {
        match commands.try_recv() {
            Ok(command) => return Some(command),
            Err(TryRecvError::Empty) if expected && began.elapsed() < GATHER => std::thread::yield_now(),
            Err(_) => return None,
        }
    }
}

/// Whether a stored event is what a retry of `event` would have stored.
fn is_same(stored: &StoredEvent, aggregate: &Aggregate, event: &NewEvent) -> bool {
    stored.aggregate == *aggregate
        && stored.event_type == event.event_type
        && stored.schema_version == event.schema_version
        && stored.payload == event.payload
        && stored.session_id == event.session_id
}

fn place(event: &StoredEvent) -> Recorded {
    Recorded { event_id: event.event_id, position: event.position, sequence: event.sequence }
}

/// A failure after which it is certain that nothing was written.
fn definite(error: rusqlite::Error) -> AppendError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => AppendError::StorageFull,
        _ => AppendError::Storage(error.into()),
    }
}

fn answer(reply: oneshot::Sender<Result<Appended, AppendError>>, result: Result<Appended, AppendError>) {
    // Who asked may have stopped waiting; the append stands all the same.
    let _ = reply.send(result);
}
