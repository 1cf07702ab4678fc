//! A node: a store, the bus, and the tasks between them, which it owns.
//!
//! A **store node** has a log of its own ([`Node::open`]). An **edge node** has none: its store talks to
//! a store node ([`Node::edge`]). What joins either to others is a [`Link`], which a crate beside this
//! one brings (`ironbus-zenoh`).

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bus::{BroadcastBus, DualEventBus, EventBus, EventBusMode, Side};
use crate::event::{Epoch, Position};
use crate::migration::{BusSwitch, Gauges, Migration, MigrationOptions, StartError, SwitchError, compare};
use crate::moving::{Exchanged, LogPlace, LogPlaces, Mover, NodeLog, Places, Whereabouts};
use crate::publisher::{Memory, Progress, publish};
use crate::store::{Durability, EventStore, Head, OpenError, SqliteEventStore, SqliteOptions};
use crate::tail::{RingLimits, Tail};

/// How to open a [`Node`].
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The data directory; created if it doesn't exist. The log is its file `ironbus.db`, but where `log` or a move
    /// says otherwise.
    pub data: PathBuf,
    /// Where a log is begun if the directory has none; the directory's SQLite file where this is `None`.
    pub log: Option<LogPlace>,
    /// Who opens logs that aren't in a SQLite file.
    pub storage: Option<Arc<dyn LogPlaces>>,
    /// When an append counts as durable.
    pub durability: Durability,
    /// How much of the log's end is kept in memory for live readers.
    pub ring: RingLimits,
    /// How many events the in-process bus holds for its raw listeners.
    pub bus_capacity: usize,
}

impl NodeOptions {
    /// The name of the log's file in the data directory.
    pub const LOG_FILE: &str = "ironbus.db";

    /// The defaults for a data directory.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            log: None,
            storage: None,
            durability: Durability::default(),
            ring: RingLimits::default(),
            bus_capacity: 1024,
        }
    }

    /// The log's file.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.data.join(Self::LOG_FILE)
    }
}

/// The log of a data directory, without a node.
impl NodeOptions {
    /// Opens the log, wherever it is; it is begun where there is none. A move that was cut off after the log was
    /// sealed is finished.
    ///
    /// # Errors
    ///
    /// [`OpenError`] with what to do.
    pub async fn open_log(self) -> Result<NodeLog, OpenError> {
        let (tail, places) = self.parts();
        Ok(crate::moving::open(&places, &self.data, self.log, tail).await?.log)
    }

    /// Opens the log for reading. One in a SQLite file may be written by another process meanwhile, a shared one by
    /// other nodes; what only one process can have open has to be free.
    ///
    /// # Errors
    ///
    /// [`OpenError`] with what to do.
    pub async fn open_log_read_only(self) -> Result<NodeLog, OpenError> {
        let place = Whereabouts::read(&self.data)?.unwrap_or_else(Whereabouts::usual).log;
        if !place.is_database() {
            return self.open_log().await;
        }
        let store = SqliteEventStore::open_read_only(SqliteOptions::new(place.path_in(&self.data))).await?;
        let tail = Arc::clone(store.tail());
        Ok(NodeLog::new(Arc::new(store), place, tail))
    }

    /// Whether the directory has a log.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when the file that says where it is can't be read.
    pub fn has_log(&self) -> Result<bool, OpenError> {
        let place = Whereabouts::read(&self.data)?.unwrap_or_else(Whereabouts::usual).log;
        Ok(!place.is_database() || place.path_in(&self.data).exists())
    }

    /// A tail that finds its log (whichever is opened feeds it, now and after a move), and who opens logs.
    fn parts(&self) -> (Arc<Tail>, Places) {
        let Self { data, storage, durability, ring, .. } = self.clone();
        let tail = Arc::new(Tail::new(Epoch(0), Position::START, ring));
        (tail, Places { data, durability, ring, storage })
    }
}

/// How a node stands to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogAccess {
    /// It has the log itself.
    Own,
    /// It reaches the store node.
    Connected {
        /// The store node's name.
        store_node: String,
    },
    /// It hasn't heard of a store node yet.
    Waiting {
        /// For whom it waits.
        whom: String,
    },
    /// The store node was heard of, but is away: appends are refused, and reads are true up to
    /// `through`.
    Away {
        /// The store node's name.
        store_node: String,
        /// When it was last heard of.
        since: Timestamp,
        /// Up to which position this node knows the log.
        through: Position,
    },
    /// It has the log itself, but another store node has a later epoch of it: appends are refused.
    Superseded {
        /// Why, and what to do.
        reason: String,
    },
}

impl LogAccess {
    /// Whether appends and reads can be expected to work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Own | Self::Connected { .. })
    }
}

impl std::fmt::Display for LogAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own => f.write_str("the log is here"),
            Self::Connected { store_node } => write!(f, "connected to the store node {store_node}"),
            Self::Waiting { whom } => write!(f, "waiting for {whom}"),
            Self::Away { store_node, since, through } => write!(
                f,
                "the store node {store_node} is away since {since:.0}; appends are refused, reads are true up to \
                 position {through}"
            ),
            Self::Superseded { reason } => f.write_str(reason),
        }
    }
}

/// What joins a node with others.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    /// How the node stands to the log.
    fn log_access(&self) -> LogAccess;

    /// The log has moved, and so begun a later epoch. Appends wait until this returns.
    async fn log_moved(&self, head: &Head);

    /// How many subscribers on `events/**` there are that aren't nodes of ours, as far as the link can
    /// tell.
    fn foreign_subscribers(&self) -> u64 {
        0
    }

    /// Says good-bye and ends what belongs to the link. Called once, before the store closes. Says whether what
    /// the network was handed has left this process.
    async fn close(&self) -> bool;
}

/// A store with its bus and the tasks between them. A handle: cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    store: Arc<dyn EventStore>,
    own: Option<NodeLog>,
    mover: Option<Mover>,
    tail: Arc<Tail>,
    bus: Arc<DualEventBus>,
    progress: [Arc<Progress>; 2],
    link: Arc<Mutex<Option<Arc<dyn Link>>>>,
    migration: OnceCell<Migration>,
    streams: Arc<AtomicUsize>,
    stop: CancellationToken,
    tasks: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
}

impl Node {
    /// Opens the log of a data directory and starts its publisher.
    ///
    /// # Errors
    ///
    /// [`OpenError`] with what to do.
    pub async fn open(options: NodeOptions) -> Result<Self, OpenError> {
        std::fs::create_dir_all(&options.data)
            .map_err(|source| OpenError::Io { path: options.data.clone(), source })?;
        let (tail, places) = options.parts();
        let NodeOptions { data, log, bus_capacity, .. } = options;
        let places: Arc<dyn LogPlaces> = Arc::new(places);
        let opened = crate::moving::open(&*places, &data, log, Arc::clone(&tail)).await?;
        let own = opened.log.clone();
        let bus = DualEventBus::new_broadcast(BroadcastBus::new(bus_capacity));
        let (link, stop) = (Arc::default(), CancellationToken::new());
        let told = Arc::new(Told(Arc::clone(&link)));
        let mover = Mover::new(opened, places, data, told, stop.child_token());
        // Read now: a move that is asked for from now on is its own affair.
        let found = mover.whereabouts();
        let store = Arc::new(own.clone());
        let node = Self::start(store, Some((own, mover.clone())), tail, Arc::new(bus), link, stop);
        node.own_task(
            "move of the log",
            tokio::spawn(async move {
                if let Some(Err(error)) = mover.resume(found).await {
                    tracing::warn!(%error, "the log didn't go over");
                }
            }),
        );
        Ok(node)
    }

    /// A node without a log, over a store that talks to a store node. `tail` is that store's.
    #[must_use]
    pub fn edge(store: Arc<dyn EventStore>, tail: Arc<Tail>, bus: Arc<DualEventBus>) -> Self {
        Self::start(store, None, tail, bus, Arc::default(), CancellationToken::new())
    }

    fn start(
        store: Arc<dyn EventStore>,
        own: Option<(NodeLog, Mover)>,
        tail: Arc<Tail>,
        bus: Arc<DualEventBus>,
        link: Arc<Mutex<Option<Arc<dyn Link>>>>,
        stop: CancellationToken,
    ) -> Self {
        let (own, mover) = own.unzip();
        let node = Self(Arc::new(Inner {
            store,
            own,
            mover,
            tail,
            bus,
            progress: Default::default(),
            link,
            migration: OnceCell::new(),
            streams: Arc::default(),
            stop,
            tasks: Mutex::default(),
        }));
        let publishing = node.publishing(Side::Broadcast);
        node.own_task("publisher", tokio::spawn(publishing));
        node
    }

    fn publishing(&self, side: Side) -> impl Future<Output = ()> + Send + 'static {
        let Inner { store, own, bus, progress, stop, .. } = &*self.0;
        let progress = Arc::clone(&progress[side as usize]);
        // What goes no further than this process ends with it: there is nothing to remember.
        let memory = own.as_ref().filter(|_| side == Side::Zenoh).map(Memory::of);
        publish(Arc::clone(store), Arc::clone(bus), side, progress, memory, stop.clone())
    }

    /// Joins the node with others by Zenoh. On a store node this starts the publisher of that side: a
    /// thread of its own, because a congested network blocks it. In a phase of the log's migration that
    /// carries over Zenoh it begins behind what was surely carried before this start.
    pub fn join(&self, zenoh: Arc<dyn EventBus>, link: Arc<dyn Link>) {
        *self.0.link.lock() = Some(link);
        self.0.bus.attach_zenoh(zenoh);
        if self.0.own.is_none() {
            return;
        }
        let publishing = self.publishing(Side::Zenoh);
        let runtime = tokio::runtime::Handle::current();
        let (ended, end) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("ironbus-zenoh-publisher".into());
        let thread = thread.spawn(move || {
            runtime.block_on(publishing);
            drop(ended);
        });
        match thread {
            Ok(_) => self.own_task(
                "Zenoh publisher",
                tokio::spawn(async {
                    // It ends by being dropped.
                    let _ = end.await;
                }),
            ),
            Err(error) => tracing::error!(%error, "the Zenoh publisher can't start: out of threads"),
        }
    }

    /// Starts the controller of the log's migration: the bus goes over to the mode of the phase that the
    /// log is in. Where the node is joined with others, this comes after [`Self::join`]. A node whose
    /// migration was never started stays in the mode that it has.
    ///
    /// # Errors
    ///
    /// [`StartError`], also where this node has no log of its own. The node is not changed then.
    pub async fn start_migration(&self, options: MigrationOptions) -> Result<Migration, StartError> {
        self.0.migration.get_or_try_init(|| self.begin_migration(options)).await.cloned()
    }

    async fn begin_migration(&self, options: MigrationOptions) -> Result<Migration, StartError> {
        let own = self.0.own.clone().ok_or(StartError::NoLog)?;
        let parts = Arc::new(Parts {
            bus: Arc::clone(&self.0.bus),
            progress: self.0.progress.clone(),
            tail: Arc::clone(&self.0.tail),
            link: Arc::clone(&self.0.link),
            streams: Arc::clone(&self.0.streams),
            comparing: Arc::default(),
        });
        let (bus, gauges) = (Arc::clone(&parts), Arc::clone(&parts));
        let (migration, driver) =
            Migration::start(Arc::new(own), bus, gauges, self.0.mover.clone(), options).await?;
        self.own_task("migration", tokio::spawn(driver));
        let (bus, tail) = (Arc::clone(&parts.bus), Arc::clone(&parts.tail));
        let zenoh = Arc::clone(&parts.progress[Side::Zenoh as usize]);
        let comparison = compare(migration.clone(), bus, tail, zenoh, Arc::clone(&parts.comparing));
        let stop = self.stopping();
        self.own_task(
            "comparison of both buses",
            tokio::spawn(async move {
                stop.run_until_cancelled(comparison).await;
            }),
        );
        Ok(migration)
    }

    /// The controller of the log's migration, once it was started.
    #[must_use]
    pub fn migration(&self) -> Option<&Migration> {
        self.0.migration.get()
    }

    /// Counts a stream that a server opens, until what is given back is dropped.
    #[must_use]
    pub fn count_stream(&self) -> OpenStream {
        self.0.streams.fetch_add(1, Ordering::Relaxed);
        OpenStream(Arc::clone(&self.0.streams))
    }

    /// How many streams servers have open on this node.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.0.streams.load(Ordering::Relaxed)
    }

    /// Makes a task one of the node's: it is waited for at [`Self::shutdown`], and told to end by
    /// [`Self::stopping`].
    pub fn own_task(&self, name: &'static str, task: JoinHandle<()>) {
        self.0.tasks.lock().push((name, task));
    }

    /// Cancelled when the node's tasks are to end.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// A handle that doesn't keep the node open.
    #[must_use]
    pub fn downgrade(&self) -> WeakNode {
        WeakNode(Arc::downgrade(&self.0))
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> Arc<dyn EventStore> {
        Arc::clone(&self.0.store)
    }

    /// The log itself, on a store node.
    #[must_use]
    pub fn own_log(&self) -> Option<&NodeLog> {
        self.0.own.as_ref()
    }

    /// The log's file or directory, on a store node whose log has one.
    #[must_use]
    pub fn log_path(&self) -> Option<PathBuf> {
        self.0.own.as_ref().and_then(NodeLog::path)
    }

    /// Who moves the log, on a store node.
    #[must_use]
    pub fn mover(&self) -> Option<&Mover> {
        self.0.mover.as_ref()
    }

    /// How the node stands to the log.
    #[must_use]
    pub fn log_access(&self) -> LogAccess {
        self.0.link.lock().as_ref().map_or(LogAccess::Own, |link| link.log_access())
    }

    /// The end of the log in memory, and how many subscriptions wait on it.
    #[must_use]
    pub fn tail(&self) -> &Arc<Tail> {
        &self.0.tail
    }

    /// The bus, for raw live subscriptions.
    #[must_use]
    pub fn bus(&self) -> &Arc<DualEventBus> {
        &self.0.bus
    }

    /// Up to where a side of the bus has been handed the log.
    #[must_use]
    pub fn progress(&self, side: Side) -> &Progress {
        &self.0.progress[side as usize]
    }

    /// Commits what waits, ends every subscription and every task, and gives the log's file free.
    /// Gives back the names of the tasks that didn't end within `patience`; they are aborted.
    pub async fn shutdown(&self, patience: Duration) -> Vec<&'static str> {
        if let Some(migration) = self.migration() {
            migration.close();
        }
        if let Some(mover) = &self.0.mover {
            // What is under way goes on at the next start.
            mover.close().await;
        }
        let link = self.0.link.lock().clone();
        if let Some(link) = link {
            let carrying = self.0.own.as_ref().and_then(|own| own.current().carrying());
            carrying.iter().for_each(|carrying| carrying.carried.close_begins());
            let left = link.close().await;
            carrying.iter().filter(|_| left).for_each(|carrying| carrying.carried.close_done());
        }
        if let Some(own) = &self.0.own {
            own.close().await;
        }
        self.0.tail.close();
        self.0.stop.cancel();
        let deadline = tokio::time::Instant::now() + patience;
        let tasks = std::mem::take(&mut *self.0.tasks.lock());
        let mut unfinished = Vec::new();
        for (name, mut task) in tasks {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
                unfinished.push(name);
            }
        }
        unfinished
    }
}

/// Tells the link that the log has moved.
struct Told(Arc<Mutex<Option<Arc<dyn Link>>>>);

#[async_trait]
impl Exchanged for Told {
    async fn exchanged(&self, head: &Head) {
        let link = self.0.lock().clone();
        if let Some(link) = link {
            link.log_moved(head).await;
        }
    }
}

/// A stream that is open; it is counted as long as this lives.
#[derive(Debug)]
pub struct OpenStream(Arc<AtomicUsize>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a side may take to begin carrying.
const BEGIN: Duration = Duration::from_secs(5);

/// What of a node its migration needs. Not the node itself, which would then never end.
struct Parts {
    bus: Arc<DualEventBus>,
    progress: [Arc<Progress>; 2],
    tail: Arc<Tail>,
    link: Arc<Mutex<Option<Arc<dyn Link>>>>,
    streams: Arc<AtomicUsize>,
    /// How many raw subscriptions of each side are the comparison's.
    comparing: Arc<AtomicUsize>,
}

#[async_trait]
impl BusSwitch for Parts {
    fn mode(&self) -> EventBusMode {
        self.bus.mode()
    }

    fn has_zenoh(&self) -> bool {
        self.bus.has_zenoh()
    }

    fn listeners(&self, side: Side) -> usize {
        self.bus.listeners_on(side).saturating_sub(self.comparing.load(Ordering::Relaxed))
    }

    async fn set_mode(&self, mode: EventBusMode) -> Result<(), SwitchError> {
        self.bus.set_mode(mode)?;
        for side in [Side::Broadcast, Side::Zenoh].into_iter().filter(|side| mode.carries(*side)) {
            if tokio::time::timeout(BEGIN, self.progress[side as usize].began()).await.is_err() {
                // Its publisher waits for a congested network; it begins once that is over.
                tracing::warn!(%side, "the bus is switched, but one side doesn't carry yet");
            }
        }
        Ok(())
    }
}

impl Gauges for Parts {
    fn head(&self) -> Position {
        self.tail.head()
    }

    fn sse_clients(&self) -> u64 {
        self.streams.load(Ordering::Relaxed) as u64
    }

    fn foreign_subscribers(&self) -> u64 {
        self.link.lock().as_ref().map_or(0, |link| link.foreign_subscribers())
    }
}

/// A handle of a node that doesn't keep it open.
#[derive(Clone)]
pub struct WeakNode(Weak<Inner>);

impl WeakNode {
    /// The node, if it is still there.
    #[must_use]
    pub fn upgrade(&self) -> Option<Node> {
        self.0.upgrade().map(Node)
    }
}

impl std::fmt::Debug for WeakNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WeakNode")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("bus", &self.0.bus).finish_non_exhaustive()
    }
}
