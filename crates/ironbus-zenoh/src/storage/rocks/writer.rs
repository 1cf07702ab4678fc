//! The one thread that writes: it looks whether a slot is empty, fills it, and raises the mark.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::DB;
use tokio::sync::{mpsc, oneshot, watch};

use super::folder::Lock;
use super::mark::Mark;
use super::{Shared, database};
use crate::storage::log::{Committed, LogError, Slot};

/// A batch for a slot, and who wants to know what became of it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) slot: Slot,
    pub(super) batch: Bytes,
    pub(super) reply: oneshot::Sender<Committed>,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) mark: Mark,
    /// Given back last.
    pub(super) lock: Lock,
    /// Whether a write has failed since the database was opened: it takes no other then.
    pub(super) failed: bool,
    /// Dropped when the folder is free again, by which `RocksLog::close` is told.
    pub(super) ended: watch::Sender<()>,
}

impl Writer {
    /// Runs until nobody can ask it any more.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(Job { slot, batch, reply }) = jobs.blocking_recv() {
            // Who asked may have stopped waiting; the batch stands all the same.
            let _ = reply.send(self.commit(slot, &batch));
        }
        if let Err(error) = self.mark.sync() {
            tracing::warn!(log = %self.shared.place(), %error, "the log's mark could not be synced");
        }
        let Self { shared, mark, lock, ended, .. } = self;
        // Waits for those who read.
        drop(shared.db.write().take());
        drop((mark, lock, ended));
    }

    fn commit(&mut self, slot: Slot, batch: &Bytes) -> Committed {
        if self.failed
            && let Err(error) = self.open_anew()
        {
            return Committed::Unknown(error);
        }
        let held = match self.shared.with_db(&slot_name(slot), |db| database::read(db, slot)) {
            Ok(held) => held,
            Err(error) => return Committed::Unknown(error),
        };
        if let Some(held) = held {
            return Committed::Lost(held.into());
        }
        match self.shared.with_db(&slot_name(slot), |db| database::fill(db, slot, batch)) {
            Ok(()) => {
                self.raise_mark(slot);
                Committed::Won
            }
            Err(error) => {
                self.failed = true;
                Committed::Unknown(error)
            }
        }
    }

    /// What is in the log counts, whether it is marked or not: a mark that can't be raised only guards less.
    fn raise_mark(&mut self, slot: Slot) {
        if let Err(error) = self.mark.raise(slot.next().0) {
            tracing::warn!(log = %self.shared.place(), %error, "the log's mark could not be raised");
        }
    }

    /// What a failed write has left is told apart by a start, and by nothing else. Where there can't be one now
    /// (the disk is full, say), what is there can still be read.
    fn open_anew(&mut self) -> Result<(), LogError> {
        let mut db = self.shared.db.write();
        // Of RocksDB's only one may have the folder at a time.
        *db = None;
        let folder = &self.shared.folder;
        let error = match database::open(folder, self.mark.filled()) {
            Ok(opened) => {
                *db = Some(opened);
                self.failed = false;
                tracing::info!(log = %self.shared.place(), "the log can be written again");
                return Ok(());
            }
            Err(error) => error,
        };
        let read_only: Option<DB> = database::open_to_read(folder)
            .map_err(
                |error| tracing::warn!(log = %self.shared.place(), %error, "the log can't be read either"),
            )
            .ok();
        *db = read_only;
        Err(LogError::new(self.shared.place().to_string(), error))
    }
}

pub(super) fn slot_name(slot: Slot) -> String {
    format!("slot {slot}")
}
