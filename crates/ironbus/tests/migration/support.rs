//! A bus and a journal that remember what was done, and that a test can fail, stop and kill.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ironbus::bus::{EventBusMode, Side};
use ironbus::migration::{
    BusSwitch, Gauges, Journal, JournalError, JournalPage, JournalStep, Migration, MigrationOptions, NewStep,
    Phase, StartError, StepRequest, SwitchError,
};
use ironbus::store::ReadError;
use ironbus::{Position, SqliteEventStore};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

/// What becomes of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It does what it should.
    #[default]
    Works,
    /// It does nothing and says so.
    Fails,
    /// It does nothing and never returns: the process is killed before it.
    StopsBefore,
    /// It does what it should and never returns: the process is killed after it.
    StopsAfter,
    /// It does what it should, but can't tell.
    DoneUnknown,
    /// It does nothing, but can't tell.
    UndoneUnknown,
}

/// A journal in memory.
#[derive(Default)]
pub(crate) struct MemoryJournal {
    page: Mutex<JournalPage>,
    /// What becomes of the next call of `record`.
    pub(crate) fate: Mutex<Fate>,
}

impl MemoryJournal {
    pub(crate) fn page(&self) -> JournalPage {
        self.page.lock().clone()
    }

    fn write(&self, new: NewStep) -> Result<JournalStep, JournalError> {
        let mut page = self.page.lock();
        if new.from != page.phase {
            return Err(JournalError::Moved { expected: new.from, actual: page.phase });
        }
        let NewStep { from, to, by, reason, figures } = new;
        let at = jiff::Timestamp::UNIX_EPOCH;
        let step = page.taken + 1;
        let step = JournalStep { step, at, after: Position(0), from, to, by, reason, figures };
        (page.phase, page.taken) = (to, step.step);
        page.steps.push(step.clone());
        Ok(step)
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn journal(&self, last: usize) -> Result<JournalPage, ReadError> {
        let mut page = self.page();
        page.steps.drain(..page.steps.len().saturating_sub(last));
        Ok(page)
    }

    async fn record(&self, step: NewStep) -> Result<JournalStep, JournalError> {
        step.check()?;
        let fate = std::mem::take(&mut *self.fate.lock());
        match fate {
            Fate::Works => self.write(step),
            Fate::Fails => Err(JournalError::StorageFull),
            Fate::StopsBefore => std::future::pending().await,
            Fate::StopsAfter => {
                self.write(step)?;
                std::future::pending().await
            }
            Fate::DoneUnknown => {
                self.write(step)?;
                Err(JournalError::Unknown("the disk went away".into()))
            }
            Fate::UndoneUnknown => Err(JournalError::Unknown("the disk went away".into())),
        }
    }
}

/// A bus that only has a mode.
pub(crate) struct FakeBus {
    mode: Mutex<EventBusMode>,
    pub(crate) zenoh: AtomicBool,
    /// What becomes of the next call of `set_mode`.
    pub(crate) fate: Mutex<Fate>,
}

impl FakeBus {
    pub(crate) fn new(zenoh: bool) -> Arc<Self> {
        let mode = Mutex::new(EventBusMode::Broadcast);
        Arc::new(Self { mode, zenoh: zenoh.into(), fate: Mutex::default() })
    }
}

#[async_trait]
impl BusSwitch for FakeBus {
    fn mode(&self) -> EventBusMode {
        *self.mode.lock()
    }

    fn has_zenoh(&self) -> bool {
        self.zenoh.load(Ordering::SeqCst)
    }

    fn listeners(&self, _side: Side) -> usize {
        0
    }

    async fn set_mode(&self, mode: EventBusMode) -> Result<(), SwitchError> {
        let fate = std::mem::take(&mut *self.fate.lock());
        if !matches!(fate, Fate::Fails | Fate::StopsBefore) {
            *self.mode.lock() = mode;
        }
        match fate {
            Fate::Fails => Err("no session".into()),
            Fate::StopsBefore | Fate::StopsAfter => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

/// Counts that a test sets.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) head: AtomicU64,
    pub(crate) sse_clients: AtomicU64,
}

impl Gauges for Counts {
    fn head(&self) -> Position {
        Position(self.head.load(Ordering::SeqCst))
    }

    fn sse_clients(&self) -> u64 {
        self.sse_clients.load(Ordering::SeqCst)
    }

    fn foreign_subscribers(&self) -> u64 {
        0
    }
}

/// A process: a controller with its bus, over a journal that outlives it.
pub(crate) struct Process {
    pub(crate) migration: Migration,
    pub(crate) bus: Arc<FakeBus>,
    pub(crate) counts: Arc<Counts>,
    driver: JoinHandle<()>,
}

impl Process {
    pub(crate) async fn start(journal: Arc<dyn Journal>, zenoh: bool) -> Result<Self, StartError> {
        let (bus, counts) = (FakeBus::new(zenoh), Arc::<Counts>::default());
        let (migration, driver) = Migration::start(
            journal,
            Arc::clone(&bus) as Arc<dyn BusSwitch>,
            Arc::clone(&counts) as Arc<dyn Gauges>,
            None,
            MigrationOptions::default(),
        )
        .await?;
        Ok(Self { migration, bus, counts, driver: tokio::spawn(driver) })
    }

    /// Ends it as a kill does: at whatever it waits for.
    pub(crate) async fn kill(self) {
        self.driver.abort();
        // It may have ended in some other way before; that is the caller's to find out.
        let _ = self.driver.await;
    }

    pub(crate) async fn ended(self) {
        self.driver.await.expect("the driver ends well");
    }

    /// Both buses bring the same for as long as parity asks for.
    pub(crate) async fn reach_parity(&self) {
        let from = self.counts.head.load(Ordering::SeqCst);
        for position in from + 1..=from + 320 {
            self.counts.head.store(position, Ordering::SeqCst);
            for side in [Side::Broadcast, Side::Zenoh] {
                self.migration.heard(side, Position(position), Duration::from_millis(1));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) fn is_settled(&self, phase: Phase) -> bool {
        self.migration.status().phase == phase && self.bus.mode() == phase.bus_mode()
    }
}

pub(crate) fn ask(reason: &str) -> StepRequest {
    StepRequest { to: None, log: None, by: "ann".into(), reason: reason.into() }
}

pub(crate) fn ask_to(to: Phase) -> StepRequest {
    StepRequest { to: Some(to), ..ask("a test") }
}

/// A log's own journal, shared.
pub(crate) fn journal_of(store: &SqliteEventStore) -> Arc<dyn Journal> {
    Arc::new(store.clone())
}
