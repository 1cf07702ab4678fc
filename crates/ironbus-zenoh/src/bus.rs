//! The bus over Zenoh.
//!
//! Out: every event on its documented key as its documented JSON, reliable and with `Block`, so that a
//! congested link holds the publisher up instead of dropping (a put is never an acknowledgement all the
//! same: what a broken link has swallowed is a hole that readers fill from the log).
//!
//! In: one subscriber for the whole node. Its callback runs on a thread of Zenoh's and never waits: it
//! decodes the event, tells this process's raw listeners, and brings it to whoever follows, at once or by a
//! bounded queue; what doesn't fit there is a hole too.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ironbus::bus::{EventBus, EventBusMode, EventSubscription, Listeners, PublishError, Side};
use ironbus::event::{Epoch, Names, StoreId};
use ironbus::key::EventFilter;
use ironbus::migration::NodeMeter;
use ironbus::tail::{Entrance, Signal};
use ironbus::{EventKey, StoredEvent};
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;
use zenoh::Wait;
use zenoh::bytes::Encoding;
use zenoh::qos::{CongestionControl, Reliability};
use zenoh::sample::{Sample, SampleKind};

use crate::keys;
use crate::wire::Origin;

/// An event that is being put, and the bytes that are.
type Sending = (Arc<StoredEvent>, Bytes);

thread_local! {
    /// What this thread is putting just now. Within a process Zenoh calls the subscriber on the thread that
    /// puts, with the same bytes in the same place: these needn't be decoded to know what they say.
    static SENDING: RefCell<Option<Sending>> = const { RefCell::new(None) };
}

/// The event that this thread is putting, if `payload` is those very bytes.
fn sent_here(payload: &[u8]) -> Option<Arc<StoredEvent>> {
    SENDING.with_borrow(|sending| {
        let (event, bytes) = sending.as_ref()?;
        std::ptr::eq(&raw const **bytes, payload).then(|| Arc::clone(event))
    })
}

/// How many events the raw listeners of a node may be behind before they miss some.
const LISTENERS: usize = 4096;

/// The bus over Zenoh.
pub struct ZenohBus {
    session: zenoh::Session,
    /// What this node sends as; `None` on an edge node, which sends no events.
    origin: RwLock<Option<Origin>>,
    receiver: Arc<Receiver>,
    /// Declared, so that Zenoh knows beforehand whom events go to.
    _publisher: Option<zenoh::pubsub::Publisher<'static>>,
    /// Where nobody follows it is there only while somebody listens: Zenoh hands a node what it puts itself,
    /// and that would be in vain.
    subscriber: Mutex<Option<Subscriber>>,
}

type Subscriber = zenoh::pubsub::Subscriber<()>;

/// What a node has received by Zenoh since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Received {
    /// Events of the node's own log.
    pub events: u64,
    /// Events that found the follower's queue full; they were read from the log.
    pub overflowed: u64,
    /// Samples that no store node of this log has sent, and that were passed over.
    pub foreign: u64,
}

struct Receiver {
    listeners: Listeners,
    names: Mutex<Names>,
    /// Which log's events are taken; known at once on a store node, and by the first heartbeat elsewhere.
    store_id: RwLock<Option<StoreId>>,
    /// The latest epoch that an event was sent in; 0 before the first one.
    epoch: AtomicU64,
    follower: Option<Entrance>,
    /// On an edge node: how events come to it.
    meter: Mutex<Option<NodeMeter>>,
    events: AtomicU64,
    overflowed: AtomicU64,
    foreign: AtomicU64,
}

impl ZenohBus {
    /// A bus of its own over a session, for a program that publishes to and listens on Zenoh without a
    /// node. Give it to [`ironbus::DualEventBus::new_zenoh`] or `new_dual`.
    ///
    /// # Errors
    ///
    /// What Zenoh said.
    pub async fn new(session: zenoh::Session) -> Result<Arc<Self>, zenoh::Error> {
        let origin = Origin { store_id: StoreId(Uuid::new_v4()), epoch: Epoch(1) };
        Self::of_store(session, origin).await
    }

    /// The bus of a store node, which sends as `origin`.
    pub(crate) async fn of_store(session: zenoh::Session, origin: Origin) -> Result<Arc<Self>, zenoh::Error> {
        let publisher = session
            .declare_publisher(keys::all_events())
            .congestion_control(CongestionControl::Block)
            .reliability(Reliability::Reliable)
            .await?;
        Self::start(session, Some(origin), Some(publisher), None)
    }

    /// The bus of an edge node, which hands what it hears to a follower.
    pub(crate) fn of_edge(session: zenoh::Session, follower: Entrance) -> Result<Arc<Self>, zenoh::Error> {
        Self::start(session, None, None, Some(follower))
    }

    fn start(
        session: zenoh::Session,
        origin: Option<Origin>,
        publisher: Option<zenoh::pubsub::Publisher<'static>>,
        follower: Option<Entrance>,
    ) -> Result<Arc<Self>, zenoh::Error> {
        let receiver = Arc::new(Receiver {
            listeners: Listeners::new(Side::Zenoh, LISTENERS),
            names: Mutex::default(),
            store_id: RwLock::new(origin.map(|origin| origin.store_id)),
            epoch: AtomicU64::new(0),
            follower,
            meter: Mutex::default(),
            events: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
        });
        let subscriber = match receiver.follower {
            Some(_) => Some(receiver.declare(&session)?),
            None => None,
        };
        let subscriber = Mutex::new(subscriber);
        let origin = RwLock::new(origin);
        Ok(Arc::new(Self { session, origin, receiver, _publisher: publisher, subscriber }))
    }

    /// No subscriber any more, if it is there for listeners alone and the last of them has left.
    fn leave(&self) {
        let mut subscriber = self.subscriber.lock();
        if !self.receiver.listens() {
            *subscriber = None;
        }
    }

    /// From now on this node sends as `origin`.
    pub(crate) fn send_as(&self, origin: Origin) {
        *self.origin.write() = Some(origin);
    }

    /// From now on the events of this log are taken, and no others.
    pub(crate) fn take_only(&self, store_id: StoreId) {
        *self.receiver.store_id.write() = Some(store_id);
    }

    /// The meter of how events come to this node; nothing is measured while there is none.
    pub(crate) fn meter(&self) -> &Mutex<Option<NodeMeter>> {
        &self.receiver.meter
    }

    /// What came by Zenoh so far.
    #[must_use]
    pub fn received(&self) -> Received {
        Received {
            events: self.receiver.events.load(Ordering::Relaxed),
            overflowed: self.receiver.overflowed.load(Ordering::Relaxed),
            foreign: self.receiver.foreign.load(Ordering::Relaxed),
        }
    }
}

impl Receiver {
    /// Whether anybody here wants to know what comes.
    fn listens(&self) -> bool {
        self.follower.is_some() || self.listeners.count() > 0
    }

    fn declare(self: &Arc<Self>, session: &zenoh::Session) -> Result<Subscriber, zenoh::Error> {
        let taking = Arc::clone(self);
        session.declare_subscriber(keys::all_events()).callback(move |sample| taking.take(&sample)).wait()
    }

    fn take(&self, sample: &Sample) {
        if !self.listens() {
            return;
        }
        let Some((origin, event)) = self.decode(sample) else {
            self.foreign.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.events.fetch_add(1, Ordering::Relaxed);
        let latest = self.epoch.fetch_max(origin.epoch.0, Ordering::Relaxed);
        if origin.epoch.0 > latest && latest > 0 {
            // Positions that listeners have heard may come again, for other events.
            self.listeners.end();
        }
        if origin.epoch.0 >= latest && self.listeners.count() > 0 {
            self.listeners.tell(&event);
        }
        if let Some(meter) = &mut *self.meter.lock() {
            // The clocks of two machines may differ; a time before the event's own counts as none.
            let took = Duration::try_from(event.recorded_at.duration_until(Timestamp::now()));
            meter.heard(took.unwrap_or_default(), Instant::now());
        }
        if let Some(follower) = &self.follower
            && follower.bring(Signal::Event(origin.epoch, event)).is_err()
        {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The event of a sample that a store node of this log has sent.
    fn decode(&self, sample: &Sample) -> Option<(Origin, Arc<StoredEvent>)> {
        if sample.kind() != SampleKind::Put {
            return None;
        }
        let (origin, position) = Origin::of_attachment(&sample.attachment()?.to_bytes())?;
        if Some(origin.store_id) != *self.store_id.read() {
            return None;
        }
        let payload = sample.payload().to_bytes();
        let event = match sent_here(&payload) {
            Some(event) => event,
            None => {
                // Shared names only save memory; nobody waits for them.
                let read = match self.names.try_lock() {
                    Some(mut names) => StoredEvent::from_json_among(&payload, &mut names),
                    None => StoredEvent::from_json(&payload),
                };
                Arc::new(read.ok()?)
            }
        };
        (event.position == position).then_some((origin, event))
    }
}

impl EventBus for ZenohBus {
    fn publish_all(&self, events: &[Arc<StoredEvent>]) -> Result<(), PublishError> {
        let failed = |source| PublishError { side: Side::Zenoh, source };
        let origin = *self.origin.read();
        let origin = origin.ok_or_else(|| failed("an edge node publishes no events".into()))?;
        self.leave();
        let last = events.len().saturating_sub(1);
        for (index, event) in events.iter().enumerate() {
            let (key, json) = (EventKey::of(event), event.json());
            if self.receiver.listens() {
                SENDING.set(Some((Arc::clone(event), json.clone())));
            }
            let put = self
                .session
                .put(keys::borrowed(&key), json)
                .encoding(Encoding::APPLICATION_JSON)
                .attachment(origin.attachment(event.position))
                .congestion_control(CongestionControl::Block)
                .reliability(Reliability::Reliable)
                // The last one of a batch takes those before it along at once.
                .express(index == last)
                .wait();
            SENDING.set(None);
            put.map_err(failed)?;
        }
        Ok(())
    }

    // The first one declares a subscriber of the session, which tells its peers: short, but not nothing.
    fn subscribe(&self, filter: EventFilter) -> EventSubscription {
        // Under the lock, so that the subscriber doesn't leave between.
        let mut subscriber = self.subscriber.lock();
        let listening = self.receiver.listeners.add(filter);
        if subscriber.is_none() {
            match self.receiver.declare(&self.session) {
                Ok(declared) => *subscriber = Some(declared),
                Err(error) => {
                    tracing::warn!(%error, "the Zenoh session is closed, so nothing can be listened to");
                    self.receiver.listeners.end();
                }
            }
        }
        listening
    }

    fn mode(&self) -> EventBusMode {
        EventBusMode::Zenoh
    }

    fn listeners(&self) -> usize {
        self.receiver.listeners.count()
    }

    fn end_listeners(&self) {
        self.receiver.listeners.end();
    }
}

impl std::fmt::Debug for ZenohBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZenohBus").field("origin", &*self.origin.read()).finish_non_exhaustive()
    }
}
