//! Feeds the tail of a node that has no log of its own: from a bus, from heartbeats, and from the log
//! where those leave a hole.
//!
//! A bus may lose, repeat and reorder. A hole between events shows by itself; that the *last* events are
//! missing shows by the heartbeat alone, which says where the log ends. What is missing is given a short
//! time to arrive, since it may only be late, and is then read from the log.
//!
//! An event goes through one of two doors ([`Entrance`]). Where few readers wait for it and nobody is at the
//! follower, the thread that the bus brings it on merges it, and tells the readers when it has no more at
//! hand: no queue, no second thread to wake, and readers are woken once for all that came together.
//! Otherwise it waits in the queue of the follower's task. The merge doesn't care through which door an event
//! came, nor in what order.
//!
//! Invariant: what the tail is given is contiguous and is what the log holds in the epoch in force.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::merge::{Merge, Merged};
use super::{Hole, RingLimits, Tail};
use crate::bus::{EventBusMode, Side};
use crate::event::{Epoch, Position, StoreId, StoredEvent};
use crate::key::EventFilter;
use crate::store::{EpochStart, Lineage, LogReader, Page, ReadError};

/// What a store node says of its log: once a second, and soon after its head has moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Which log.
    pub store_id: StoreId,
    /// Its epochs; the last one is in force.
    pub epochs: Vec<EpochStart>,
    /// The last committed position.
    pub head: Position,
    /// The last position that was handed to Zenoh; nothing where Zenoh doesn't carry, or waits after a start for
    /// its listeners to come back.
    pub carried: Option<Position>,
    /// How events travel.
    pub mode: EventBusMode,
    /// Over how many milliseconds nodes compare what the buses bring.
    pub window_ms: u64,
    /// How many events they compare at least: in a quiet log the window reaches further back.
    pub window_events: u64,
    /// The name of the store node.
    pub node: String,
    /// Which start of that node this is: a different one for each process.
    pub instance: uuid::Uuid,
}

impl Heartbeat {
    /// The log's epochs; `None` when what was said makes no sense.
    #[must_use]
    pub fn lineage(&self) -> Option<Lineage> {
        Lineage::new(self.epochs.clone())
    }
}

/// What a follower hears.
#[derive(Clone, Debug)]
pub enum Signal {
    /// An event that the bus brought, and the epoch in which it was sent.
    Event(Epoch, Arc<StoredEvent>),
    /// A heartbeat of the store node.
    Heartbeat(Heartbeat),
    /// The log is known to reach this far in an epoch, because an append was acknowledged to this node.
    Committed(Epoch, Position),
}

/// How patient a follower is.
#[derive(Clone, Copy, Debug)]
pub struct FollowOptions {
    /// How long an event may be late that others, or the heartbeat, say was sent before.
    pub grace: Duration,
    /// How long an event may be late that is committed, but that the store node hasn't sent yet.
    pub lag: Duration,
    /// How much is kept of what came before its turn; the farthest beyond are forgotten and read from the
    /// log in their turn.
    pub room: RingLimits,
    /// How many events are read from the log at a time.
    pub page: usize,
    /// How long to wait after the log couldn't be read.
    pub retry: Duration,
    /// Up to how many readers the bus's own thread tells of an event. With more, the follower's task does.
    pub crowd: usize,
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_millis(20),
            lag: Duration::from_millis(500),
            room: RingLimits::default(),
            page: 1024,
            retry: Duration::from_millis(250),
            crowd: 16,
        }
    }
}

/// What a follower knows of its log.
#[derive(Clone, Debug, Default)]
pub struct Following {
    /// The last heartbeat, and when it came.
    pub heartbeat: Option<(Heartbeat, Instant)>,
    /// How events have come.
    pub merged: Merged,
    /// Why the log couldn't be read when that was last tried; `None` once it could.
    pub unreadable: Option<String>,
}

/// Where a bus brings events to a follower. Never waits.
#[derive(Clone, Debug)]
pub struct Entrance {
    queue: mpsc::Sender<Signal>,
    follow: Option<Arc<Follow>>,
}

/// A follower's queue that is full, or whose follower has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the follower takes no more; what is left out is read from the log")]
pub struct NoRoom;

impl Entrance {
    /// The entrance of a follower that runs on the other end of `queue`.
    #[must_use]
    pub fn new(follow: Arc<Follow>, queue: mpsc::Sender<Signal>) -> Self {
        Self { queue, follow: Some(follow) }
    }

    /// Brings a signal: at once if that is possible, or by the queue.
    ///
    /// # Errors
    ///
    /// [`NoRoom`]: it was left out.
    pub fn bring(&self, signal: Signal) -> Result<(), NoRoom> {
        if self.queue.is_closed() {
            return Err(NoRoom);
        }
        if let (Signal::Event(epoch, event), Some(follow)) = (&signal, &self.follow)
            // Others before it, which it needn't overtake only to wait for them.
            && self.queue.capacity() == self.queue.max_capacity()
            && follow.at_once(*epoch, event)
        {
            return Ok(());
        }
        self.queue.try_send(signal).map_err(|_| NoRoom)
    }

    /// The queue, for who may wait.
    #[must_use]
    pub fn queue(&self) -> &mpsc::Sender<Signal> {
        &self.queue
    }
}

/// The queue alone: everything waits for the follower's task.
impl From<mpsc::Sender<Signal>> for Entrance {
    fn from(queue: mpsc::Sender<Signal>) -> Self {
        Self { queue, follow: None }
    }
}

/// Feeds `tail` with the log that `signals` tell of, reading from `log` what they leave out, until the
/// senders of the signals are gone.
///
/// The tail begins where the first heartbeat says that the log ends.
pub async fn follow(
    signals: mpsc::Receiver<Signal>,
    log: Arc<dyn LogReader>,
    tail: Arc<Tail>,
    known: watch::Sender<Following>,
    options: FollowOptions,
) {
    Follow::new(tail, known, options).run(signals, log).await;
}

/// A follower, which a bus may also bring events to past its queue.
pub struct Follow {
    tail: Arc<Tail>,
    page: usize,
    follower: Mutex<Follower>,
    /// Something is due sooner than the task knows.
    sooner: Notify,
}

impl Follow {
    /// A follower that feeds `tail`. It has still to run.
    #[must_use]
    pub fn new(tail: Arc<Tail>, known: watch::Sender<Following>, options: FollowOptions) -> Arc<Self> {
        let follower = Mutex::new(Follower::new(Arc::clone(&tail), known, options));
        Arc::new(Self { tail, page: options.page, follower, sooner: Notify::new() })
    }

    /// Takes an event on this thread, unless another is at it or there are many readers to tell. They are
    /// told once this thread's task yields, or when there are [`TOGETHER`] to tell of.
    fn at_once(self: &Arc<Self>, epoch: Epoch, event: &Arc<StoredEvent>) -> bool {
        let Some(mut follower) = self.follower.try_lock() else { return false };
        // Events of an epoch that the follower isn't in yet wait behind the heartbeat that tells of it.
        if follower.crowd > follower.options.crowd || epoch != self.tail.epoch() {
            return false;
        }
        follower.heard(Signal::Event(epoch, Arc::clone(event)));
        if follower.out.len() >= TOGETHER {
            self.tell(follower);
        } else if !follower.telling {
            match Handle::try_current() {
                Ok(here) => {
                    follower.telling = true;
                    drop(follower);
                    // The runtime takes what a task of its own spawns up next, on the same thread. Should it
                    // end before, the follower's task tells of it with the next heartbeat.
                    let follow = Arc::clone(self);
                    here.spawn(async move {
                        match follow.follower.try_lock() {
                            Some(follower) => follow.tell(follower),
                            // Somebody is at it, who may have much to tell; the task does it after that.
                            None => follow.sooner.notify_one(),
                        }
                    });
                }
                Err(_) => self.tell(follower),
            }
        }
        true
    }

    /// Tells the readers, and the follower's task where something is due sooner than that knows.
    fn tell(&self, mut follower: MutexGuard<'_, Follower>) {
        follower.publish();
        let due = follower.due();
        let sooner = due.is_some_and(|due| follower.known_due.is_none_or(|known| due < known));
        drop(follower);
        if sooner {
            self.sooner.notify_one();
        }
    }

    /// The follower's task: does what [`follow`] says.
    pub async fn run(self: Arc<Self>, mut signals: mpsc::Receiver<Signal>, log: Arc<dyn LogReader>) {
        let mut reading: Option<Reading> = None;
        let mut heard = Vec::new();
        loop {
            let (mut due, after) = {
                let mut follower = self.follower.lock();
                if follower.telling {
                    follower.publish();
                }
                follower.known_due = follower.due();
                (follower.known_due, follower.merge.head())
            };
            // Here, and not as a branch below: there it would never come to its turn in a flood of signals.
            if reading.is_none() && due.is_some_and(|due| due <= Instant::now()) {
                let (log, limit) = (Arc::clone(&log), self.page);
                reading =
                    Some(Box::pin(async move { log.read(after, &EventFilter::everything(), limit).await }));
            }
            due = due.filter(|_| reading.is_none());
            tokio::select! {
                biased;
                page = next_page(&mut reading) => {
                    reading = None;
                    self.follower.lock().read(page);
                }
                count = signals.recv_many(&mut heard, 512) => {
                    if count == 0 {
                        return;
                    }
                    let epoch = self.tail.epoch();
                    let mut follower = self.follower.lock();
                    heard.drain(..).for_each(|signal| follower.heard(signal));
                    follower.publish();
                    if self.tail.epoch() != epoch {
                        // What it gives may be of the epoch that has ended.
                        reading = None;
                    }
                }
                () = self.sooner.notified() => {}
                () = until(due) => {}
            }
        }
    }
}

impl std::fmt::Debug for Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow").field("tail", &self.tail).finish_non_exhaustive()
    }
}

/// Of how many events readers are told together at the most, where they are told past the queue.
const TOGETHER: usize = 64;

/// How many positions are kept that must have come by some time.
const DUE: usize = 64;

type Reading = Pin<Box<dyn Future<Output = Result<Page, ReadError>> + Send>>;

async fn next_page(reading: &mut Option<Reading>) -> Result<Page, ReadError> {
    match reading {
        Some(reading) => reading.await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

struct Follower {
    tail: Arc<Tail>,
    known: watch::Sender<Following>,
    options: FollowOptions,
    merge: Merge,
    /// Whether a bus brings events here, as the last heartbeat said.
    by_bus: bool,
    out: Vec<Arc<StoredEvent>>,
    /// How many readers were told of an event lately, at the most.
    crowd: usize,
    /// Readers will be told of `out` soon.
    telling: bool,
    /// When the task will look again by itself.
    known_due: Option<Instant>,
    /// By when the log up to these positions must have come. Ascending in both, and short: a position
    /// that isn't due before a greater one is left out.
    due: VecDeque<(Instant, Position)>,
    /// Since when events wait for one that is missing.
    gap: Option<Instant>,
    /// After a failed read: not before then.
    not_before: Option<Instant>,
}

impl Follower {
    fn new(tail: Arc<Tail>, known: watch::Sender<Following>, options: FollowOptions) -> Self {
        let merge = Merge::new(tail.head(), options.room);
        Self {
            tail,
            known,
            options,
            merge,
            by_bus: false,
            out: Vec::new(),
            crowd: 0,
            telling: false,
            known_due: None,
            due: VecDeque::new(),
            gap: None,
            not_before: None,
        }
    }

    /// When the log must be read, if nothing comes until then.
    fn due(&self) -> Option<Instant> {
        let first = self.due.front().map(|(at, _)| *at);
        let gap = self.gap.map(|since| since + self.options.grace);
        let due = first.into_iter().chain(gap).min()?;
        Some(self.not_before.map_or(due, |not_before| due.max(not_before)))
    }

    fn heard(&mut self, signal: Signal) {
        match signal {
            // Of another epoch than the one in force: the heartbeat says how it came to be.
            Signal::Event(epoch, _) if epoch != self.tail.epoch() => {}
            Signal::Event(_, event) => {
                if let Some(event) = self.merge.heard(event) {
                    self.out.push(event);
                    while let Some(event) = self.merge.next_early() {
                        self.out.push(event);
                    }
                }
            }
            Signal::Heartbeat(heartbeat) => self.beat(heartbeat),
            // Of no log that is known, or of what may have been cut off since.
            Signal::Committed(epoch, _) if epoch != self.tail.epoch() => {}
            Signal::Committed(_, position) => {
                let wait = if self.by_bus { self.options.grace } else { Duration::ZERO };
                self.expect(position, Instant::now() + wait);
            }
        }
    }

    fn beat(&mut self, heartbeat: Heartbeat) {
        let Some(lineage) = heartbeat.lineage() else {
            tracing::warn!(node = heartbeat.node, "a heartbeat whose epochs don't ascend is passed over");
            return;
        };
        let now = Instant::now();
        if !self.tail.has_log() {
            self.tail.start_at(lineage.epoch(), heartbeat.head);
            self.merge = Merge::new(heartbeat.head, self.options.room);
        } else if lineage.epoch() > self.tail.epoch() {
            self.publish();
            let kept = lineage.kept_of(self.tail.epoch());
            self.tail.begin_epoch(lineage.epoch(), kept, heartbeat.head);
            self.merge.begin_anew(self.tail.head());
            self.due.clear();
        } else if lineage.epoch() < self.tail.epoch() {
            tracing::debug!(node = heartbeat.node, "a heartbeat of an older epoch is passed over");
            return;
        }
        let carried = heartbeat.carried.filter(|_| heartbeat.mode.carries(Side::Zenoh));
        self.by_bus = carried.is_some();
        match carried {
            Some(carried) => {
                self.expect(carried, now + self.options.grace);
                self.expect(heartbeat.head, now + self.options.lag);
            }
            // No bus brings events here: the log does, at the pace of the heartbeat.
            None => self.expect(heartbeat.head, now),
        }
        self.known.send_modify(|known| known.heartbeat = Some((heartbeat, now)));
    }

    fn expect(&mut self, position: Position, at: Instant) {
        let covered = self.due.iter().any(|(by, through)| *by <= at && *through >= position);
        if covered || position <= self.merge.head() {
            return;
        }
        self.due.retain(|(by, through)| *by < at || *through > position);
        let place = self.due.partition_point(|(_, through)| *through < position);
        self.due.insert(place, (at, position));
        // Heartbeats that come faster than their positions: the next one stands for those between.
        if self.due.len() > DUE {
            self.due.remove(1);
        }
    }

    fn publish(&mut self) {
        let head = self.merge.head();
        while self.due.front().is_some_and(|(_, position)| *position <= head) {
            self.due.pop_front();
        }
        self.gap = if self.merge.misses() {
            self.gap.filter(|_| self.out.is_empty()).or_else(|| Some(Instant::now()))
        } else {
            None
        };
        if !self.out.is_empty() {
            match self.tail.publish(&self.out) {
                // Falls slowly: one event that many want among many that few do is still one too many.
                Ok(told) => self.crowd = told.max(self.crowd - self.crowd.div_ceil(16)),
                Err(Hole { head, first }) => {
                    unreachable!("the merge is contiguous, but {first} came after {head}")
                }
            }
            self.out.clear();
        }
        self.telling = false;
        let merged = self.merge.counts();
        // Told to who asks, but nobody is woken for it: it changes with every event.
        self.known.send_if_modified(|known| {
            known.merged = merged;
            false
        });
    }

    fn read(&mut self, page: Result<Page, ReadError>) {
        match page {
            Ok(page) => {
                let last = page.events.last().map(|event| event.position);
                self.out.extend(self.merge.read(page.events));
                // A log that doesn't hold what was told of it is not asked again at once. One that the
                // bus was faster than has held it.
                let held = last.is_some_and(|last| last <= self.merge.head());
                self.not_before = (!held).then(|| Instant::now() + self.options.retry);
                self.publish();
                self.known.send_if_modified(|known| known.unreadable.take().is_some());
                // More than a page was missing: on at once, while events still come in beside.
                if page.head > self.merge.head() && self.due.is_empty() {
                    self.expect(page.head, Instant::now() + self.options.grace);
                }
            }
            Err(error) => {
                self.not_before = Some(Instant::now() + self.options.retry);
                self.known.send_modify(|known| known.unreadable = Some(error.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn follower() -> Follower {
        let tail = Arc::new(Tail::new(Epoch(1), Position::START, RingLimits::default()));
        Follower::new(tail, watch::Sender::new(Following::default()), FollowOptions::default())
    }

    fn ascending(follower: &Follower) -> bool {
        let due = follower.due.iter().zip(follower.due.iter().skip(1));
        due.clone().all(|((sooner, less), (later, more))| sooner < later && less < more)
    }

    proptest! {
        #[test]
        fn every_position_is_due_when_it_was_said_to_be_or_sooner(
            expected in prop::collection::vec((1..100_u64, 0..1000_u64), 1..=DUE),
        ) {
            let (mut follower, now) = (follower(), Instant::now());
            let expected: Vec<_> = expected
                .iter()
                .map(|(position, at)| (Position(*position), now + Duration::from_millis(*at)))
                .collect();
            for (position, at) in &expected {
                follower.expect(*position, *at);
                prop_assert!(ascending(&follower));
            }
            for (position, at) in expected {
                let covered = follower.due.iter().any(|(by, through)| *by <= at && *through >= position);
                prop_assert!(covered, "{} in {:?}", position, follower.due);
            }
        }
    }

    #[test]
    fn heartbeats_without_end_are_kept_within_bounds_and_none_of_their_positions_is_forgotten() {
        let (mut follower, now) = (follower(), Instant::now());
        for n in 1..=10_000 {
            let at = now + Duration::from_millis(n);
            follower.expect(Position(2 * n), at + follower.options.grace);
            follower.expect(Position(2 * n + 1), at + follower.options.lag);
            assert!(ascending(&follower) && follower.due.len() <= DUE);
        }
        assert_eq!(follower.due.front().map(|(by, _)| *by), Some(now + Duration::from_millis(21)));
        assert_eq!(follower.due.back().map(|(_, through)| *through), Some(Position(20_001)));
    }
}
