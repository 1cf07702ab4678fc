//! The publisher: carries what the log holds to one side of the bus, in position order, while the bus's
//! mode lets that side carry.
//!
//! It is a subscription of its own to everything. So it gets each batch from the writer's hand by way of
//! the tail's ring, without a second read; and when it has fallen out of the ring it reads the log from
//! its last published position. Each side has a publisher of its own, so that a network that is slow or
//! down delays nobody in this process.
//!
//! On the Zenoh side of a store node it remembers in the log's file how far it came, and goes on behind that
//! after a start: what was committed, but had not left the process when it was killed, reaches raw listeners
//! too, at least once and in order. They come back to a node that was started again only after some time, so
//! where there is something to make good it waits for 5 s before it carries on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bus::{DualEventBus, EventBusMode, Side};
use crate::event::Position;
use crate::key::EventFilter;
use crate::moving::NodeLog;
use crate::store::EventStore;
use crate::store::sqlite::carried::{Carried, LINGER};
use crate::subscription::{Delivery, Start, Subscription};

/// How many events are handed to the bus at a time, at the most.
const BATCH: usize = 512;

/// How long whoever listens by Zenoh has to connect again to a node that was started again, before what it
/// may have missed is carried. Zenoh tries again every 4 s at the latest, by its own defaults.
const RETURN: Duration = Duration::from_secs(5);

/// How often a log that was superseded is asked whether it still is. It accepts nothing, so it can wait.
const SUPERSEDED: Duration = Duration::from_secs(1);

/// Up to which position one side of the bus has been handed the log.
#[derive(Debug, Default)]
pub struct Progress(watch::Sender<Stage>);

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    #[default]
    Off,
    /// It is to carry, but gives its listeners time to come back.
    Waiting,
    Carried(Position),
}

impl Progress {
    /// The last position handed over; `None` while the side doesn't carry, or waits for its listeners to come
    /// back after a start.
    #[must_use]
    pub fn carried(&self) -> Option<Position> {
        match *self.0.borrow() {
            Stage::Carried(position) => Some(position),
            Stage::Off | Stage::Waiting => None,
        }
    }

    /// Waits until the side carries, or is about to: what is committed from then on is handed to it.
    pub async fn began(&self) {
        self.reaches(|stage| !matches!(stage, Stage::Off)).await;
    }

    /// Waits until the side was handed everything up to a position.
    pub async fn through(&self, position: Position) {
        self.reaches(|stage| matches!(stage, Stage::Carried(carried) if *carried >= position)).await;
    }

    async fn reaches(&self, stage: impl FnMut(&Stage) -> bool) {
        let reached = self.0.subscribe().wait_for(stage).await.map(drop);
        reached.expect("the sender is here");
    }

    fn set(&self, stage: Stage) {
        self.0.send_replace(stage);
    }
}

/// What a publisher remembers across starts, in the file of its log.
pub(crate) struct Memory {
    log: NodeLog,
    /// Up to where the log was carried before this start; taken when this publisher begins.
    before: Option<Position>,
}

impl Memory {
    pub(crate) fn of(log: &NodeLog) -> Self {
        let before = log.current().carrying().and_then(|carrying| carrying.before);
        Self { log: log.clone(), before }
    }

    /// What the log in force keeps of it; a log of slots keeps nothing.
    fn carried(&self) -> Option<Arc<Carried>> {
        self.log.current().carrying().map(|carrying| carrying.carried)
    }

    /// Somebody begins to carry what comes after a position.
    fn begin_after(&self, after: Position) {
        if let Some(carried) = self.carried() {
            carried.begin(after, Instant::now());
        }
    }

    fn hand(&self, position: Position) {
        if let Some(carried) = self.carried() {
            carried.hand(position, Instant::now());
        }
    }

    fn end(&self) {
        if let Some(carried) = self.carried() {
            carried.end();
        }
    }

    fn keep(&self) {
        if let Some(carrying) = self.log.current().carrying() {
            (carrying.keep)();
        }
    }

    /// Where to begin.
    fn begin(&mut self) -> Start {
        let Some(before) = self.before.take() else { return Start::Live };
        self.begin_after(before);
        Start::After(before)
    }
}

/// Carries every event that is committed while `side` is to carry, until the store closes or `stop` is
/// cancelled; with a memory, also what it hadn't carried before it was started. Blocks its thread while the
/// side does.
pub(crate) async fn publish(
    store: Arc<dyn EventStore>,
    bus: Arc<DualEventBus>,
    side: Side,
    progress: Arc<Progress>,
    mut memory: Option<Memory>,
    stop: CancellationToken,
) {
    let mut mode = bus.watch_mode();
    let run = async {
        while mode.wait_for(|mode| mode.carries(side)).await.is_ok() {
            let start = memory.as_mut().map_or(Start::Live, Memory::begin);
            if let (Start::After(carried), Some(memory)) = (start, &memory)
                && carried < memory.log.tail().head()
            {
                progress.set(Stage::Waiting);
                tracing::info!(after = %carried, "carries on once those who listen by Zenoh had time to connect");
                // They may be anybody, so there is nothing else to wait for. If the mode changes, `carry` ends.
                let changed = mode.wait_for(|mode| !mode.carries(side));
                let _ = tokio::time::timeout(RETURN, changed).await;
            }
            let events = store.subscribe(EventFilter::everything(), start);
            if carry(events, &bus, side, &progress, memory.as_ref(), &mut mode).await.is_none() {
                return;
            }
            progress.set(Stage::Off);
            memory.iter().for_each(Memory::end);
        }
    };
    stop.run_until_cancelled(run).await;
}

/// Carries until the mode changes (`Some`) or the store closes (`None`).
async fn carry(
    mut events: Subscription,
    bus: &DualEventBus,
    side: Side,
    progress: &Progress,
    memory: Option<&Memory>,
    mode: &mut watch::Receiver<EventBusMode>,
) -> Option<()> {
    progress.set(Stage::Carried(events.cursor()));
    if let Some(memory) = memory {
        memory.begin_after(events.cursor());
    }
    let mut idle = false;
    loop {
        let batch = tokio::select! {
            biased;
            _ = mode.wait_for(|mode| !mode.carries(side)) => return Some(()),
            batch = events.next_batch(BATCH) => batch?,
            () = tokio::time::sleep(LINGER), if !idle => {
                // No commit keeps it now.
                memory.iter().for_each(|memory| memory.keep());
                idle = true;
                continue;
            }
        };
        idle = false;
        match batch {
            Ok(deliveries) => {
                if deliveries.iter().any(|delivery| matches!(delivery, Delivery::Reset(_))) {
                    // Another history: what is live begins anew, the past isn't news. Listeners end, because
                    // they pass over positions that they have heard, and these come again.
                    bus.end_listeners_on(side);
                    return Some(());
                }
                let batch: Vec<_> = deliveries.into_iter().filter_map(Delivery::into_event).collect();
                // Whose log it is now has other events at these positions, and carries them itself.
                while memory.is_some_and(|memory| memory.log.superseded().is_some()) {
                    let changed = mode.wait_for(|mode| !mode.carries(side));
                    if tokio::time::timeout(SUPERSEDED, changed).await.is_ok() {
                        return Some(());
                    }
                }
                match bus.publish_on(side, &batch) {
                    // Where it goes well again, what went before it and didn't is past: a bus may lose.
                    Ok(()) => memory.iter().for_each(|memory| memory.hand(events.cursor())),
                    // It isn't remembered as carried; killed now, the next start carries it.
                    Err(error) => {
                        tracing::warn!(%error, "subscriptions get from the log what the bus couldn't carry");
                    }
                }
                progress.set(Stage::Carried(events.cursor()));
            }
            Err(error) => {
                tracing::warn!(%error, "the publisher can't read the log; trying again in a second");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}
