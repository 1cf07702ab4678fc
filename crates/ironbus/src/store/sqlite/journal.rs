//! The journal of the migration, in the log's own file: its phase in the row of `log`, its steps in
//! `migration_step`.
//!
//! A file of schema version 1, which a reader may meet as long as nobody has opened it for writing, has
//! neither: it is in the first phase, and no step was taken.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, Row};
use tokio::sync::oneshot;

use super::SqliteEventStore;
use super::schema::{LogState, schema_version};
use super::verify::Fault;
use super::writer::Command;
use crate::event::{Json, Position};
use crate::store::{Journal, JournalError, JournalPage, JournalStep, NewStep, Phase, ReadError};

const COLUMNS: &str = "step, at, after, from_phase, to_phase, by, reason, figures";

#[async_trait]
impl Journal for SqliteEventStore {
    async fn journal(&self, last: usize) -> Result<JournalPage, ReadError> {
        self.0.readers.with(move |reader| read(reader.connection(), last)).await
    }

    async fn record(&self, step: NewStep) -> Result<JournalStep, JournalError> {
        step.check()?;
        let writer = self.0.writer.as_ref().ok_or(JournalError::ReadOnly)?;
        if let Some(reason) = self.superseded() {
            return Err(JournalError::Superseded { reason });
        }
        let (reply, answer) = oneshot::channel();
        writer.send(Command::Record(step, reply)).await.map_err(|_| JournalError::Closed)?;
        answer.await.map_err(|_| JournalError::Closed)?
    }
}

/// The number of the phase in force.
pub(super) fn phase_number(connection: &Connection) -> rusqlite::Result<u8> {
    if !is_kept(connection)? {
        return Ok(Phase::Broadcast.number());
    }
    connection.query_row("SELECT phase FROM log", [], |row| row.get(0))
}

fn is_kept(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(schema_version(connection)? >= 2)
}

pub(super) fn read(connection: &Connection, last: usize) -> rusqlite::Result<JournalPage> {
    // One snapshot, so that the phase and the last step belong together.
    let _snapshot = connection.unchecked_transaction()?;
    if !is_kept(connection)? {
        return Ok(JournalPage::default());
    }
    let phase = connection.query_row("SELECT phase FROM log", [], |row| phase_at(row, 0))?;
    let taken = steps_taken(connection)?;
    let mut select = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM migration_step ORDER BY step DESC LIMIT ?1"))?;
    let rows = select.query_map([i64::try_from(last).unwrap_or(i64::MAX)], step_at)?;
    let mut steps: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    steps.reverse();
    Ok(JournalPage { phase, taken, steps })
}

/// Gives a log these steps instead of what it has, and the phase that the last of them led to.
pub(super) fn replace(connection: &Connection, steps: &[JournalStep]) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM migration_step", [])?;
    for step in steps {
        insert_step(connection, step)?;
    }
    let phase = steps.last().map_or(Phase::Broadcast, |step| step.to);
    connection.execute("UPDATE log SET phase = ?1", [phase.number()]).map(drop)
}

/// Takes the step back where the phase says that the log isn't in SQLite, although it is now.
pub(super) fn back_in_sqlite(connection: &Connection, after: Position, why: &str) -> rusqlite::Result<()> {
    let mut steps = read(connection, usize::MAX)?.steps;
    let Some(last) = steps.last().filter(|last| last.to == Phase::ZenohStorage) else { return Ok(()) };
    steps.push(JournalStep {
        step: last.step + 1,
        at: Timestamp::now(),
        after,
        from: Phase::ZenohStorage,
        to: Phase::Zenoh,
        by: "ironbus".into(),
        reason: why.into(),
        figures: Json::empty_object(),
    });
    let transaction = connection.unchecked_transaction()?;
    replace(&transaction, &steps)?;
    transaction.commit()
}

fn steps_taken(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT coalesce(max(step), 0) FROM migration_step", [], |row| row.get(0))
}

/// Records a step in a transaction of its own, and how far the log was carried when it was taken. Except for
/// [`JournalError::Unknown`] nothing is written on an error.
pub(super) fn record(
    connection: &Connection,
    state: &LogState,
    new: NewStep,
    carried: Position,
) -> Result<JournalStep, JournalError> {
    if new.from != state.phase {
        return Err(JournalError::Moved { expected: new.from, actual: state.phase });
    }
    let usual: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).map_err(definite)?;
    // Other nodes act on a phase, so not even a power cut may take a step back.
    connection.execute_batch("PRAGMA synchronous = FULL").map_err(definite)?;
    let recorded = transact(connection, state, new, carried);
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "a step that failed could not be rolled back");
    }
    if let Err(error) = connection.execute_batch(&format!("PRAGMA synchronous = {usual}")) {
        tracing::warn!(%error, "appends are synced like the step was, and so may be slower than they were");
    }
    recorded
}

fn transact(
    connection: &Connection,
    state: &LogState,
    new: NewStep,
    carried: Position,
) -> Result<JournalStep, JournalError> {
    connection.execute_batch("BEGIN IMMEDIATE").map_err(definite)?;
    let step = insert(connection, state, new, carried).map_err(definite)?;
    connection.execute_batch("COMMIT").map_err(|error| match error.sqlite_error_code() {
        // A full disk is met while the pages are written, before the commit record.
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => definite(error),
        _ => JournalError::Unknown(error.into()),
    })?;
    Ok(step)
}

fn insert(
    connection: &Connection,
    state: &LogState,
    new: NewStep,
    carried: Position,
) -> rusqlite::Result<JournalStep> {
    // The clock may be set back; the log's time never goes back with it.
    let now = Timestamp::now().as_microsecond().max(state.last_recorded_at);
    let step = JournalStep {
        step: steps_taken(connection)? + 1,
        at: Timestamp::from_microsecond(now).expect("the clock's own time is in range"),
        after: state.head,
        from: new.from,
        to: new.to,
        by: new.by,
        reason: new.reason,
        figures: new.figures,
    };
    insert_step(connection, &step)?;
    connection.execute("UPDATE log SET phase = ?1, carried = ?2", (step.to.number(), carried.0))?;
    Ok(step)
}

fn insert_step(connection: &Connection, step: &JournalStep) -> rusqlite::Result<()> {
    connection.execute(
        &format!("INSERT INTO migration_step ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
        (
            step.step,
            step.at.as_microsecond(),
            step.after.0,
            step.from.number(),
            step.to.number(),
            &step.by,
            &step.reason,
            step.figures.as_str(),
        ),
    )?;
    Ok(())
}

/// A failure after which it is certain that nothing was written.
fn definite(error: rusqlite::Error) -> JournalError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => JournalError::StorageFull,
        _ => JournalError::Storage(error.into()),
    }
}

/// What is wrong with the journal: its steps are contiguous and join, and the last one led to the phase in
/// force. Gives the phase and the number of steps too.
pub(super) fn verify(connection: &Connection, faults: &mut Vec<Fault>) -> rusqlite::Result<(u8, u64)> {
    let phase = phase_number(connection)?;
    let (mut last, mut reached) = (0, Phase::Broadcast);
    if is_kept(connection)? {
        let mut select =
            connection.prepare(&format!("SELECT {COLUMNS} FROM migration_step ORDER BY step"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let step = match step_at(row) {
                Ok(step) => step,
                Err(error) => {
                    faults.push(Fault::UnreadableStep { after: last, reason: error.to_string() });
                    return Ok((phase, last));
                }
            };
            if step.step != last + 1 {
                faults.push(Fault::Step { expected: last + 1, found: step.step });
            }
            if step.from != reached {
                faults.push(Fault::StepFrom { step: step.step, expected: reached, found: step.from });
            }
            (last, reached) = (step.step, step.to);
        }
    }
    if phase != reached.number() {
        faults.push(Fault::Phase { found: phase, reached });
    }
    Ok((phase, last))
}

/// The step that a row of [`COLUMNS`] holds.
fn step_at(row: &Row<'_>) -> rusqlite::Result<JournalStep> {
    let at = Timestamp::from_microsecond(row.get(1)?).map_err(|error| super::reader::unreadable(1, error))?;
    Ok(JournalStep {
        step: row.get(0)?,
        at,
        after: Position(row.get(2)?),
        from: phase_at(row, 3)?,
        to: phase_at(row, 4)?,
        by: row.get(5)?,
        reason: row.get(6)?,
        figures: Json::trusted(row.get_ref(7)?.as_str()?),
    })
}

fn phase_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Phase> {
    let number = row.get::<_, u8>(column)?;
    Phase::from_number(number).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, number.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Durability;
    use crate::store::sqlite::schema::{open_writer, read_state};

    #[test]
    fn appends_are_as_durable_after_a_step_as_they_were_before_it() {
        let directory = tempfile::tempdir().expect("temporary files can be made");
        let path = directory.path().join("ironbus.db");
        let (connection, state, _lock) = open_writer(&path, Durability::Normal, None).expect("opens");
        let synchronous = || connection.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0));
        let before = synchronous();
        let step = |from, to| NewStep {
            from,
            to,
            by: "ann".into(),
            reason: "to see".into(),
            figures: Json::empty_object(),
        };
        record(&connection, &state, step(Phase::Broadcast, Phase::Dual), state.head).expect("recorded");
        assert_eq!(synchronous(), before);
        // A step that fails after its transaction has begun.
        connection
            .execute_batch(
                "CREATE TRIGGER t BEFORE INSERT ON migration_step BEGIN SELECT RAISE(ABORT, 'no'); END",
            )
            .expect("a trigger");
        let state = read_state(&path, &connection).expect("readable");
        let refused = record(&connection, &state, step(Phase::Dual, Phase::Zenoh), state.head);
        assert!(matches!(refused, Err(JournalError::Storage(_))), "{refused:?}");
        assert_eq!(synchronous(), before);
        assert!(connection.is_autocommit(), "no transaction is left open");
        assert_eq!(read_state(&path, &connection).expect("readable").phase, Phase::Dual);
    }
}
