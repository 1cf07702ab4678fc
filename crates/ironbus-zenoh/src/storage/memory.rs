//! A log in memory, for tests: it forgets everything with its process, and loses replies and delays puts
//! where it is told to.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::log::{CommitLog, Committed, LogError, Slot};

/// What goes wrong with one put or one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is done, and its reply is lost.
    ReplyLost,
    /// A put comes through only when [`MemoryLog::deliver_late`] is called; its writer is told nothing. A
    /// read fails.
    Late,
    /// It never comes through.
    Dropped,
}

/// What is asked of the log, for who decides what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A put into this slot.
    Put(Slot),
    /// A read of this slot.
    Read(Slot),
    /// A read of the snapshot of the slots before this one.
    Snapshot(Slot),
}

type Faults = Box<dyn FnMut(Asked) -> Fault + Send>;

/// A log in memory. Share it by `Arc` among all its writers.
#[derive(Default)]
pub struct MemoryLog {
    slots: Mutex<BTreeMap<Slot, Bytes>>,
    snapshots: Mutex<BTreeMap<Slot, Bytes>>,
    late: Mutex<Vec<(Slot, Bytes)>>,
    faults: Mutex<Option<Faults>>,
}

impl MemoryLog {
    /// Lets `faults` say of each put and read what goes wrong with it.
    pub fn break_with(&self, faults: impl FnMut(Asked) -> Fault + Send + 'static) {
        *self.faults.lock() = Some(Box::new(faults));
    }

    /// From now on nothing goes wrong.
    pub fn mend(&self) {
        *self.faults.lock() = None;
    }

    /// Lets the puts come through that are late, and says how many of them won their slot.
    pub fn deliver_late(&self) -> usize {
        let late = std::mem::take(&mut *self.late.lock());
        late.into_iter().filter(|(slot, batch)| self.put(*slot, batch.clone()).is_none()).count()
    }

    /// Puts other bytes into a slot, as a fault of a disk would.
    pub fn damage(&self, slot: Slot, bytes: Option<Bytes>) {
        match bytes {
            Some(bytes) => self.slots.lock().insert(slot, bytes),
            None => self.slots.lock().remove(&slot),
        };
    }

    /// What a slot holds.
    #[must_use]
    pub fn held(&self, slot: Slot) -> Option<Bytes> {
        self.slots.lock().get(&slot).cloned()
    }

    /// How many slots are filled.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.slots.lock().len()
    }

    fn put(&self, slot: Slot, batch: Bytes) -> Option<Bytes> {
        let mut slots = self.slots.lock();
        if let Some(held) = slots.get(&slot) {
            return Some(held.clone());
        }
        slots.insert(slot, batch);
        None
    }

    fn fault(&self, asked: Asked) -> Fault {
        self.faults.lock().as_mut().map_or(Fault::None, |faults| faults(asked))
    }
}

#[async_trait]
impl CommitLog for MemoryLog {
    async fn commit(&self, slot: Slot, batch: Bytes) -> Committed {
        let no_reply = || Committed::Unknown(LogError::new(format!("slot {slot}"), "no reply"));
        match self.fault(Asked::Put(slot)) {
            Fault::None => self.put(slot, batch).map_or(Committed::Won, Committed::Lost),
            Fault::ReplyLost => {
                self.put(slot, batch);
                no_reply()
            }
            Fault::Late => {
                self.late.lock().push((slot, batch));
                no_reply()
            }
            Fault::Dropped => no_reply(),
        }
    }

    async fn read(&self, slot: Slot) -> Result<Option<Bytes>, LogError> {
        match self.fault(Asked::Read(slot)) {
            Fault::None => Ok(self.held(slot)),
            _ => Err(LogError::new(format!("slot {slot}"), "no reply")),
        }
    }

    async fn beyond(&self, slot: Slot) -> Result<Option<Slot>, LogError> {
        Ok(self.slots.lock().range(slot.next()..).next().map(|(slot, _)| *slot))
    }

    async fn snapshots(&self) -> Result<Vec<Slot>, LogError> {
        Ok(self.snapshots.lock().keys().rev().copied().collect())
    }

    async fn snapshot(&self, before: Slot) -> Result<Option<Bytes>, LogError> {
        match self.fault(Asked::Snapshot(before)) {
            Fault::None => Ok(self.snapshots.lock().get(&before).cloned()),
            _ => Err(LogError::new(format!("the snapshot before slot {before}"), "no reply")),
        }
    }

    async fn keep_snapshot(&self, before: Slot, snapshot: Bytes) -> Result<(), LogError> {
        let mut snapshots = self.snapshots.lock();
        snapshots.insert(before, snapshot);
        while snapshots.len() > 2 {
            snapshots.pop_first();
        }
        Ok(())
    }

    fn place(&self) -> String {
        "memory".into()
    }

    /// Nobody outside of this process can have it.
    fn is_shared(&self) -> bool {
        false
    }
}

impl std::fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryLog").field("filled", &self.filled()).finish_non_exhaustive()
    }
}
