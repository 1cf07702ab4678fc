//! Folds the write-ahead log into the file beside the writer.
//!
//! SQLite does that within a commit once the log has grown to so many pages, and whoever waits for that commit waits
//! for thousands of pages and two syncs. Here another thread does the bulk of it while the writer goes on; what was
//! written meanwhile is then little, and the writer folds that in itself, after which SQLite begins the log anew.
//!
//! Invariant: the log is bounded. Where the thread can't keep up the writer does it alone at [`LIMIT`].

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::hooks::Wal;

use super::OpenError;
use super::schema::{open_for_checkpoints, refused};

/// The pages from which on the log is worth folding in: 16 MiB.
const WORTH: u32 = 4000;

/// So few that the writer folds them in itself: about as long as a commit takes.
const FEW: u32 = 256;

/// The pages at which the writer doesn't wait for the thread any more: 64 MiB, to which the file is cut back too.
const LIMIT: u32 = 16_000;

/// How long the thread waits after it failed, on a full disk say.
const AGAIN: Duration = Duration::from_millis(100);

/// The writer's side of it.
pub(super) struct Checkpoints {
    /// How many pages the write-ahead log holds, as the last commit said.
    pages: Arc<AtomicU32>,
    shared: Arc<Shared>,
    wanted: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Whether the thread is at it.
    busy: AtomicBool,
    /// How many pages of the write-ahead log were folded in when the thread was last done.
    folded: AtomicU32,
}

impl Checkpoints {
    /// Takes over from SQLite, which does it within commits of `connection` otherwise.
    pub(super) fn start(path: &Path, connection: &mut Connection) -> Result<Self, OpenError> {
        let pages = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&pages);
        let hook = move |_: &mut Wal, pages| {
            counted.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        };
        connection.wal_hook(Some(hook)).map_err(|error| refused(path, error))?;
        let (wanted, wishes) = sync_channel(1);
        let (own, shared) = (open_for_checkpoints(path)?, Arc::<Shared>::default());
        let told = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ironbus-checkpoint".into())
            .spawn(move || run(&own, &wishes, &told))
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { pages, shared, wanted: Some(wanted), thread: Some(thread) })
    }

    /// After a commit: has the write-ahead log folded in where that is worth it.
    pub(super) fn after_commit(&self, connection: &Connection) {
        let pages = self.pages.load(Ordering::Relaxed);
        let mut busy = self.shared.busy.load(Ordering::Acquire);
        if pages < WORTH {
            if !busy {
                // It has begun anew.
                self.shared.folded.store(0, Ordering::Release);
            }
            return;
        }
        while busy && pages >= LIMIT && self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            // Two can't fold at a time. Appends wait: the disk takes less than is written to it.
            std::thread::sleep(Duration::from_millis(1));
            busy = self.shared.busy.load(Ordering::Acquire);
        }
        let left = pages.saturating_sub(self.shared.folded.load(Ordering::Acquire));
        if pages >= LIMIT || (!busy && left <= FEW) {
            self.shared.folded.store(0, Ordering::Release);
            if let Err(error) = fold(connection) {
                tracing::debug!(%error, "the write-ahead log could not be folded in; it is tried again");
            }
        } else if !busy && let Some(wanted) = &self.wanted {
            self.shared.busy.store(true, Ordering::Release);
            // There is room: the thread isn't at it.
            let _ = wanted.try_send(());
        }
    }

    /// Ends the thread, once it is done with what it is at.
    pub(super) fn stop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that folds the write-ahead log in has panicked");
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(connection: &Connection, wishes: &Receiver<()>, shared: &Shared) {
    while wishes.recv().is_ok() {
        match fold(connection) {
            Ok(folded) => shared.folded.store(folded, Ordering::Release),
            Err(error) => {
                tracing::debug!(%error, "the write-ahead log could not be folded in; it is tried again");
                std::thread::sleep(AGAIN);
            }
        }
        shared.busy.store(false, Ordering::Release);
    }
}

/// Folds in what no reader needs in the write-ahead log, without waiting for anybody. Says how many of its pages are in
/// the file then.
fn fold(connection: &Connection) -> rusqlite::Result<u32> {
    connection
        .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?
        .query_row([], |row| row.get::<_, i64>(2))
        .map(|folded| u32::try_from(folded).unwrap_or(0))
}
