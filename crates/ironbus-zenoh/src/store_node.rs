//! A store node among others: gives its log to them, carries its events over Zenoh while the mode says so,
//! and watches that no other node has the same log.
//!
//! Two processes may come to hold one log: a data directory that was copied, a copy that was promoted
//! while the old node was away. Each hears the other's heartbeat and asks it to make sure that it lives. The
//! one with the lower epoch accepts no more; with equal epochs neither can know whose log is meant, so
//! both stop, until an operator ends one and promotes the other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ironbus::event::{Epoch, StoreId};
use ironbus::node::{Link, LogAccess};
use ironbus::store::{Head, Log};
use ironbus::tail::Heartbeat;
use ironbus::{Node, NodeLog, ReadError};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use zenoh::query::{ConsolidationMode, QueryTarget, Queryable};
use zenoh::sample::{Sample, SampleKind};

use crate::bus::ZenohBus;
use crate::heartbeat::{self, Source};
use crate::keys;
use crate::service::ServiceHost;
use crate::wire::{Origin, from_json};
use crate::writers::Writers;

/// How a store node presents itself.
#[derive(Clone, Debug)]
pub struct StoreNodeOptions {
    /// Its name, for people.
    pub name: String,
}

/// Why a store node can't join others.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The node has no log to give.
    #[error("this node has no log of its own, so it can't be a store node")]
    NoLog,
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Zenoh refused.
    #[error("Zenoh refused: {reason}")]
    Zenoh {
        /// What it said.
        reason: String,
    },
}

impl From<zenoh::Error> for JoinError {
    fn from(error: zenoh::Error) -> Self {
        Self::Zenoh { reason: error.to_string() }
    }
}

/// How long other store nodes are given to say that they live.
const ASK: Duration = Duration::from_millis(500);

/// How often it is made sure that no other node has the log, beside each time one is heard.
const WATCH: Duration = Duration::from_secs(10);

/// What a store node shares with others; ends with [`Link::close`].
pub struct StoreNode {
    session: zenoh::Session,
    own: NodeLog,
    bus: Arc<ZenohBus>,
    source: Arc<Source>,
    rivals: Arc<Rivals>,
    others: Arc<Others>,
    declared: Mutex<Option<Declared>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Dropped, it is undeclared.
struct Declared {
    service: ServiceHost,
    /// What was declared for the epoch before: a question that was on its way when the log moved is answered too.
    before: Option<ServiceHost>,
    _heartbeat: Queryable<()>,
    _rivals: zenoh::pubsub::Subscriber<()>,
    _reports: zenoh::pubsub::Subscriber<()>,
}

impl StoreNode {
    /// Joins a node that has a log to whatever `session` reaches.
    ///
    /// # Errors
    ///
    /// [`JoinError`] when the node has no log, or Zenoh refuses.
    pub async fn join(
        node: &Node,
        session: zenoh::Session,
        options: StoreNodeOptions,
    ) -> Result<Arc<Self>, JoinError> {
        let own = node.own_log().ok_or(JoinError::NoLog)?.clone();
        let head = node.store().head().await?;
        let origin = Origin { store_id: head.store_id, epoch: head.lineage.epoch() };
        let bus = ZenohBus::of_store(session.clone(), origin).await?;
        let source = Arc::new(Source {
            node: node.clone(),
            store_id: head.store_id,
            epochs: RwLock::new(head.lineage.starts().to_vec()),
            name: options.name,
            instance: Uuid::new_v4(),
        });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());

        let epoch = AtomicU64::new(origin.epoch.0);
        let rivals =
            Rivals { instance: source.instance, store_id: origin.store_id, epoch, heard: Notify::new() };
        let rivals = Arc::new(rivals);
        rivals.judge(&session, &own).await;
        let hearing = Arc::clone(&rivals);
        let subscriber = session
            .declare_subscriber(keys::heartbeat(Some(head.store_id)))
            .callback(move |sample| hearing.hear(&sample.payload().to_bytes()))
            .await?;
        let log = reach_others(&own, &session, head.store_id);
        let service = ServiceHost::declare(&session, origin, node.store(), log, &tasks, stop.clone()).await?;
        let answering = heartbeat::answer(&session, Arc::clone(&source)).await?;
        let beating = heartbeat::beat(session.clone(), Arc::clone(&source));
        tasks.spawn(stop.clone().run_until_cancelled_owned(beating));
        let watching = Arc::clone(&rivals).watch(session.clone(), own.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(watching));

        let others = Arc::new(Others::default());
        let (hearing, reported) = (Arc::clone(&others), node.downgrade());
        let reports = session
            .declare_subscriber(keys::report(head.store_id, None))
            .callback(move |sample| {
                if let Some(node) = reported.upgrade() {
                    hearing.report(&node, &sample);
                }
            })
            .await?;
        let counting = Arc::clone(&others).count(session.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(counting));

        let declared =
            Declared { service, before: None, _heartbeat: answering, _rivals: subscriber, _reports: reports };
        let declared = Mutex::new(Some(declared));
        let (sending, rivals) = (Arc::clone(&bus), Arc::clone(&rivals));
        let joined =
            Arc::new(Self { session, own, bus: sending, source, rivals, others, declared, tasks, stop });
        node.join(bus, Arc::clone(&joined) as _);
        Ok(joined)
    }

    /// The bus of this node over Zenoh.
    #[must_use]
    pub fn bus(&self) -> &Arc<ZenohBus> {
        &self.bus
    }

    /// The session that it talks through.
    #[must_use]
    pub fn session(&self) -> &zenoh::Session {
        &self.session
    }
}

#[async_trait]
impl Link for StoreNode {
    fn log_access(&self) -> LogAccess {
        match self.own.superseded() {
            Some(reason) => LogAccess::Superseded { reason },
            None => LogAccess::Own,
        }
    }

    fn foreign_subscribers(&self) -> u64 {
        self.others.foreign.load(Ordering::Relaxed)
    }

    async fn log_moved(&self, head: &Head) {
        let origin = Origin { store_id: head.store_id, epoch: head.lineage.epoch() };
        self.rivals.epoch.store(origin.epoch.0, Ordering::Release);
        self.bus.send_as(origin);
        let store = self.source.node.store();
        let log = reach_others(&self.own, &self.session, head.store_id);
        let stop = self.stop.clone();
        let service = ServiceHost::declare(&self.session, origin, store, log, &self.tasks, stop).await;
        match service {
            Ok(service) => {
                if let Some(declared) = &mut *self.declared.lock() {
                    let before = std::mem::replace(&mut declared.service, service);
                    declared.before = Some(before);
                }
            }
            Err(error) => tracing::error!(%error, "other nodes can't ask for the log in its new epoch"),
        }
        // Told last: who hears of the epoch can ask for it.
        *self.source.epochs.write() = head.lineage.starts().to_vec();
    }

    async fn close(&self) -> bool {
        // No more questions come in; those under way are answered, since the store is still open.
        drop(self.declared.lock().take());
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(Duration::from_secs(2), self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "answers to other nodes were not done in time");
        }
        // Empties its queues first.
        match self.session.close().await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the Zenoh session could not be closed; what it may not have sent is sent again");
                false
            }
        }
    }
}

/// The log in force, which is told how others that write to it are reached.
fn reach_others(own: &NodeLog, session: &zenoh::Session, store_id: StoreId) -> Arc<dyn Log> {
    let log = own.current();
    log.reach_others_by(Arc::new(Writers { session: session.clone(), store_id }));
    log
}

impl std::fmt::Debug for StoreNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreNode").field("own", &self.own).finish_non_exhaustive()
    }
}

/// Who else is there: edge nodes, which say so, and others who listen to events.
#[derive(Default)]
struct Others {
    /// The sessions of edge nodes, and when each was last heard of.
    nodes: Mutex<HashMap<String, Instant>>,
    foreign: AtomicU64,
}

/// How often it is looked at who listens to events.
const LOOK: Duration = Duration::from_secs(5);

impl Others {
    fn report(&self, node: &Node, sample: &Sample) {
        let attached = sample.attachment().map(|text| text.to_bytes().into_owned()).unwrap_or_default();
        let attached = String::from_utf8_lossy(&attached).into_owned();
        let migration = node.migration();
        if sample.kind() == SampleKind::Delete {
            migration.inspect(|migration| migration.node_left(&attached));
            return;
        }
        let mut nodes = self.nodes.lock();
        nodes.retain(|_, heard| heard.elapsed() < 10 * LOOK);
        nodes.insert(attached, Instant::now());
        drop(nodes);
        match from_json(&sample.payload().to_bytes()) {
            Ok(report) => {
                migration.inspect(|migration| migration.node_report(report));
            }
            Err(error) => tracing::debug!(%error, "what should be a node's report isn't one"),
        }
    }

    /// Counts the sessions that subscribe to keys of events and aren't nodes of ours. Known from the admin
    /// space of this session and, where they show theirs, of routers.
    async fn count(self: Arc<Self>, session: zenoh::Session) {
        loop {
            tokio::time::sleep(LOOK).await;
            let asked = session
                .get("@/*/*/subscriber/events/**")
                .target(QueryTarget::All)
                .consolidation(ConsolidationMode::None)
                .timeout(Duration::from_secs(1))
                .with(zenoh::handlers::FifoChannel::new(256));
            let Ok(replies) = asked.await else { continue };
            let mut subscribed = HashSet::new();
            while let Ok(reply) = replies.recv_async().await {
                let Ok(sample) = reply.into_result() else { continue };
                let Ok(sources) = from_json::<Sources>(&sample.payload().to_bytes()) else { continue };
                subscribed.extend(sources.peers.into_iter().chain(sources.clients));
            }
            let own = session.zid().to_string();
            let nodes = self.nodes.lock();
            let foreign = subscribed.iter().filter(|zid| **zid != own && !nodes.contains_key(*zid)).count();
            drop(nodes);
            self.foreign.store(u64::try_from(foreign).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// Where the admin space knows a subscription from.
#[derive(serde::Deserialize)]
struct Sources {
    #[serde(default)]
    peers: Vec<String>,
    #[serde(default)]
    clients: Vec<String>,
}

/// Other store nodes of the same log.
struct Rivals {
    instance: Uuid,
    store_id: StoreId,
    /// The epoch of the log here; a later one begins where the log moves.
    epoch: AtomicU64,
    heard: Notify,
}

/// What follows from another store node of the same log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// This one goes on: the other has a lower epoch and stops.
    GoOn,
    /// This one stops.
    Stop,
}

/// The node with the lower epoch stops; with equal epochs both do.
fn judge(own: Epoch, other: Epoch) -> Verdict {
    if own > other { Verdict::GoOn } else { Verdict::Stop }
}

fn stopped(store_id: StoreId, own: Epoch, other: &Heartbeat, epoch: Epoch) -> String {
    let StoreId(store_id) = store_id;
    if own == epoch {
        format!(
            "the store node `{}` has the same log ({store_id}) in the same epoch {own}, so both have stopped \
             accepting; end one of them, then promote the other (`ironbus promote --data DIR`) and start it again",
            other.node
        )
    } else {
        format!(
            "the store node `{}` has the log {store_id} in epoch {epoch}, this one in epoch {own}; send appends \
             there, and make this node an edge of it, or throw its data away",
            other.node
        )
    }
}

impl Rivals {
    /// A heartbeat came; one of another process wakes the watch.
    fn hear(&self, bytes: &[u8]) {
        if from_json::<Heartbeat>(bytes).is_ok_and(|heartbeat| heartbeat.instance != self.instance) {
            self.heard.notify_one();
        }
    }

    /// Asks who lives, and stops accepting where this node must. A heartbeat alone isn't proof: it may have
    /// been on its way while its sender ended.
    async fn judge(&self, session: &zenoh::Session, own: &NodeLog) {
        let log = own.current();
        if log.is_shared() {
            // Its nodes agree by the log itself; another's heartbeat says that there may be more in it.
            log.hint();
            return;
        }
        let living = match heartbeat::ask(session, Some(self.store_id), ASK).await {
            Ok(living) => living,
            Err(error) => {
                tracing::warn!(%error, "other store nodes can't be asked for");
                return;
            }
        };
        for other in living.iter().filter(|other| other.instance != self.instance) {
            let Some(epoch) = other.lineage().map(|lineage| lineage.epoch()) else { continue };
            // Read after they were asked: the log may have moved meanwhile.
            let here = Epoch(self.epoch.load(Ordering::Acquire));
            let reason = stopped(self.store_id, here, other, epoch);
            match judge(here, epoch) {
                Verdict::GoOn => {
                    tracing::warn!(node = other.node, %epoch, "another node has an older epoch of this log");
                }
                Verdict::Stop if own.superseded().is_none() => {
                    tracing::error!("{reason}");
                    own.supersede(Some(reason));
                }
                Verdict::Stop => {}
            }
        }
    }

    async fn watch(self: Arc<Self>, session: zenoh::Session, own: NodeLog) {
        loop {
            // Whichever comes first: a heartbeat of another, or the time to look.
            let _ = tokio::time::timeout(WATCH, self.heard.notified()).await;
            self.judge(&session, &own).await;
            // Heartbeats come many times a second; once is enough.
            tokio::time::sleep(ASK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_epoch_stops_and_equal_ones_both_do() {
        assert_eq!(judge(Epoch(2), Epoch(1)), Verdict::GoOn);
        assert_eq!(judge(Epoch(1), Epoch(2)), Verdict::Stop);
        assert_eq!(judge(Epoch(2), Epoch(2)), Verdict::Stop);
    }
}
