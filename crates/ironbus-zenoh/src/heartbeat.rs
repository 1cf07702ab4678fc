//! Heartbeats: which log there is, where it ends, and how its events travel.
//!
//! A store node says so once a second, and within [`SOON`] after something of it has changed; so the last
//! event of a burst is missed for no longer than that, and where no bus carries events, the log is followed
//! at that pace. It also answers whoever asks for its heartbeat.

use std::sync::Arc;
use std::time::Duration;

use ironbus::Node;
use ironbus::bus::{EventBus as _, Side};
use ironbus::event::StoreId;
use ironbus::store::EpochStart;
use ironbus::tail::Heartbeat;
use parking_lot::RwLock;
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;
use zenoh::Wait;
use zenoh::bytes::Encoding;
use zenoh::qos::{CongestionControl, Priority};
use zenoh::query::{ConsolidationMode, QueryTarget, Queryable};

use crate::keys;
use crate::wire::{from_json, to_json};

/// How often a heartbeat is sent when nothing changes.
const EVERY: Duration = Duration::from_secs(1);

/// How soon after a change one is sent, and so how often at the most.
const SOON: Duration = Duration::from_millis(50);

/// What a store node says of itself, made anew each time.
pub(crate) struct Source {
    pub(crate) node: Node,
    pub(crate) store_id: StoreId,
    pub(crate) epochs: RwLock<Vec<EpochStart>>,
    pub(crate) name: String,
    pub(crate) instance: Uuid,
}

impl Source {
    pub(crate) fn now(&self) -> Heartbeat {
        // Read before the head: what is carried is never beyond it.
        let carried = self.node.progress(Side::Zenoh).carried();
        let parity = self.node.migration().map(|migration| migration.parity_options()).unwrap_or_default();
        Heartbeat {
            store_id: self.store_id,
            epochs: self.epochs.read().clone(),
            head: self.node.tail().head(),
            carried,
            mode: self.node.bus().mode(),
            window_ms: u64::try_from(parity.window.as_millis()).unwrap_or(u64::MAX),
            window_events: parity.min_events,
            node: self.name.clone(),
            instance: self.instance,
        }
    }
}

/// Sends heartbeats without end.
pub(crate) async fn beat(session: zenoh::Session, source: Arc<Source>) {
    let key = keys::heartbeat(Some(source.store_id));
    let mut soon = tokio::time::interval(SOON);
    soon.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last: Option<(Heartbeat, Instant)> = None;
    loop {
        soon.tick().await;
        let now = source.now();
        if last.as_ref().is_some_and(|(said, at)| *said == now && at.elapsed() < EVERY) {
            continue;
        }
        // Of the same priority as events, so that it doesn't overtake those it speaks of; dropped where
        // the link is congested, since the next one says more.
        let put = session
            .put(&key, to_json(&now))
            .encoding(Encoding::APPLICATION_JSON)
            .congestion_control(CongestionControl::Drop)
            .priority(Priority::Data)
            .express(true);
        if let Err(error) = put.await {
            tracing::warn!(%error, "a heartbeat could not be sent");
        }
        last = Some((now, Instant::now()));
    }
}

/// Answers whoever asks for the heartbeat, for as long as it is kept.
pub(crate) async fn answer(
    session: &zenoh::Session,
    source: Arc<Source>,
) -> Result<Queryable<()>, zenoh::Error> {
    let key = keys::heartbeat(Some(source.store_id));
    let reply_key = key.clone();
    session
        .declare_queryable(key)
        .callback(move |query| {
            let reply = query.reply(&reply_key, to_json(&source.now())).encoding(Encoding::APPLICATION_JSON);
            if let Err(error) = reply.wait() {
                tracing::debug!(%error, "a heartbeat could not be given to who asked for it");
            }
        })
        .await
}

/// Asks every store node that can be reached for its heartbeat; those of one log, where one is given.
pub(crate) async fn ask(
    session: &zenoh::Session,
    store_id: Option<StoreId>,
    patience: Duration,
) -> Result<Vec<Heartbeat>, zenoh::Error> {
    let replies = session
        .get(keys::heartbeat(store_id))
        .target(QueryTarget::All)
        .consolidation(ConsolidationMode::None)
        .timeout(patience)
        .with(zenoh::handlers::FifoChannel::new(64))
        .await?;
    let mut heard = Vec::new();
    while let Ok(reply) = replies.recv_async().await {
        let Ok(sample) = reply.into_result() else { continue };
        match from_json(&sample.payload().to_bytes()) {
            Ok(heartbeat) => heard.push(heartbeat),
            Err(error) => tracing::debug!(%error, "an answer isn't a heartbeat"),
        }
    }
    Ok(heard)
}
