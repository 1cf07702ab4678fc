//! Folding the log forward: at a start, and whenever others may have committed.

use futures_util::stream::{self, StreamExt};

use super::batch::Batch;
use super::bytes::Damage;
use super::log::{CommitLog, LogError, Slot};
use super::state::{Fault, State};

/// How many slots are read ahead when there is much to catch up with.
const READ_AHEAD: usize = 16;

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
    let batch = Batch::decode(slot, bytes).map_err(Fault::from).map_err(Trouble::damaged(slot))?;
    Ok(Some(batch))
}

/// Hands every batch from `next` on to `fold`, in order, until a slot is empty. Says how many there were.
pub(super) async fn forward(
    log: &dyn CommitLog,
    next: Slot,
    mut fold: impl FnMut(Batch) -> Result<(), Fault>,
) -> Result<u64, Trouble> {
    // Mostly there is nothing: one look says so.
    let Some(first) = read(log, next).await? else { return Ok(0) };
    fold(first).map_err(Trouble::damaged(next))?;
    let mut folded = 1;
    let slots = stream::iter(next.0 + 1..).map(|slot| read(log, Slot(slot)));
    let mut batches = std::pin::pin!(slots.buffered(READ_AHEAD));
    while let Some(Some(batch)) = batches.next().await.transpose()? {
        let slot = batch.slot;
        fold(batch).map_err(Trouble::damaged(slot))?;
        folded += 1;
    }
    Ok(folded)
}

/// The state after all slots: from the latest snapshot that is sound, else from the first slot. `None` for a
/// log that hasn't begun.
pub(super) async fn start(log: &dyn CommitLog, use_snapshots: bool) -> Result<Option<State>, Trouble> {
    let snapshot = if use_snapshots { from_snapshot(log).await? } else { None };
    let mut state = match snapshot {
        Some(state) => state,
        None => match read(log, Slot(0)).await? {
            Some(batch) => State::begin(&batch).map_err(Trouble::damaged(Slot(0)))?,
            None => match log.beyond(Slot(0)).await? {
                Some(later) if log.read(Slot(0)).await?.is_none() => {
                    return Err(Trouble::Missing { missing: Slot(0), later });
                }
                Some(_) => return Box::pin(start(log, use_snapshots)).await,
                None => return Ok(None),
            },
        },
    };
    loop {
        forward(log, state.next(), |batch| state.fold(&batch)).await?;
        // Nothing is ever put behind an empty slot: one that is empty before another was lost, and filling it
        // would make a second history of it.
        let Some(later) = log.beyond(state.next()).await? else { return Ok(Some(state)) };
        if log.read(state.next()).await?.is_none() {
            return Err(Trouble::Missing { missing: state.next(), later });
        }
    }
}

async fn from_snapshot(log: &dyn CommitLog) -> Result<Option<State>, Trouble> {
    for before in log.snapshots().await? {
        let Some(bytes) = log.snapshot(before).await? else { continue };
        match State::restore(before, bytes) {
            Ok(state) => {
                check_last(log, &state).await?;
                return Ok(Some(state));
            }
            Err(damage) => {
                tracing::warn!(%before, %damage, "a snapshot of the log's state is left out");
            }
        }
    }
    Ok(None)
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
    Ok(start(log, false).await?.map(|state| StorageVerification {
        store_id: state.store_id(),
        epoch: state.epoch(),
        sealed: state.is_sealed(),
        head: state.head(),
        chain: state.chain(),
        slots: state.next().0,
    }))
}
