//! A log in an object store: S3 and what is compatible with it, or a folder for development.
//!
//! One object for each slot, `log/{slot}`, created only where none is (`If-None-Match: *`; in a folder a hard
//! link). That this holds is not taken on trust: a start creates one object twice, and goes no further unless
//! the second is refused and the first still there.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use uuid::Uuid;

use super::log::{CommitLog, Committed, LogError, Slot};

/// How many snapshots are kept: the latest, and one more in case that it turns out damaged.
const SNAPSHOTS: usize = 2;

/// How large the parts are in which a snapshot is put.
const PART: usize = 8 << 20;

/// A log in an object store, under one prefix.
#[derive(Clone, Debug)]
pub struct ObjectLog {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// The folder, if it is one.
    folder: Option<PathBuf>,
    /// Whether a slot may be in the folder without being synced to the disk.
    unsynced: Arc<AtomicBool>,
}

/// Why an object store can't hold a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// It lets an object be created twice, so two nodes could both win one slot.
    #[error(
        "{store} let an object be created twice (`If-None-Match: *` isn't honoured), so it can't hold a log; \
         use a version of it that honours conditional writes, or another store"
    )]
    CreatesTwice {
        /// The store.
        store: String,
    },
    /// It refuses to create an object only where none is.
    #[error("{store} can't create an object only where none is, so it can't hold a log: {source}")]
    CannotCreate {
        /// The store.
        store: String,
        /// What it said.
        source: Error,
    },
    /// It can't be used at all.
    #[error("{store} can't be used (are its address, its bucket and the credentials right?): {source}")]
    Unusable {
        /// The store.
        store: String,
        /// What it said.
        source: Error,
    },
    /// The folder can't be used.
    #[error("{folder} can't be used: {source}")]
    Folder {
        /// The folder.
        folder: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ObjectLog {
    /// A log in an object store, under `prefix`, after a probe of whether that store can hold one.
    ///
    /// # Errors
    ///
    /// [`ProbeError`] with what to do.
    pub async fn open(store: Arc<dyn ObjectStore>, prefix: &str) -> Result<Self, ProbeError> {
        Self::open_probed(store, Path::from(prefix), None).await
    }

    async fn open_probed(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        folder: Option<PathBuf>,
    ) -> Result<Self, ProbeError> {
        let log = Self { store, prefix, folder, unsynced: Arc::default() };
        log.probe().await?;
        Ok(log)
    }

    /// A log in a folder, for development and for tests; created if it isn't there. Everything is synced to
    /// the disk. The folder must be on one machine's own disk.
    ///
    /// # Errors
    ///
    /// [`ProbeError`] with what to do.
    pub async fn open_folder(folder: &FilePath) -> Result<Self, ProbeError> {
        let refused = |source| ProbeError::Folder { folder: folder.display().to_string(), source };
        std::fs::create_dir_all(folder).map_err(refused)?;
        let unusable = |source| ProbeError::Unusable { store: folder.display().to_string(), source };
        let store = LocalFileSystem::new_with_prefix(folder).map_err(unusable)?.with_fsync(true);
        Self::open_probed(Arc::new(store), Path::default(), Some(folder.to_path_buf())).await
    }

    /// Creates one object twice.
    async fn probe(&self) -> Result<(), ProbeError> {
        let store = || self.store.to_string();
        let probe = self.prefix.clone().join("probe").join(Uuid::new_v4().to_string());
        let (first, second) = ("created first", "created second");
        let put = |text: &'static str| self.create(&probe, Bytes::from_static(text.as_bytes()));
        match put(first).await {
            Ok(()) => {}
            Err(source @ (Error::NotImplemented { .. } | Error::NotSupported { .. })) => {
                return Err(ProbeError::CannotCreate { store: store(), source });
            }
            // The store's own client tries again after a lost reply, and meets what it has created itself.
            Err(error) if is_there(&error) => {}
            Err(source) => return Err(ProbeError::Unusable { store: store(), source }),
        }
        let again = put(second).await;
        let held = self.get(&probe).await;
        // Whether it is deleted is of no consequence: the name is never used again.
        let _ = self.store.delete(&probe).await;
        match (again, held) {
            (Err(error), Ok(Some(held))) if is_there(&error) && held == first.as_bytes() => Ok(()),
            (Err(source), _) if !is_there(&source) => Err(ProbeError::Unusable { store: store(), source }),
            (_, Err(source)) => Err(ProbeError::Unusable { store: store(), source }),
            _ => Err(ProbeError::CreatesTwice { store: store() }),
        }
    }

    async fn create(&self, path: &Path, bytes: Bytes) -> Result<(), Error> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.store.put_opts(path, PutPayload::from_bytes(bytes), options).await.map(drop)
    }

    /// Puts a large object in parts, each of which may take as long as a request may.
    async fn put_in_parts(&self, path: &Path, mut bytes: Bytes) -> Result<(), Error> {
        if bytes.len() <= PART {
            return self.store.put(path, bytes.into()).await.map(drop);
        }
        let mut upload = self.store.put_multipart(path).await?;
        while !bytes.is_empty() {
            let part = bytes.split_to(PART.min(bytes.len()));
            if let Err(error) = upload.put_part(part.into()).await {
                if let Err(left) = upload.abort().await {
                    tracing::debug!(%path, error = %left, "an upload that failed could not be taken back");
                }
                return Err(error);
            }
        }
        upload.complete().await.map(drop)
    }

    async fn get(&self, path: &Path) -> Result<Option<Bytes>, Error> {
        match self.store.get(path).await {
            Ok(object) => object.bytes().await.map(Some),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// After a put that failed, what it has left in a folder may not be on the disk yet; nobody is to rely on it before.
    async fn sync_folder(&self) -> Result<(), Error> {
        let Some(folder) = self.folder.as_ref().filter(|_| self.unsynced.load(Ordering::Acquire)) else {
            return Ok(());
        };
        let slots = folder.join("log");
        let work = move || match std::fs::File::open(slots) {
            Ok(slots) => slots.sync_all(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        let synced = tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other);
        let failed = |source: std::io::Error| Error::Generic { store: "folder", source: source.into() };
        synced.and_then(|synced| synced).map_err(failed)?;
        self.unsynced.store(false, Ordering::Release);
        Ok(())
    }

    fn under(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }

    /// Numbers of a fixed width, so that their order is that of their names.
    fn at(&self, folder: &str, slot: Slot) -> Path {
        self.under(folder).join(format!("{:020}", slot.0))
    }

    fn error(&self, path: &Path, source: Error) -> LogError {
        LogError::new(format!("{} in {}", path, self.store), source)
    }
}

/// A put that hasn't been answered; nobody may wait for it any more.
struct Unsure<'a>(Option<&'a AtomicBool>);

impl Drop for Unsure<'_> {
    fn drop(&mut self) {
        if let Some(unsynced) = self.0 {
            unsynced.store(true, Ordering::Release);
        }
    }
}

/// Whether an object wasn't created because it is there.
fn is_there(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. })
}

fn slot_of(path: &Path) -> Option<Slot> {
    path.filename()?.parse().ok().map(Slot)
}

#[async_trait]
impl CommitLog for ObjectLog {
    async fn commit(&self, slot: Slot, batch: Bytes) -> Committed {
        let path = self.at("log", slot);
        let mut unsure = Unsure(Some(&self.unsynced));
        let error = match self.create(&path, batch).await {
            Ok(()) => {
                unsure.0 = None;
                return Committed::Won;
            }
            Err(error) => error,
        };
        if !is_there(&error) {
            return Committed::Unknown(self.error(&path, error));
        }
        unsure.0 = None;
        match self.get(&path).await {
            Ok(Some(held)) => Committed::Lost(held),
            // It was said to be there: whoever says so can't tell what became of the batch.
            Ok(None) => Committed::Unknown(self.error(&path, error)),
            Err(error) => Committed::Unknown(self.error(&path, error)),
        }
    }

    async fn read(&self, slot: Slot) -> Result<Option<Bytes>, LogError> {
        let path = self.at("log", slot);
        self.sync_folder().await.map_err(|error| self.error(&path, error))?;
        self.get(&path).await.map_err(|error| self.error(&path, error))
    }

    async fn beyond(&self, slot: Slot) -> Result<Option<Slot>, LogError> {
        let folder = self.under("log");
        let mut listed = self.store.list_with_offset(Some(&folder), &self.at("log", slot));
        // The least of what is listed: a folder isn't listed in order.
        let mut least: Option<Slot> = None;
        while let Some(object) = listed.next().await {
            let object = object.map_err(|error| self.error(&folder, error))?;
            let listed = slot_of(&object.location).filter(|listed| *listed > slot);
            least = least.into_iter().chain(listed).min();
        }
        Ok(least)
    }

    async fn snapshots(&self) -> Result<Vec<Slot>, LogError> {
        let folder = self.under("snapshot");
        let mut listed = self.store.list(Some(&folder));
        let mut snapshots = Vec::new();
        while let Some(object) = listed.next().await {
            snapshots.extend(slot_of(&object.map_err(|error| self.error(&folder, error))?.location));
        }
        snapshots.sort_unstable_by(|a, b| b.cmp(a));
        Ok(snapshots)
    }

    async fn snapshot(&self, before: Slot) -> Result<Option<Bytes>, LogError> {
        let path = self.at("snapshot", before);
        self.get(&path).await.map_err(|error| self.error(&path, error))
    }

    async fn keep_snapshot(&self, before: Slot, snapshot: Bytes) -> Result<(), LogError> {
        let path = self.at("snapshot", before);
        // Where another node has kept it too, it has kept the same.
        self.put_in_parts(&path, snapshot).await.map_err(|error| self.error(&path, error))?;
        for old in self.snapshots().await?.into_iter().skip(SNAPSHOTS) {
            let path = self.at("snapshot", old);
            if let Err(error) = self.store.delete(&path).await {
                tracing::debug!(%path, %error, "an old snapshot could not be deleted; the next one does it");
            }
        }
        Ok(())
    }

    fn place(&self) -> String {
        match &self.folder {
            Some(folder) => folder.display().to_string(),
            None => format!("{} in {}", self.prefix, self.store),
        }
    }

    fn path(&self) -> Option<&FilePath> {
        self.folder.as_deref()
    }
}
