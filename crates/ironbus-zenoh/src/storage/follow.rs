//! Folding the log forward: at a start, and whenever others may have committed.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use super::aside::aside;
use super::batch::Batch;
use super::bytes::Damage;
use super::log::{CommitLog, LogError, Slot};
use super::state::{Fault, State};

/// How many slots are read ahead, at the most, when there is much to catch up with.
const READ_AHEAD: usize = 16;

/// How long a verification waits for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// An object that is larger than this is decoded on a thread of its own.
const LARGE: usize = 256 << 10;

/// Why the log can't be folded further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /// It can't be reached.
    #[error("the log can't be reached: {0}")]
    Away(#[from] LogError),
    /// A slot holds what it can't hold, or holds no longer what it held.
    #[error("slot {slot} of the log is damaged: {fault}; restore it from a backup, and don't write over it")]
    Damaged {
        /// The slot.
        slot: Slot,
        /// What is wrong.
        #[source]
        fault: Fault,
    },
    /// A slot is empty although a later one isn't.
    #[error("slot {missing} of the log is missing, but slot {later} is there; restore it from a backup")]
    Missing {
        /// The empty slot.
        missing: Slot,
        /// A later one.
        later: Slot,
    },
}

impl Trouble {
    pub(super) fn damaged(slot: Slot) -> impl FnOnce(Fault) -> Self {
        move |fault| Self::Damaged { slot, fault }
    }
}

/// What a slot holds, decoded.
pub(super) async fn read(log: &dyn CommitLog, slot: Slot) -> Result<Option<Batch>, Trouble> {
    let bytes = match log.read(slot).await {
        Err(error) if error.damaged => {
            return Err(Trouble::damaged(slot)(Damage::Storage(error.to_string()).into()));
        }
        read => read?,
    };
    let Some(bytes) = bytes else { return Ok(None) };
    decode(slot, bytes).await.map(Some)
}

/// What an object says that a slot holds.
pub(super) async fn decode(slot: Slot, bytes: Bytes) -> Result<Batch, Trouble> {
    let decoded = if bytes.len() > LARGE {
        aside(move || Batch::decode(slot, bytes)).await
    } else {
        Batch::decode(slot, bytes)
    };
    decoded.map_err(Fault::from).map_err(Trouble::damaged(slot))
}

/// An answer that takes longer than `patience` is none.
pub(super) async fn in_time<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    let late = |_| {
        let waited = format!("it hasn't answered within {patience:?}");
        Err(Trouble::Away(LogError::new("the log", waited)))
    };
    tokio::time::timeout(patience, answer).await.unwrap_or_else(late)
}

/// Hands every batch from `next` on to `fold`, in order, until a slot is empty. Says how many there were. No read may
/// take longer than `patience`.
pub(super) async fn forward(
    log: &dyn CommitLog,
    next: Slot,
    patience: Duration,
    mut fold: impl FnMut(Batch) -> Result<(), Fault>,
) -> Result<u64, Trouble> {
    let (mut folded, mut ahead) = (0, 1);
    // Mostly there is nothing, and one look says so. The more there was, the more is read at once.
    loop {
        let first = next.0 + folded;
        let slots = stream::iter(first..first + ahead).map(|slot| in_time(patience, read(log, Slot(slot))));
        let mut batches = std::pin::pin!(slots.buffered(READ_AHEAD));
        while let Some(found) = batches.next().await {
            let Some(batch) = found? else { return Ok(folded) };
            let slot = batch.slot;
            fold(batch).map_err(Trouble::damaged(slot))?;
            folded += 1;
        }
        ahead = (2 * ahead).min(READ_AHEAD as u64);
    }
}

/// What a start found.
pub(super) struct Started {
    pub(super) state: State,
    /// The slot of the snapshot that it began from; the first where there was none.
    pub(super) from: Slot,
}

/// The state after all slots: from the latest snapshot that is sound, else from the first slot. `None` for a
/// log that hasn't begun.
pub(super) async fn start(
    log: &dyn CommitLog,
    use_snapshots: bool,
    patience: Duration,
) -> Result<Option<Started>, Trouble> {
    let snapshot = if use_snapshots { from_snapshot(log).await? } else { None };
    let from = snapshot.as_ref().map_or(Slot(0), State::next);
    let mut state = match snapshot {
        Some(state) => state,
        None => match in_time(patience, read(log, Slot(0))).await? {
            Some(batch) => State::begin(&batch).map_err(Trouble::damaged(Slot(0)))?,
            None => match log.beyond(Slot(0)).await? {
                Some(later) if log.read(Slot(0)).await?.is_none() => {
                    return Err(Trouble::Missing { missing: Slot(0), later });
                }
                Some(_) => return Box::pin(start(log, use_snapshots, patience)).await,
                None => return Ok(None),
            },
        },
    };
    loop {
        forward(log, state.next(), patience, |batch| state.fold(&batch)).await?;
        // Nothing is ever put behind an empty slot: one that is empty before another was lost, and filling it
        // would make a second history of it.
        let Some(later) = log.beyond(state.next()).await? else { return Ok(Some(Started { state, from })) };
        if log.read(state.next()).await?.is_none() {
            return Err(Trouble::Missing { missing: state.next(), later });
        }
    }
}

async fn from_snapshot(log: &dyn CommitLog) -> Result<Option<State>, Trouble> {
    for before in log.snapshots().await? {
        let restored = match log.snapshot(before).await {
            Ok(Some(bytes)) => restore(before, bytes).await,
            Ok(None) => continue,
            Err(error) => Err(error.to_string()),
        };
        match restored {
            Ok(state) => {
                check_last(log, &state).await?;
                return Ok(Some(state));
            }
            Err(reason) => {
                tracing::warn!(%before, reason, "a snapshot of the log's state is left out; the start takes longer");
            }
        }
    }
    Ok(None)
}

/// On a thread of its own: it may be large.
async fn restore(before: Slot, bytes: Bytes) -> Result<State, String> {
    aside(move || State::restore(before, bytes)).await.map_err(|damage| damage.to_string())
}

/// A snapshot may outlive the end of a log that was restored from an older copy: then it isn't gone on from.
async fn check_last(log: &dyn CommitLog, state: &State) -> Result<(), Trouble> {
    let next = state.next();
    let last = Slot(next.0 - 1);
    match read(log, last).await? {
        None => Err(Trouble::Missing { missing: last, later: next }),
        Some(batch) => state.check_last(&batch).map_err(Trouble::damaged(last)),
    }
}

/// What a log adds up to, folded from its first slot without a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageVerification {
    /// Which log it is.
    pub store_id: ironbus::event::StoreId,
    /// The epoch in force.
    pub epoch: ironbus::event::Epoch,
    /// Whether that is sealed.
    pub sealed: bool,
    /// The last position.
    pub head: ironbus::event::Position,
    /// The hash of the whole log, the same as of any other kind of store with the same events.
    pub chain: ironbus::store::ChainHash,
    /// How many slots there are.
    pub slots: u64,
}

/// Reads a whole log and checks everything that can be checked: that no slot is missing, every checksum,
/// every place, every sequence and id, and the hash chain from the first event.
///
/// # Errors
///
/// [`Trouble`] with the first slot that is wrong. `Ok(None)` where no log has begun.
pub async fn verify(log: &dyn CommitLog) -> Result<Option<StorageVerification>, Trouble> {
    let started = start(log, false, PATIENCE).await?;
    Ok(started.map(|Started { state, .. }| StorageVerification {
        store_id: state.store_id(),
        epoch: state.epoch(),
        sealed: state.is_sealed(),
        head: state.head(),
        chain: state.chain(),
        slots: state.next().0,
    }))
}
