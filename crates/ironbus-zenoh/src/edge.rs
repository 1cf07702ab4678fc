//! An edge node: no database, the same API. It hears events by Zenoh, reads what is missing from the
//! store node, and serves its own subscriptions.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ironbus::bus::{EventBusMode, Side};
use ironbus::event::{Epoch, Position, StoreId};
use ironbus::migration::NodeMeter;
use ironbus::node::{Link, LogAccess};
use ironbus::store::Head;
use ironbus::tail::{Entrance, Follow, FollowOptions, Following, Heartbeat, RingLimits, Signal, Tail};
use ironbus::{BroadcastBus, DualEventBus, Node};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::bus::{Received, ZenohBus};
use crate::heartbeat;
use crate::keys;
use crate::remote::{Patience, RemoteLog, ZenohEventStore};
use crate::store_node::JoinError;
use crate::wire::{from_json, to_json};

/// How an edge node behaves.
#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// Its name, for people.
    pub name: String,
    /// Which log it belongs to; without, that of the first store node it hears.
    pub store_id: Option<StoreId>,
    /// For whom it waits, in words, until it has heard of a store node.
    pub whom: String,
    /// How much of the log's end is kept in memory for live readers.
    pub ring: RingLimits,
    /// How many events the in-process bus holds for its raw listeners.
    pub bus_capacity: usize,
    /// How patient it is with the store node.
    pub patience: Patience,
    /// How patient it is with the bus.
    pub follow: FollowOptions,
}

impl EdgeOptions {
    /// The defaults for a node of this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            store_id: None,
            whom: "a store node".into(),
            ring: RingLimits::default(),
            bus_capacity: 1024,
            patience: Patience::default(),
            follow: FollowOptions::default(),
        }
    }
}

/// How many signals wait for the follower. When as many wait, events are left out (the log gives them),
/// and so are heartbeats (the next one says more).
const SIGNALS: usize = 16_384;

/// What joins an edge node to its store node.
pub struct EdgeNode {
    session: zenoh::Session,
    name: String,
    instance: Uuid,
    store: ZenohEventStore,
    bus: Arc<ZenohBus>,
    known: watch::Receiver<Following>,
    heartbeats: Mutex<Option<zenoh::pubsub::Subscriber<()>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl EdgeNode {
    /// Starts an edge node on a session. It doesn't wait for a store node: it is there at once, and says
    /// by [`Node::log_access`] that it waits.
    ///
    /// # Errors
    ///
    /// [`JoinError`] when Zenoh refuses.
    pub async fn start(
        session: zenoh::Session,
        options: EdgeOptions,
    ) -> Result<(Node, Arc<Self>), JoinError> {
        let tail = Arc::new(Tail::new(Epoch(0), Position::START, options.ring));
        let (signals, heard) = mpsc::channel(SIGNALS);
        let (known, knowing) = watch::channel(Following::default());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let follow = Follow::new(Arc::clone(&tail), known, options.follow);
        let entrance = Entrance::new(Arc::clone(&follow), signals.clone());
        let bus = ZenohBus::of_edge(session.clone(), entrance)?;
        let patience = options.patience;
        let log = Arc::new(RemoteLog::new(
            session.clone(),
            knowing.clone(),
            patience,
            options.whom,
            Arc::clone(&tail),
            stop.clone(),
        ));
        let following = follow.run(heard, Arc::clone(&log) as _);
        tasks.spawn(stop.clone().run_until_cancelled_owned(following));

        let bound = Arc::new(Bound::new(options.store_id, Arc::clone(&bus), signals.clone()));
        let binding = Arc::clone(&bound);
        let subscriber = session
            .declare_subscriber(keys::heartbeat(options.store_id))
            .callback(move |sample| binding.hear(&sample.payload().to_bytes()))
            .await?;
        let asking = bound.find(session.clone(), options.store_id);
        tasks.spawn(stop.clone().run_until_cancelled_owned(asking));

        let store = ZenohEventStore::new(log, Arc::clone(&tail), signals);
        let near = DualEventBus::new_broadcast(BroadcastBus::new(options.bus_capacity));
        let dual = Arc::new(near);
        let node = Node::edge(Arc::new(store.clone()), tail, Arc::clone(&dual));
        let edge = Arc::new(Self {
            session,
            name: options.name.clone(),
            instance: Uuid::new_v4(),
            store,
            bus: Arc::clone(&bus),
            known: knowing.clone(),
            heartbeats: Mutex::new(Some(subscriber)),
            tasks,
            stop,
        });
        node.join(bus, Arc::clone(&edge) as _);
        let switching = follow_mode(dual, knowing);
        edge.tasks.spawn(edge.stop.clone().run_until_cancelled_owned(switching));
        let reporting = report(node.clone(), Arc::clone(&edge), options.name);
        edge.tasks.spawn(edge.stop.clone().run_until_cancelled_owned(reporting));
        Ok((node, edge))
    }

    /// The store of this node.
    #[must_use]
    pub fn store(&self) -> &ZenohEventStore {
        &self.store
    }

    /// Waits until a store node has been heard of. Before that, appends are refused; a program that has something
    /// to append at its start waits for this, or tells whoever asked to come again.
    pub async fn found(&self) {
        let mut known = self.known.clone();
        // An error means that the node is closing, and nothing will be found any more.
        let _ = known.wait_for(|known| known.heartbeat.is_some()).await;
    }

    /// What this node knows of its log, and how events have come.
    #[must_use]
    pub fn following(&self) -> Following {
        self.known.borrow().clone()
    }

    /// What came by Zenoh so far.
    #[must_use]
    pub fn received(&self) -> Received {
        self.bus.received()
    }
}

/// Switches the bus of an edge node to the mode that the store node has.
async fn follow_mode(bus: Arc<DualEventBus>, mut known: watch::Receiver<Following>) {
    let mut last = None;
    loop {
        let mode = known.borrow_and_update().heartbeat.as_ref().map(|(heartbeat, _)| heartbeat.mode);
        if let Some(mode) = mode.filter(|mode| Some(*mode) != last) {
            last = Some(mode);
            if let Err(error) = bus.set_mode(mode) {
                tracing::error!(%error, "an edge node has Zenoh");
            }
        }
        if known.changed().await.is_err() {
            return;
        }
    }
}

/// How often an edge node says how it is.
const REPORT: Duration = Duration::from_secs(1);

/// Tells the store node how events come to this one, once a second.
async fn report(node: Node, edge: Arc<EdgeNode>, name: String) {
    let mut every = tokio::time::interval(REPORT);
    let mut counted = Counted::default();
    loop {
        every.tick().await;
        let following = edge.following();
        let Some((heartbeat, _)) = &following.heartbeat else { continue };
        let clients = u64::try_from(node.open_streams()).unwrap_or(u64::MAX);
        let report = {
            let mut meter = edge.bus.meter().lock();
            counted.count(&mut meter, heartbeat, following.merged.by_log);
            let Some(meter) = &mut *meter else { continue };
            meter.report(name.clone(), clients, std::time::Instant::now())
        };
        let put = edge
            .session
            .put(keys::report(heartbeat.store_id, Some(edge.instance)), to_json(&report))
            .encoding(zenoh::bytes::Encoding::APPLICATION_JSON)
            .attachment(edge.session.zid().to_string())
            // The next one says it anew.
            .congestion_control(zenoh::qos::CongestionControl::Drop);
        if let Err(error) = put.await {
            tracing::debug!(%error, "the store node can't be told how this node is");
        }
    }
}

/// What has been counted of the positions that were read from the log.
#[derive(Default)]
struct Counted {
    /// The mode, and whether Zenoh carries: a store node that was started again makes its listeners wait.
    mode: Option<(EventBusMode, bool)>,
    /// Reports since that changed.
    reports: u32,
    by_log: u64,
}

impl Counted {
    /// Counts what was read from the log since the last report. With every mode, and whenever Zenoh begins to
    /// carry, counting begins anew; what is read in the first second is the way over to it.
    fn count(&mut self, meter: &mut Option<NodeMeter>, heartbeat: &Heartbeat, by_log: u64) {
        let now = std::time::Instant::now();
        let carries = heartbeat.mode.carries(Side::Zenoh) && heartbeat.carried.is_some();
        if self.mode != Some((heartbeat.mode, carries)) {
            *self = Self { mode: Some((heartbeat.mode, carries)), ..Self::default() };
            let window = Duration::from_millis(heartbeat.window_ms);
            *meter = Some(NodeMeter::new(window, heartbeat.window_events, now));
        }
        let read = by_log.saturating_sub(std::mem::replace(&mut self.by_log, by_log));
        self.reports += 1;
        if let Some(meter) = meter
            && self.reports > 2
            && carries
            && read > 0
        {
            meter.read_from_log(read, now);
        }
    }
}

#[async_trait]
impl Link for EdgeNode {
    async fn log_moved(&self, _: &Head) {
        // It has no log that could move.
    }

    fn log_access(&self) -> LogAccess {
        self.store.access()
    }

    async fn close(&self) -> bool {
        drop(self.heartbeats.lock().take());
        let heartbeat = self.following().heartbeat;
        if let Some((heartbeat, _)) = heartbeat {
            let gone = self.session.delete(keys::report(heartbeat.store_id, Some(self.instance)));
            // Who isn't told notices by the silence.
            let _ = gone.attachment(self.name.clone()).await;
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let closed = self.session.close().await;
        if let Err(error) = &closed {
            tracing::debug!(%error, "the Zenoh session could not be closed");
        }
        closed.is_ok()
    }
}

impl std::fmt::Debug for EdgeNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeNode").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Which log the node belongs to: the one it was told, or the first it has heard of.
struct Bound {
    store_id: Mutex<Option<StoreId>>,
    bus: Arc<ZenohBus>,
    signals: mpsc::Sender<Signal>,
    warned: Mutex<Option<StoreId>>,
}

impl Bound {
    fn new(store_id: Option<StoreId>, bus: Arc<ZenohBus>, signals: mpsc::Sender<Signal>) -> Self {
        if let Some(store_id) = store_id {
            bus.take_only(store_id);
        }
        Self { store_id: Mutex::new(store_id), bus, signals, warned: Mutex::default() }
    }

    /// Runs on a thread of Zenoh's and never waits.
    fn hear(&self, bytes: &[u8]) {
        match from_json(bytes) {
            Ok(heartbeat) => self.take(heartbeat),
            Err(error) => tracing::debug!(%error, "what should be a heartbeat isn't one"),
        }
    }

    fn take(&self, heartbeat: Heartbeat) {
        let bound = {
            let mut store_id = self.store_id.lock();
            if store_id.is_none() {
                *store_id = Some(heartbeat.store_id);
                self.bus.take_only(heartbeat.store_id);
                tracing::info!(node = heartbeat.node, store = %heartbeat.store_id.0, "found the store node");
            }
            *store_id
        };
        if bound == Some(heartbeat.store_id) {
            // With the queue full there is much under way, and the next heartbeat says more.
            let _ = self.signals.try_send(Signal::Heartbeat(heartbeat));
        } else if self.warned.lock().replace(heartbeat.store_id) != Some(heartbeat.store_id) {
            tracing::warn!(
                node = heartbeat.node, store = %heartbeat.store_id.0,
                "there is another log on this network; this node stays with the one that it has (--store chooses)"
            );
        }
    }

    /// Asks for store nodes until one is found, so that the next heartbeat needn't be waited for.
    async fn find(self: Arc<Self>, session: zenoh::Session, store_id: Option<StoreId>) {
        let wait = Duration::from_millis(200);
        loop {
            match heartbeat::ask(&session, store_id, Duration::from_secs(1)).await {
                Ok(heard) => heard.into_iter().for_each(|heartbeat| self.take(heartbeat)),
                Err(error) => tracing::debug!(%error, "store nodes can't be asked for"),
            }
            if self.store_id.lock().is_some() {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }
}
