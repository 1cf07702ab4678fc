//! Where the log is: behind a server, or in a data directory of this machine. Every command is written
//! once, against [`Backend`].
//!
//! Straight on a directory one sees everything, sessions included: whoever may read the file may read all
//! of it. Through a server one sees what the token entitles to.

mod follow;
mod remote;
mod sse;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ironbus::store::{AggregatePage, OpenError, Page};
use ironbus::{
    Aggregate, Append, AppendError, Appended, Entitlement, EventFilter, EventId, EventStore, KeyPattern,
    LogPlace, NodeLog, NodeOptions, Position, Sequence,
};

use ironbus_zenoh::storage::{StorageOptions, StoragePlaces};

use crate::args::{After, Where};
use crate::config::{Client, Target};
use crate::failure::{Failure, Kind};

pub(crate) use follow::{Follow, Followed};
pub(crate) use remote::Remote;
pub(crate) use sse::{Frame, Parser};

/// Where the log is.
pub(crate) enum Backend {
    /// In a data directory.
    Local(NodeLog),
    /// Behind a server.
    Remote(Remote),
}

/// What a command wants to do with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Read it, beside whatever server writes it.
    Read,
    /// Write it; a data directory is then created where there is none.
    Write,
    /// Write it where there is one.
    Change,
}

/// Why an append wasn't accepted, as far as a command acts on it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// Some events are stored already and others aren't.
    #[error("{0}")]
    PartlyStored(String),
    /// The id belongs to another event.
    #[error("{message}")]
    EventIdReused { event_id: Option<EventId>, message: String },
    /// Anything else.
    #[error(transparent)]
    Other(#[from] Failure),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::PartlyStored(message) | Refused::EventIdReused { message, .. } => {
                Self::new(Kind::Conflict, message)
            }
            Refused::Other(failure) => failure,
        }
    }
}

impl From<AppendError> for Refused {
    fn from(error: AppendError) -> Self {
        let message = error.to_string();
        let kind = match error {
            AppendError::PartlyStored { .. } => return Self::PartlyStored(message),
            AppendError::EventIdReused { event_id } => {
                return Self::EventIdReused { event_id: Some(event_id), message };
            }
            AppendError::Conflict { .. } => Kind::Conflict,
            AppendError::Invalid(_) => Kind::Input,
            AppendError::StorageFull
            | AppendError::Unavailable { .. }
            | AppendError::Superseded { .. }
            | AppendError::Closed
            | AppendError::Unknown(_) => Kind::Unavailable,
            _ => Kind::Failed,
        };
        Self::Other(Failure::new(kind, message))
    }
}

impl Backend {
    /// Finds the log that the flags, the environment and the file name.
    pub(crate) async fn find(target: &Where, config: &Client, purpose: Use) -> Result<Self, Failure> {
        let from_env = std::env::var("IRONBUS_URL").ok().filter(|url| !url.is_empty());
        match Target::choose(target.url.as_deref(), target.data.as_deref(), from_env.as_deref(), config) {
            Target::Server { url, named } => {
                let token = target.token.as_deref().or(config.token.as_deref());
                Remote::new(&url, named, token).map(Self::Remote)
            }
            Target::Data(data) => open(&data, purpose).await.map(Self::Local),
        }
    }

    /// Appends a batch, all or nothing.
    pub(crate) async fn append(&self, append: Append) -> Result<Appended, Refused> {
        match self {
            Self::Local(store) => Ok(store.append(append).await?),
            Self::Remote(remote) => remote.append(&append).await,
        }
    }

    /// Loads a page of one aggregate's events.
    pub(crate) async fn load(
        &self,
        aggregate: &Aggregate,
        after: Sequence,
        limit: usize,
    ) -> Result<AggregatePage, Failure> {
        match self {
            Self::Local(store) => Ok(store.load(aggregate, after, limit).await?),
            Self::Remote(remote) => remote.load(aggregate, after, limit).await,
        }
    }

    /// Reads a page of the whole log.
    pub(crate) async fn read(
        &self,
        after: Position,
        pattern: &KeyPattern,
        limit: usize,
    ) -> Result<Page, Failure> {
        match self {
            Self::Local(store) => Ok(store.read(after, &everything_of(pattern), limit).await?),
            Self::Remote(remote) => remote.read(after, pattern, limit).await,
        }
    }

    /// The last position of the log.
    pub(crate) async fn head(&self) -> Result<Position, Failure> {
        match self {
            Self::Local(store) => Ok(store.head().await?.position),
            Self::Remote(remote) => Ok(remote.status().await?.head),
        }
    }

    /// Follows the log from `after` on, or from now on.
    pub(crate) async fn follow(&self, pattern: &KeyPattern, after: Option<After>) -> Result<Follow, Failure> {
        match self {
            Self::Local(store) => Ok(Follow::local(store, everything_of(pattern), after)),
            Self::Remote(remote) => Follow::remote(remote.clone(), pattern, after).await,
        }
    }
}

/// The logs that this process has opened by itself. They are closed before it ends, however a command ends: RocksDB, in
/// C++, aborts a process that ends while it is open.
static OPENED: Mutex<Vec<NodeLog>> = Mutex::new(Vec::new());

/// A log that was opened, and is closed when the command has ended.
pub(crate) fn opened(log: NodeLog) -> NodeLog {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner).push(log.clone());
    log
}

/// Closes what was opened.
pub(crate) async fn close_opened() {
    let logs = std::mem::take(&mut *OPENED.lock().unwrap_or_else(PoisonError::into_inner));
    for log in logs {
        log.close().await;
    }
}

fn everything_of(pattern: &KeyPattern) -> EventFilter {
    EventFilter::public(pattern.clone()).entitled(Entitlement::Everything)
}

/// How the log of a data directory is opened, wherever it is.
pub(crate) fn node_options(data: &Path) -> NodeOptions {
    let options = StorageOptions::default();
    let storage = StoragePlaces { data: data.to_owned(), options };
    NodeOptions { storage: Some(Arc::new(storage)), ..NodeOptions::new(data) }
}

/// Where the environment says that a log is begun.
fn begun_at() -> Result<Option<LogPlace>, Failure> {
    let Ok(text) = std::env::var("IRONBUS_LOG_AT") else { return Ok(None) };
    let place = text.parse().map_err(|error| Failure::usage(format!("IRONBUS_LOG_AT: {error}")))?;
    Ok(Some(place))
}

async fn open(data: &Path, purpose: Use) -> Result<NodeLog, Failure> {
    let mut options = node_options(data);
    match purpose {
        Use::Read => return Ok(opened(options.open_log_read_only().await?)),
        Use::Change if !options.has_log()? => {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no log here");
            return Err(OpenError::Io { path: options.log_path(), source }.into());
        }
        // One that is begun goes where `ironbus serve` would begin it.
        Use::Write if !options.has_log()? => options.log = begun_at()?,
        Use::Change | Use::Write => {}
    }
    std::fs::create_dir_all(data).map_err(|error| {
        Failure::failed(format!("the data directory {} can't be created: {error}", data.display()))
    })?;
    Ok(opened(options.open_log().await?))
}
