//! A SQLite log in the making: the copy of a log elsewhere, page by page, until it is opened.
//!
//! It is an ordinary log that is sealed, so that whoever opens it by mistake appends nothing. A log that was sealed
//! because it had been copied elsewhere becomes a copy again when that other log goes on, and so the way back.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::copy::Copy;
use super::schema::{insert_epoch_from, synced};
use super::{OpenError, SqliteEventStore, SqliteOptions, journal};
use crate::event::{Epoch, Position, StoredEvent};
use crate::moving::Found;
use crate::store::{CopyFailure, CopyOf, JournalStep, Lineage, Log, LogCopy, LogEnd};

/// Why appends to it are refused.
const MAKING: &str = "the log here is a copy that isn't open; append to the log that it is a copy of";

/// What is at a path: the copy of a log, begun where there is nothing, or that log once it was opened.
///
/// # Errors
///
/// [`OpenError`] with what to do.
pub async fn copy_of(options: SqliteOptions, of: CopyOf) -> Result<Found, OpenError> {
    let (path, wanted) = (options.path.clone(), of.clone());
    let copy = super::blocking(move || begin(&path, &wanted)).await?;
    Ok(match copy {
        Some(copy) => {
            let end = end_of(&copy);
            Found::Copy(Box::new(SqliteCopy {
                options,
                copy: Mutex::new(Some(copy)),
                end,
                lineage: of.lineage,
            }))
        }
        None => Found::Opened,
    })
}

fn begin(path: &std::path::Path, of: &CopyOf) -> Result<Option<Copy>, OpenError> {
    let mut copy = Copy::open(path)?;
    let starts = copy.state.lineage.starts().to_vec();
    let empty = copy.state.head == Position::START && starts.len() == 1 && copy.state.sealed.is_none();
    let reason = if copy.state.store_id == of.store_id {
        if copy.state.sealed.is_some() {
            None
        } else if copy.state.lineage.epoch() > of.lineage.epoch() {
            copy.close()?;
            return Ok(None);
        } else {
            Some("it accepts appends itself")
        }
    } else if empty {
        copy.adopt(of.store_id)?;
        let sealed = synced(&copy.connection, |connection| {
            connection.execute("UPDATE log SET sealed = ?1", [MAKING])?;
            // Its epochs are those of the log that it copies, and come with the events.
            connection.execute("DELETE FROM epoch", [])?;
            let first = of.lineage.starts()[0];
            connection
                .execute("INSERT INTO epoch (epoch, after) VALUES (?1, ?2)", (first.epoch.0, first.after.0))
        });
        sealed.map_err(|error| super::schema::refused(path, error))?;
        None
    } else {
        Some("it is of another log")
    };
    match reason {
        None => Ok(Some(copy)),
        Some(reason) => {
            let source = format!("it is no copy of this log ({reason}); name another place, or move it away");
            Err(OpenError::Elsewhere { place: path.display().to_string(), source: source.into() })
        }
    }
}

struct SqliteCopy {
    options: SqliteOptions,
    /// `None` only while a thread has it. Never waited for: the lock is what lets it be told of between threads.
    copy: Mutex<Option<Copy>>,
    end: LogEnd,
    lineage: Lineage,
}

fn end_of(copy: &Copy) -> LogEnd {
    let state = &copy.state;
    LogEnd { epoch: state.lineage.epoch(), head: state.head, chain: state.chain }
}

impl SqliteCopy {
    fn take(&self) -> Copy {
        self.copy.lock().take().expect("one call at a time")
    }

    fn failed(&self) -> impl FnOnce(rusqlite::Error) -> CopyFailure + use<> {
        let place = place(&self.options.path);
        move |error| CopyFailure::Storage { place, source: error.into() }
    }

    /// Does something with the file, on a thread where it may block.
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Copy) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CopyFailure> {
        let mut copy = self.take();
        let work = tokio::task::spawn_blocking(move || {
            let done = work(&mut copy);
            (copy, done)
        });
        let (copy, done) = work.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        self.end = end_of(&copy);
        *self.copy.lock() = Some(copy);
        done.map_err(self.failed())
    }
}

#[async_trait]
impl LogCopy for SqliteCopy {
    fn end(&self) -> LogEnd {
        self.end
    }

    async fn follow(&mut self, lineage: &Lineage) -> Result<(), CopyFailure> {
        self.lineage = lineage.clone();
        Ok(())
    }

    async fn add(&mut self, events: Vec<Arc<StoredEvent>>) -> Result<(), CopyFailure> {
        let lineage = self.lineage.clone();
        let wrong =
            self.with(move |copy| copy.add(events.iter().map(|event| (&**event, None)), &lineage)).await?;
        match wrong {
            None => Ok(()),
            Some(at) => Err(CopyFailure::NotACopy {
                place: place(&self.options.path),
                reason: format!("its position {at} was to come next"),
            }),
        }
    }

    async fn open(
        mut self: Box<Self>,
        of: LogEnd,
        steps: Vec<JournalStep>,
        why: &str,
    ) -> Result<Arc<dyn Log>, CopyFailure> {
        if !self.end().holds_the_same(&of) {
            let reason = format!(
                "it ends at position {}, and the log that was sealed at {}",
                self.end().head,
                of.head
            );
            return Err(CopyFailure::NotACopy { place: place(&self.options.path), reason });
        }
        let (why, lineage) = (why.to_owned(), self.lineage.clone());
        self.with(move |copy| {
            // Epochs that begin at its end have come with no event.
            copy.add(std::iter::empty(), &lineage)?;
            let state = &copy.state;
            synced(&copy.connection, |connection| {
                journal::replace(connection, &steps)?;
                insert_epoch_from(connection, state, Epoch(of.epoch.0 + 1), &why)?;
                connection.execute("UPDATE log SET sealed = NULL", []).map(drop)
            })
        })
        .await?;
        let unknown = |error: OpenError| CopyFailure::Unknown {
            place: place(&self.options.path),
            reason: error.to_string(),
        };
        let copy = self.take();
        super::blocking(move || copy.close()).await.map_err(unknown)?;
        Ok(Arc::new(SqliteEventStore::open(self.options.clone()).await.map_err(unknown)?))
    }

    async fn close(self: Box<Self>) {
        let Some(copy) = self.copy.lock().take() else { return };
        if let Err(error) = super::blocking(move || copy.close()).await {
            tracing::warn!(%error, "a copy in the making could not be folded into one file; it goes on from its write-ahead log");
        }
    }
}

fn place(path: &std::path::Path) -> String {
    PathBuf::from(path).display().to_string()
}
