//! A log in RocksDB, in a folder of this machine's own disk: for one node, which has it alone.
//!
//! A slot is one key, written by one thread, synced before it is told of. That a slot is filled once needs no
//! help of RocksDB's: the thread looks before it writes, and nobody else has the folder. Snapshots are files
//! beside RocksDB's: a large one would be carried about in it, and hold up commits.

mod database;
mod error;
mod folder;
mod frames;
mod mark;
mod snapshots;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rocksdb::DB;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::error::RocksOpenError;
use self::writer::{Job, Writer, slot_name};
use super::log::{CommitLog, Committed, LogError, Slot};

/// How many commits may wait for the thread that writes. When as many wait, a further one waits to be let in. A
/// store has one under way at a time.
const WAITING_COMMITS: usize = 64;

/// A log in RocksDB. When the last handle of its stores is gone it closes by itself; [`Self::close`] waits for it.
#[derive(Debug)]
pub struct RocksLog {
    shared: Arc<Shared>,
    /// `None` once it is closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    ended: watch::Receiver<()>,
}

/// What the log and the thread that writes share.
struct Shared {
    folder: PathBuf,
    /// `None` once it is closed, and while it can't be opened again after a write that failed.
    db: RwLock<Option<DB>>,
    /// Held while a snapshot is written: all of them are written under one name.
    snapshots: Mutex<()>,
}

impl RocksLog {
    /// Opens the log in a folder, which must be on this machine's own disk. One is begun where there is none:
    /// in a folder that is empty, or isn't there.
    ///
    /// # Errors
    ///
    /// [`RocksOpenError`] with what to do. A folder that is refused stays as it is, except that its lock may be
    /// new, and RocksDB's own notes (`db/LOG`).
    pub async fn open(folder: impl Into<PathBuf>) -> Result<Self, RocksOpenError> {
        Self::open_with(folder.into(), true).await
    }

    /// Opens the log in a folder, and begins none.
    ///
    /// # Errors
    ///
    /// [`RocksOpenError`] with what to do; [`RocksOpenError::NoLog`] where there is none.
    pub async fn open_existing(folder: impl Into<PathBuf>) -> Result<Self, RocksOpenError> {
        Self::open_with(folder.into(), false).await
    }

    async fn open_with(folder: PathBuf, create: bool) -> Result<Self, RocksOpenError> {
        let path = folder.clone();
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(folder, create)).await;
        opened.unwrap_or_else(|panicked| Err(RocksOpenError::io(&path, std::io::Error::other(panicked))))
    }

    fn open_blocking(folder: PathBuf, create: bool) -> Result<Self, RocksOpenError> {
        let (lock, mark) = folder::take(&folder, create)?;
        let db = database::open(&folder, mark.filled())?;
        let shared = Arc::new(Shared { folder, db: RwLock::new(Some(db)), snapshots: Mutex::new(()) });
        let (ended, has_ended) = watch::channel(());
        let (jobs, waiting) = mpsc::channel(WAITING_COMMITS);
        let writer = Writer { shared: Arc::clone(&shared), mark, lock, failed: false, ended };
        // It ends with the log, which holds the only sender.
        std::thread::Builder::new()
            .name("ironbus-rocksdb".into())
            .spawn(move || writer.run(waiting))
            .map_err(|source| RocksOpenError::io(&shared.folder, source))?;
        Ok(Self { shared, jobs: Mutex::new(Some(jobs)), ended: has_ended })
    }

    /// Finishes what was begun, closes the log, and returns when its folder is free. Whatever is asked of it later
    /// fails.
    pub async fn close(&self) {
        drop(self.jobs.lock().take());
        // Nothing is ever sent: it ends when the writer has.
        let _ = self.ended.clone().changed().await;
    }

    /// Asks the database, on a thread that may wait for the disk.
    async fn ask<T: Send + 'static>(
        &self,
        what: String,
        question: impl FnOnce(&DB) -> Result<T, rocksdb::Error> + Send + 'static,
    ) -> Result<T, LogError> {
        self.blocking(move |shared| shared.with_db(&what, question)).await
    }

    /// Does what concerns the snapshots' files.
    async fn in_folder<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, LogError> {
        let failed =
            |shared: &Shared, error| LogError::new(format!("a snapshot in {}", shared.place()), error);
        self.blocking(move |shared| work(shared).map_err(|error| failed(shared, error))).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.unwrap_or_else(|panicked| Err(LogError::new(self.shared.place().to_string(), panicked)))
    }
}

impl Shared {
    fn place(&self) -> std::path::Display<'_> {
        self.folder.display()
    }

    fn with_db<T>(
        &self,
        what: &str,
        question: impl FnOnce(&DB) -> Result<T, rocksdb::Error>,
    ) -> Result<T, LogError> {
        let place = || format!("{what} in {}", self.place());
        let db = self.db.read();
        let Some(db) = db.as_ref() else { return Err(LogError::new(place(), "the log is closed")) };
        question(db).map_err(|error| match error.kind() {
            rocksdb::ErrorKind::Corruption => LogError::damaged(place(), error),
            _ => LogError::new(place(), error),
        })
    }
}

#[async_trait]
impl CommitLog for RocksLog {
    async fn commit(&self, slot: Slot, batch: Bytes) -> Committed {
        let unknown = |why: &str| {
            Committed::Unknown(LogError::new(format!("{} in {}", slot_name(slot), self.shared.place()), why))
        };
        let Some(jobs) = self.jobs.lock().clone() else { return unknown("the log is closed") };
        let (reply, answer) = oneshot::channel();
        if jobs.send(Job { slot, batch, reply }).await.is_err() {
            return unknown("the log is closed");
        }
        answer.await.unwrap_or_else(|_| unknown("the thread that writes has ended"))
    }

    async fn read(&self, slot: Slot) -> Result<Option<Bytes>, LogError> {
        let held = self.ask(slot_name(slot), move |db| database::read(db, slot)).await?;
        Ok(held.map(Bytes::from))
    }

    async fn beyond(&self, slot: Slot) -> Result<Option<Slot>, LogError> {
        let what = format!("the slots after {slot}");
        self.ask(what, move |db| database::first_from(db, slot.next())).await
    }

    async fn snapshots(&self) -> Result<Vec<Slot>, LogError> {
        self.in_folder(|shared| snapshots::list(&shared.folder)).await
    }

    async fn snapshot(&self, before: Slot) -> Result<Option<Bytes>, LogError> {
        self.in_folder(move |shared| snapshots::read(&shared.folder, before)).await
    }

    async fn keep_snapshot(&self, before: Slot, snapshot: Bytes) -> Result<(), LogError> {
        let keep = move |shared: &Shared| {
            let _alone = shared.snapshots.lock();
            snapshots::keep(&shared.folder, before, &snapshot)
        };
        self.in_folder(keep).await
    }

    fn place(&self) -> String {
        self.shared.place().to_string()
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.shared.folder)
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn close(&self) {
        Self::close(self).await;
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("folder", &self.folder).finish_non_exhaustive()
    }
}
