//! A second place for logs, which stops for ever at the step that a test names, as a killed process does.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use ironbus::StoredEvent;
use ironbus::moving::{Found, LogPlace, LogPlaces};
use ironbus::store::sqlite::copy_of;
use ironbus::store::{
    CopyFailure, CopyOf, JournalStep, Lineage, Log, LogCopy, LogEnd, OpenError, SqliteEventStore,
    SqliteOptions,
};
use ironbus::tail::Tail;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Where it stops; nowhere by default.
#[derive(Debug, Default)]
pub(crate) struct Kill {
    at: usize,
    steps: AtomicUsize,
    reached: CancellationToken,
    /// Whether whatever is copied is refused, as by a storage that is away.
    away: AtomicBool,
    /// What becomes a folder when the copy is opened, so that no file can be written there.
    block: Mutex<Option<PathBuf>>,
}

impl Kill {
    pub(crate) fn at(at: usize) -> Arc<Self> {
        Arc::new(Self { at, ..Self::default() })
    }

    pub(crate) fn away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub(crate) fn block(&self, path: PathBuf) {
        *self.block.lock() = Some(path);
    }

    pub(crate) async fn reached(&self) {
        self.reached.cancelled().await;
    }

    async fn step(&self) {
        if self.steps.fetch_add(1, Ordering::SeqCst) + 1 == self.at {
            self.reached.cancel();
            std::future::pending::<()>().await;
        }
    }
}

/// SQLite files under another kind of address.
#[derive(Debug)]
pub(crate) struct TestPlaces {
    pub(crate) data: PathBuf,
    pub(crate) kill: Arc<Kill>,
}

impl TestPlaces {
    fn options(&self, place: &LogPlace, tail: Arc<Tail>) -> SqliteOptions {
        SqliteOptions { tail: Some(tail), ..SqliteOptions::new(place.path_in(&self.data)) }
    }
}

#[async_trait]
impl LogPlaces for TestPlaces {
    async fn open(&self, place: &LogPlace, tail: Arc<Tail>) -> Result<Arc<dyn Log>, OpenError> {
        Ok(Arc::new(SqliteEventStore::open(self.options(place, tail)).await?))
    }

    async fn copy(&self, place: &LogPlace, of: &CopyOf, tail: Arc<Tail>) -> Result<Found, OpenError> {
        self.kill.step().await;
        let found = copy_of(self.options(place, tail), of.clone()).await?;
        self.kill.step().await;
        Ok(match found {
            Found::Copy(copy) => Found::Copy(Box::new(TestCopy { copy, kill: Arc::clone(&self.kill) })),
            Found::Opened => Found::Opened,
        })
    }
}

struct TestCopy {
    copy: Box<dyn LogCopy>,
    kill: Arc<Kill>,
}

#[async_trait]
impl LogCopy for TestCopy {
    fn end(&self) -> LogEnd {
        self.copy.end()
    }

    async fn follow(&mut self, lineage: &Lineage) -> Result<(), CopyFailure> {
        self.copy.follow(lineage).await
    }

    async fn add(&mut self, events: Vec<Arc<StoredEvent>>) -> Result<(), CopyFailure> {
        self.kill.step().await;
        if self.kill.away.load(Ordering::SeqCst) {
            return Err(CopyFailure::Storage { place: "elsewhere".into(), source: "it is away".into() });
        }
        self.copy.add(events).await?;
        self.kill.step().await;
        Ok(())
    }

    async fn open(
        self: Box<Self>,
        of: LogEnd,
        journal: Vec<JournalStep>,
        why: &str,
    ) -> Result<Arc<dyn Log>, CopyFailure> {
        self.kill.step().await;
        let opened = self.copy.open(of, journal, why).await?;
        if let Some(path) = self.kill.block.lock().take() {
            std::fs::create_dir(path).expect("nothing is there");
        }
        self.kill.step().await;
        Ok(opened)
    }

    async fn close(self: Box<Self>) {
        self.copy.close().await;
    }
}
