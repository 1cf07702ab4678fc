//! The log of slots as the log that a node has itself, and as the copy of another log.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ironbus::event::{Epoch, Position, StoredEvent};
use ironbus::store::{
    Append, AppendError, Appended, ChainHash, CopyFailure, EventStore, JournalStep, Lineage, Log, LogCopy,
    LogEnd, OtherWriters, ReadError,
};
use ironbus::tail::Tail;
use uuid::Uuid;

use super::committer::By;
use super::store::ZenohStorageEventStore;

#[async_trait]
impl Log for ZenohStorageEventStore {
    fn tail(&self) -> &Arc<Tail> {
        self.tail()
    }

    fn place(&self) -> String {
        self.commit_log().place()
    }

    fn path(&self) -> Option<&Path> {
        self.commit_log().path()
    }

    fn is_shared(&self) -> bool {
        self.commit_log().is_shared()
    }

    fn epoch_began(&self) -> Option<String> {
        self.folded().began().map(str::to_owned)
    }

    fn hint(&self) {
        self.hint();
    }

    fn writer(&self) -> Option<Uuid> {
        Some(self.writer())
    }

    fn reach_others_by(&self, others: Arc<dyn OtherWriters>) {
        self.reach_others_by(others);
    }

    async fn append_here(&self, append: Append) -> Result<Appended, AppendError> {
        self.append_by(append, By::This).await
    }

    async fn seal(&self, why: &str) -> Result<LogEnd, AppendError> {
        self.seal_epoch(self.epoch_now().await?, why).await
    }

    async fn begin_epoch(&self, why: &str) -> Result<LogEnd, AppendError> {
        self.raise_epoch(Epoch(self.epoch_now().await?.0 + 1), why).await
    }

    /// Of the log itself, not only as far as this node has followed. A copy in the making accepts no appends either.
    async fn is_sealed(&self) -> Result<bool, ReadError> {
        self.catch_up().await?;
        let state = self.folded();
        Ok(state.is_sealed() || state.is_copying())
    }

    async fn chain_at(&self, position: Position) -> Result<Option<ChainHash>, ReadError> {
        self.hash_at(position).await
    }

    async fn close(&self) {
        self.close().await;
    }
}

impl ZenohStorageEventStore {
    /// The epoch in force, which is what is sealed or ended: if another begins meanwhile, that isn't.
    async fn epoch_now(&self) -> Result<Epoch, AppendError> {
        match self.head().await {
            Ok(head) => Ok(head.lineage.epoch()),
            Err(ReadError::Closed) => Err(AppendError::Closed),
            Err(ReadError::Unavailable { reason }) => Err(AppendError::Unavailable { reason }),
            Err(error) => Err(AppendError::Storage(error.into())),
        }
    }
}

/// A log of slots in the making. A sealed one stays sealed until it is told to follow the log that went on from it.
pub(super) struct StorageCopy(pub(super) ZenohStorageEventStore);

#[async_trait]
impl LogCopy for StorageCopy {
    fn end(&self) -> LogEnd {
        self.0.folded().end()
    }

    async fn follow(&mut self, lineage: &Lineage) -> Result<(), CopyFailure> {
        self.0.follow(lineage.clone()).await.map(drop)
    }

    async fn add(&mut self, events: Vec<Arc<StoredEvent>>) -> Result<(), CopyFailure> {
        if events.is_empty() {
            return Ok(());
        }
        self.0.copy(events).await.map(drop)
    }

    async fn open(
        self: Box<Self>,
        of: LogEnd,
        journal: Vec<JournalStep>,
        why: &str,
    ) -> Result<Arc<dyn Log>, CopyFailure> {
        let store = self.0;
        let opened = match store.copy_journal(journal).await {
            Ok(_) => store.open_copy(of, why).await,
            Err(failure) => Err(failure),
        };
        match opened {
            Ok(_) => Ok(Arc::new(store)),
            Err(failure) => {
                store.close().await;
                Err(failure)
            }
        }
    }

    async fn close(self: Box<Self>) {
        self.0.close().await;
    }
}
