//! The event store over a commit log: any number of nodes append to one log, and each follows it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt};
use ironbus::event::{Aggregate, Epoch, Position, Sequence, StoreId, StoredEvent};
use ironbus::key::EventFilter;
use ironbus::store::{
    AggregatePage, Append, AppendError, Appended, CHAIN_START, ChainHash, CopyFailure, CopyOf, EpochStart,
    EventStore, Head, JournalStep, Lineage, LogEnd, OtherWriters, Page, ReadError, chain,
};
use ironbus::subscription::{Start, Subscription};
use ironbus::tail::{RingLimits, Tail};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::{Notify, OnceCell, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::aside::aside;
use super::batch::{Batch, Record};
use super::committer::{By, Command, Committer, Mark, Marked, Waiting, read_error};
use super::follow::{self, Started, Trouble};
use super::leader::Leaders;
use super::log::{CommitLog, Committed, LogError, Slot};
use super::plan::{NotACopy, Refused};
use super::state::{State, Whereabouts};

/// How many appends may wait for the committing task. When as many wait, a further append waits to be let in.
const WAITING_APPENDS: usize = 4096;

/// A page ends once its payloads and metadata reach this many bytes.
const PAGE_BYTES: usize = 8 << 20;

/// How many slots one read of the log asks for at the same time.
const READS_AT_ONCE: usize = 16;

/// How often a node looks for what others have committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The pause while something comes.
    pub least: Duration,
    /// The pause that it grows to while nothing comes.
    pub most: Duration,
}

/// How a [`ZenohStorageEventStore`] behaves.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// How much of the log's end is kept in memory for live readers.
    pub ring: RingLimits,
    /// How many bytes of batches are kept in memory for those who read the log. When full, those go that were
    /// least used, and are read again.
    pub cache_bytes: u64,
    /// How long an append is tried, while the log doesn't answer or other nodes are quicker, before its caller is told
    /// so; and how long one read of the log may take.
    pub patience: Duration,
    /// How often is looked for what others have committed.
    pub pace: Pace,
    /// After how many slots, at the least, a snapshot of the state is kept, so that a start need not read
    /// all.
    pub snapshot_every: u64,
    /// Whether a log is begun where there is none.
    pub create: bool,
    /// The log that a begun one is to be a copy of. A copy accepts only what is copied until
    /// [`ZenohStorageEventStore::open_copy`]. One that is there already has to be of the same log.
    pub copy_of: Option<CopyOf>,
    /// The tail that the log feeds; one of its own where none is given. A given one stays open when the log closes,
    /// and hears nothing of a copy in the making.
    pub tail: Option<Arc<Tail>>,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            ring: RingLimits::default(),
            cache_bytes: 64 << 20,
            patience: Duration::from_secs(10),
            pace: Pace { least: Duration::from_millis(50), most: Duration::from_secs(1) },
            snapshot_every: 1024,
            create: true,
            copy_of: None,
            tail: None,
        }
    }
}

/// Why a log can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageOpenError {
    /// It can't be reached, or is damaged.
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// There is none, and none was to be begun.
    #[error("there is no log here; name another place, or let one be created")]
    NoLog,
    /// There is one, and it isn't the one that it was to be a copy of.
    #[error(
        "there is the log {found} here, which is no copy of {wanted}; name another place, or move it away"
    )]
    OtherLog {
        /// The log that is here.
        found: StoreId,
        /// The log that it was to be a copy of.
        wanted: StoreId,
    },
}

impl From<LogError> for StorageOpenError {
    fn from(error: LogError) -> Self {
        Self::Trouble(Trouble::Away(error))
    }
}

/// The event store over a [`CommitLog`]. A handle: cheap to clone, the store closes with the last one.
///
/// ```
/// use std::sync::Arc;
/// use ironbus::{Aggregate, Append, EventStore, ExpectedVersion, Json, NewEvent};
/// use ironbus_zenoh::storage::{MemoryLog, StorageOptions, ZenohStorageEventStore};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// // In earnest: `ObjectLog::open_s3` for a bucket, `ObjectLog::open_folder` for a folder.
/// let log = Arc::new(MemoryLog::default());
/// let one = ZenohStorageEventStore::open(log.clone(), StorageOptions::default()).await?;
/// let two = ZenohStorageEventStore::open(log, StorageOptions::default()).await?;
///
/// let todo = Aggregate::new("Todo", "uuid-123")?;
/// let added = NewEvent::new("TodoAdded", Json::parse(r#"{"title":"write docs"}"#)?);
/// one.append(Append::to(todo, ExpectedVersion::NoStream, vec![added])).await?;
/// assert_eq!(two.head().await?.position.0, 1);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ZenohStorageEventStore(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// What the handles and the committing task share.
pub(super) struct Shared {
    pub(super) log: Arc<dyn CommitLog>,
    pub(super) state: RwLock<State>,
    pub(super) tail: Arc<Tail>,
    pub(super) owns_tail: bool,
    pub(super) hint: Notify,
    pub(super) leaders: Leaders,
    /// Cancelled when the committing task has ended.
    pub(super) ended: CancellationToken,
    cache: moka::sync::Cache<Slot, Arc<Batch>>,
    /// The slots that are being read just now: whoever wants one of them too waits for it.
    flights: Mutex<HashMap<Slot, Arc<OnceCell<Arc<Batch>>>>>,
    patience: Duration,
    closed: AtomicBool,
}

impl ZenohStorageEventStore {
    /// Opens a log, and folds it to its end. Any number of nodes may have one log open.
    ///
    /// # Errors
    ///
    /// [`StorageOpenError`] with what to do.
    pub async fn open(log: Arc<dyn CommitLog>, options: StorageOptions) -> Result<Self, StorageOpenError> {
        let start = async || follow::start(&*log, true, options.patience).await;
        let Started { state, from } = match start().await? {
            Some(started) => started,
            None if options.create => {
                begin(&*log, options.copy_of.clone()).await?;
                start().await?.ok_or(StorageOpenError::NoLog)?
            }
            None => return Err(StorageOpenError::NoLog),
        };
        if let Some(of) = options.copy_of.as_ref().filter(|of| of.store_id != state.store_id()) {
            return Err(StorageOpenError::OtherLog { found: state.store_id(), wanted: of.store_id });
        }
        let (epoch, head, owns_tail) = (state.epoch(), state.head(), options.tail.is_none());
        let tail = options.tail.clone().unwrap_or_else(|| Arc::new(Tail::new(epoch, head, options.ring)));
        // A copy feeds its tail from when it is opened, and what turns out to be none doesn't feed it at all.
        if options.copy_of.is_none() {
            tail.adopt(epoch, head);
        }
        let weight = |_: &Slot, batch: &Arc<Batch>| weigh(batch.events());
        let cache = moka::sync::Cache::builder().weigher(weight).max_capacity(options.cache_bytes).build();
        let shared = Arc::new(Shared {
            log,
            state: RwLock::new(state),
            tail,
            owns_tail,
            hint: Notify::new(),
            leaders: Leaders::new(Uuid::new_v4()),
            ended: CancellationToken::new(),
            cache,
            flights: Mutex::default(),
            patience: options.patience,
            closed: AtomicBool::new(false),
        });
        let (commands, waiting) = mpsc::channel(WAITING_APPENDS);
        let committer = Committer::new(Arc::clone(&shared), &options, from, commands.downgrade());
        // It ends when the last handle is dropped, or when it is closed, which waits for it.
        tokio::spawn(committer.run(waiting));
        Ok(Self(Arc::new(Handle { shared, commands })))
    }

    /// The end of the log in memory.
    #[must_use]
    pub fn tail(&self) -> &Arc<Tail> {
        &self.0.shared.tail
    }

    /// Says that another node has committed, so that it is looked for at once. Only makes it quicker: without
    /// hints the log is looked at in its [`Pace`].
    pub fn hint(&self) {
        self.0.shared.hint.notify_one();
    }

    /// This node's name in the batches that it writes.
    pub(super) fn writer(&self) -> Uuid {
        self.0.shared.leaders.writer
    }

    pub(super) fn reach_others_by(&self, others: Arc<dyn OtherWriters>) {
        self.0.shared.leaders.reach_by(others);
    }

    pub(super) async fn append_by(&self, append: Append, by: By) -> Result<Appended, AppendError> {
        append.check()?;
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { append, by, reply };
        self.0.commands.send(Command::Append(waiting)).await.map_err(|_| AppendError::Closed)?;
        answer.await.map_err(|_| lost_reply())?
    }

    /// Folds all that was committed by anyone before this was called, and says where the log ends.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when the log can't be reached.
    pub async fn catch_up(&self) -> Result<Position, ReadError> {
        self.check_open()?;
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(Command::CatchUp(reply)).await.map_err(|_| ReadError::Closed)?;
        answer.await.map_err(|_| ReadError::Closed)??;
        Ok(self.0.shared.state.read().head())
    }

    /// Seals an epoch: nobody appends to it any more, and this is where it ends. `why` is told to those whose appends
    /// are refused. To seal a sealed epoch, or a copy in the making, changes nothing.
    ///
    /// # Errors
    ///
    /// [`AppendError::Superseded`] when another epoch is in force; else [`AppendError`], and whether it is sealed is
    /// unknown only after [`AppendError::Unknown`].
    pub async fn seal_epoch(&self, epoch: Epoch, why: &str) -> Result<LogEnd, AppendError> {
        self.mark_end(Mark::Seal { epoch, why: why.to_owned() }).await
    }

    /// Begins an epoch after the log's last event, which opens a sealed log again. Nothing changes if that
    /// epoch or a later one is in force.
    ///
    /// # Errors
    ///
    /// [`AppendError::Superseded`] for a copy in the making; else [`AppendError`], and whether it has begun is unknown
    /// only after [`AppendError::Unknown`].
    pub async fn raise_epoch(&self, epoch: Epoch, why: &str) -> Result<LogEnd, AppendError> {
        self.mark_end(Mark::BeginEpoch { epoch, why: why.to_owned() }).await
    }

    /// Makes a sealed log a copy in the making of the log that has gone on from it, whose epochs these are; or lets a
    /// copy in the making go on with the further epochs of its log.
    ///
    /// # Errors
    ///
    /// [`CopyFailure::NotACopy`] when the log accepts appends, or the epochs don't go on from its own.
    pub async fn follow(&self, lineage: Lineage) -> Result<LogEnd, CopyFailure> {
        self.mark_copy(Mark::Follow(lineage)).await
    }

    /// Copies events into a copy in the making, with their positions, sequences, ids and times. They follow what it
    /// has already; those that it has are left out, so a copy may be begun again anywhere. They become one batch: some
    /// thousands at a time are a good page.
    ///
    /// # Errors
    ///
    /// [`CopyFailure::NotACopy`] when the log isn't a copy in the making, when the events leave a hole, or when one
    /// isn't that which the log has there.
    pub async fn copy(&self, events: Vec<Arc<StoredEvent>>) -> Result<LogEnd, CopyFailure> {
        self.mark_copy(Mark::Copy(events)).await
    }

    /// Gives a copy in the making these steps of the migration, instead of what it has.
    ///
    /// # Errors
    ///
    /// [`CopyFailure::NotACopy`] when the log isn't a copy in the making, and has other steps.
    pub async fn copy_journal(&self, steps: Vec<JournalStep>) -> Result<LogEnd, CopyFailure> {
        self.mark_copy(Mark::Journal(steps)).await
    }

    /// Opens a copy, in the epoch after that of the log that was sealed. To open it again changes nothing.
    ///
    /// # Errors
    ///
    /// [`CopyFailure::NotACopy`] when it doesn't hold exactly what that log held when it was sealed. Whether it was
    /// opened is unknown only after [`CopyFailure::Unknown`].
    pub async fn open_copy(&self, of: LogEnd, why: &str) -> Result<LogEnd, CopyFailure> {
        self.mark_copy(Mark::OpenCopy { of, why: why.to_owned() }).await
    }

    /// Writes a mark. Dropping the future doesn't take it back.
    pub(super) async fn mark(&self, mark: Mark) -> Result<Marked, Refused> {
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(Command::Mark(mark, reply)).await.map_err(|_| AppendError::Closed)?;
        answer.await.map_err(|_| lost_reply())?
    }

    async fn mark_end(&self, mark: Mark) -> Result<LogEnd, AppendError> {
        match self.mark(mark).await {
            Ok(marked) => Ok(marked.end),
            Err(Refused::Append(error)) => Err(error),
            Err(other) => unreachable!("it is no copy's mark, and no step: {other:?}"),
        }
    }

    async fn mark_copy(&self, mark: Mark) -> Result<LogEnd, CopyFailure> {
        let place = || self.0.shared.log.place();
        self.mark(mark).await.map(|marked| marked.end).map_err(|refused| match refused {
            // It may catch up with the other log's epochs.
            Refused::NotACopy(behind @ NotACopy::Epoch { copy, of }) if copy < of => {
                CopyFailure::Storage { place: place(), source: behind.into() }
            }
            Refused::NotACopy(reason) => CopyFailure::NotACopy { place: place(), reason: reason.to_string() },
            Refused::Append(AppendError::Unknown(reason)) => {
                CopyFailure::Unknown { place: place(), reason: reason.to_string() }
            }
            Refused::Append(error) => CopyFailure::Storage { place: place(), source: error.into() },
            Refused::Moved { .. } => unreachable!("it is no step"),
        })
    }

    /// What the log adds up to, as far as this node has folded it.
    pub(super) fn folded(&self) -> RwLockReadGuard<'_, State> {
        self.0.shared.state.read()
    }

    pub(super) fn commit_log(&self) -> &dyn CommitLog {
        &*self.0.shared.log
    }

    /// The hash of all events up to a position; `None` for one that this node doesn't know yet.
    pub(super) async fn hash_at(&self, position: Position) -> Result<Option<ChainHash>, ReadError> {
        self.check_open()?;
        let at = {
            let state = self.folded();
            if position > state.head() {
                return Ok(None);
            }
            if position == state.head() {
                return Ok(Some(state.chain()));
            }
            if position == Position::START {
                return Ok(Some(CHAIN_START));
            }
            state.whereabouts(position)
        };
        if position == at.last {
            return Ok(Some(at.chain));
        }
        let batch = self.0.shared.batch(at).await?;
        let before = batch.events().iter().take_while(|event| event.position <= position);
        Ok(Some(before.fold(at.previous, |hash, event| chain(&hash, event))))
    }

    /// Commits what waits, refuses what comes after, and ends every subscription of the store's own tail. Returns when
    /// that is done.
    pub async fn close(&self) {
        // Where it is closed or closing, its end is waited for all the same.
        let _ = self.0.commands.send(Command::Close).await;
        self.0.shared.ended.cancelled().await;
        self.0.shared.closed.store(true, Ordering::Release);
    }

    pub(super) fn check_open(&self) -> Result<(), ReadError> {
        if self.0.shared.closed.load(Ordering::Acquire) { Err(ReadError::Closed) } else { Ok(()) }
    }
}

/// The committing task ended without an answer.
fn lost_reply() -> AppendError {
    AppendError::Unknown("the task that commits ended before it answered".into())
}

/// Begins a log where there is none. Another node may be quicker: then its log it is.
async fn begin(log: &dyn CommitLog, copy_of: Option<CopyOf>) -> Result<(), StorageOpenError> {
    let copy = copy_of.is_some();
    let start = EpochStart { epoch: Epoch(1), after: Position::START };
    let CopyOf { store_id, lineage } = copy_of.unwrap_or_else(|| CopyOf {
        store_id: StoreId(Uuid::new_v4()),
        lineage: Lineage::new(vec![start]).expect("one epoch ascends"),
    });
    let (epoch, writer) = (lineage.epoch(), Uuid::new_v4());
    let record = Record::Created { lineage, copy };
    let batch = Batch { store_id, slot: Slot(0), epoch, writer, record };
    match log.commit(Slot(0), batch.encode()).await {
        Committed::Won | Committed::Lost(_) => Ok(()),
        Committed::Unknown(error) => Err(error.into()),
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.shared.owns_tail {
            self.shared.tail.close();
        }
    }
}

#[async_trait]
impl EventStore for ZenohStorageEventStore {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.append_by(append, By::Whomever).await
    }

    async fn load(
        &self,
        aggregate: &Aggregate,
        after: Sequence,
        limit: usize,
    ) -> Result<AggregatePage, ReadError> {
        self.check_open()?;
        let shared = &self.0.shared;
        let (positions, version) = shared.state.read().load(aggregate, after, limit);
        let events = shared.fetch(&positions).await?;
        Ok(AggregatePage { events, version })
    }

    async fn read(&self, after: Position, filter: &EventFilter, limit: usize) -> Result<Page, ReadError> {
        self.check_open()?;
        let shared = &self.0.shared;
        let selected = {
            let state = shared.state.read();
            // What is copied isn't read before it is known to be whole, and in which epoch.
            let most = if state.is_copying() { shared.tail.head() } else { state.head() };
            state.select(after, most, filter, limit)
        };
        let events = shared.fetch(&selected.positions).await?;
        let cut = events.len() < selected.positions.len();
        let through = match events.last() {
            Some(last) if cut => last.position,
            _ => selected.through,
        };
        Ok(Page { events, through, head: selected.head })
    }

    /// The head of the log itself, not only of what this node has followed so far.
    async fn head(&self) -> Result<Head, ReadError> {
        self.catch_up().await?;
        let state = self.folded();
        let (store_id, lineage) = (state.store_id(), state.lineage().clone());
        Ok(Head { store_id, lineage, earliest: Position(1), position: state.head() })
    }

    fn subscribe(&self, filter: EventFilter, start: Start) -> Subscription {
        Subscription::new(Arc::new(self.clone()), Arc::clone(self.tail()), filter, start)
    }
}

impl Shared {
    pub(super) fn remember(&self, batch: Arc<Batch>) {
        self.cache.insert(batch.slot, batch);
    }

    /// The events at these ascending positions, or those that fit into a page.
    async fn fetch(self: &Arc<Self>, positions: &[Position]) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let slots = self.slots_of(positions);
        let reads = slots.into_iter().map(|(at, positions)| {
            let shared = Arc::clone(self);
            async move {
                let batch = shared.batch(at).await?;
                let event = |position: Position| {
                    let index = usize::try_from(position.0 - at.first.0).expect("a batch fits into memory");
                    Arc::clone(&batch.events()[index])
                };
                Ok::<Vec<_>, ReadError>(positions.into_iter().map(event).collect())
            }
        });
        let mut pages = stream::iter(reads).buffered(READS_AT_ONCE);
        let (mut events, mut bytes) = (Vec::with_capacity(positions.len()), 0);
        while let Some(page) = pages.next().await {
            for event in page? {
                bytes += event.payload.as_bytes().len() + event.metadata.json().as_bytes().len();
                events.push(event);
                if bytes >= PAGE_BYTES {
                    return Ok(events);
                }
            }
        }
        Ok(events)
    }

    fn slots_of(&self, positions: &[Position]) -> Vec<(Whereabouts, Vec<Position>)> {
        let state = self.state.read();
        let mut slots: Vec<(Whereabouts, Vec<Position>)> = Vec::new();
        for position in positions {
            match slots.last_mut() {
                Some((at, of)) if *position <= at.last => of.push(*position),
                _ => slots.push((state.whereabouts(*position), vec![*position])),
            }
        }
        slots
    }

    /// A slot's batch, from memory or from the log, which is asked once however many want it.
    pub(super) async fn batch(&self, at: Whereabouts) -> Result<Arc<Batch>, ReadError> {
        if let Some(batch) = self.cache.get(&at.slot) {
            return Ok(batch);
        }
        let cell = Arc::clone(self.flights.lock().entry(at.slot).or_default());
        let flight = Flight { shared: self, slot: at.slot, cell };
        flight.cell.get_or_try_init(|| self.read_batch(at)).await.cloned()
    }

    /// Reads a slot's batch. What the log has is compared with what was folded, event by event through its hash, so
    /// that nothing is served that has changed since.
    async fn read_batch(&self, at: Whereabouts) -> Result<Arc<Batch>, ReadError> {
        let found = follow::in_time(self.patience, follow::read(&*self.log, at.slot)).await;
        let damaged =
            |reason: &str| ReadError::Damaged { place: format!("slot {}", at.slot), reason: reason.into() };
        let batch = found.map_err(|trouble| read_error(&trouble))?.ok_or_else(|| damaged("it is missing"))?;
        let batch = Arc::new(batch);
        if !is_what_was_folded(&batch, at).await {
            return Err(damaged("it isn't what was folded"));
        }
        self.remember(Arc::clone(&batch));
        Ok(batch)
    }
}

/// One who waits for a slot to be read. The last one to leave forgets it.
struct Flight<'a> {
    shared: &'a Shared,
    slot: Slot,
    cell: Arc<OnceCell<Arc<Batch>>>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut flights = self.shared.flights.lock();
        // Its own, and that of the map; whoever joins does so under the lock.
        if Arc::strong_count(&self.cell) == 2 {
            flights.remove(&self.slot);
        }
    }
}

/// A batch with more bytes than this is hashed on a thread of its own.
const LARGE: u32 = 256 << 10;

async fn is_what_was_folded(batch: &Arc<Batch>, at: Whereabouts) -> bool {
    let compare = move |batch: &Batch| {
        let Record::Events { previous, chain: after, events } = &batch.record else { return false };
        let positions = events.iter().map(|event| event.position.0);
        let hash = events.iter().fold(*previous, |hash, event| chain(&hash, event));
        (*previous, *after, hash) == (at.previous, at.chain, at.chain) && positions.eq(at.first.0..=at.last.0)
    };
    if weigh(batch.events()) <= LARGE {
        return compare(batch);
    }
    let batch = Arc::clone(batch);
    aside(move || compare(&batch)).await
}

fn weigh(events: &[Arc<StoredEvent>]) -> u32 {
    let bytes = events.iter().map(|e| 400 + e.payload.as_bytes().len() + e.metadata.json().as_bytes().len());
    u32::try_from(bytes.sum::<usize>()).unwrap_or(u32::MAX)
}

impl std::fmt::Debug for ZenohStorageEventStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shared = &self.0.shared;
        f.debug_struct("ZenohStorageEventStore")
            .field("log", &shared.log)
            .field("head", &shared.tail.head())
            .finish_non_exhaustive()
    }
}
