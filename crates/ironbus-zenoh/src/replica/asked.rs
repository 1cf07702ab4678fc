//! Asking a replica what it holds, and putting to it what it lacks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use ironbus::{EventKey, StoredEvent};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use zenoh::Wait as _;
use zenoh::bytes::Encoding;
use zenoh::key_expr::OwnedKeyExpr;
use zenoh::qos::{CongestionControl, Reliability};
use zenoh::query::{ConsolidationMode, QueryTarget, Reply, ReplyError, Selector};

use super::{ReplicaError, Storage, Strangers};
use crate::config::ZenohOptions;
use crate::keys;
use crate::wire::Origin;

/// How many keys are asked for at the same time.
const AT_ONCE: usize = 64;

/// How long one question may wait for its answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How long an answer about all keys may pause. A storage reads all of them before it says the first.
const PAUSE: Duration = Duration::from_secs(60);

/// How long an answer about all keys may take.
const ALL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long what was put may take to be there.
const ARRIVAL: Duration = Duration::from_secs(10);

/// How often it is asked whether what was put is there.
const LOOK: Duration = Duration::from_millis(50);

/// What a store node takes for "no events", so that it is silent where a storage, which knows no parameters,
/// answers.
const SILENCE: &str = "limit=0";

/// A storage that is to hold a log's events, reached through a session.
pub struct Replica {
    session: zenoh::Session,
    storage: Storage,
}

impl Replica {
    /// Reaches a storage with events: the one that is called `name`, or whose router is; the only one, where no
    /// name is given. Waits for it until `patience` is over.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`] when it can't be reached, isn't there, or isn't the only one.
    pub async fn reach(
        options: &ZenohOptions,
        name: Option<&str>,
        patience: Duration,
    ) -> Result<Self, ReplicaError> {
        let session = options.open().await?;
        let storage = Storage::find(&session, name, patience).await?;
        Ok(Self { session, storage })
    }

    /// Ends the connection.
    pub async fn close(self) {
        // What was put is waited for already; how the session ends changes nothing.
        if let Err(error) = self.session.close().await {
            tracing::debug!(%error, "the Zenoh session didn't close well");
        }
    }

    /// Which storage it is.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// What it holds at the keys of these events, in their order. What isn't there is asked for a second time: it
    /// may have been on its way, and the end of a connection looks like an answer.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`] when it isn't known what it holds.
    pub async fn fetch(&self, events: &[Arc<StoredEvent>]) -> Result<Vec<Option<Bytes>>, ReplicaError> {
        let mut held = self.ask(events.iter()).await?;
        let lacking: Vec<usize> = (0..events.len()).filter(|&at| held[at].is_none()).collect();
        if !lacking.is_empty() {
            let again = self.ask(lacking.iter().map(|&at| &events[at])).await?;
            for (at, answer) in lacking.into_iter().zip(again) {
                held[at] = answer;
            }
            if !Storage::all(&self.session).await?.contains(&self.storage) {
                return Err(ReplicaError::Away);
            }
        }
        Ok(held)
    }

    async fn ask(
        &self,
        events: impl Iterator<Item = &Arc<StoredEvent>>,
    ) -> Result<Vec<Option<Bytes>>, ReplicaError> {
        // Owned, so that the future doesn't borrow from a closure's argument.
        let events: Vec<Arc<StoredEvent>> = events.cloned().collect();
        let asking = events.into_iter().map(|event| self.ask_one(event));
        futures_util::stream::iter(asking).buffered(AT_ONCE).try_collect().await
    }

    async fn ask_one(&self, event: Arc<StoredEvent>) -> Result<Option<Bytes>, ReplicaError> {
        let key = keys::of_event(&EventKey::of(&event));
        let replies = self
            .session
            .get(Selector::from((key, SILENCE)))
            .target(QueryTarget::All)
            .consolidation(ConsolidationMode::None)
            .timeout(ANSWER)
            .with(zenoh::handlers::FifoChannel::new(16))
            .await?;
        let (mut held, mut late) = (None, false);
        while let Ok(reply) = replies.recv_async().await {
            late |= reply.result().is_err_and(is_timeout);
            let Some(json) = self.answer(&reply) else { continue };
            // Of two storages of one router the one that differs counts.
            if held.is_none() || json != event.json() {
                held = Some(json);
            }
        }
        match held {
            None if late => Err(ReplicaError::Silent { seconds: ANSWER.as_secs() }),
            held => Ok(held),
        }
    }

    /// What the replica itself says in a reply: other storages and store nodes may answer as well. What store
    /// nodes send has an attachment, which storages don't keep.
    fn answer(&self, reply: &Reply) -> Option<Bytes> {
        let sample = reply.result().ok()?;
        let replier = reply.replier_id()?.zid().to_string();
        let sent = sample.attachment().and_then(|bytes| Origin::of_attachment(&bytes.to_bytes()));
        (replier == self.storage.router && sent.is_none())
            .then(|| Bytes::from(sample.payload().to_bytes().into_owned()))
    }

    /// Gives every key that it holds to `strangers`, which must know the log; `held` events of it were found one
    /// by one. The storage reads all of its keys for that, and stores nothing meanwhile.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`] when not all keys were told.
    pub async fn tell_all(&self, strangers: Strangers, held: u64) -> Result<Strangers, ReplicaError> {
        let wanted: OwnedKeyExpr = if self.storage.keeps_all() {
            keys::all_events()
        } else {
            // It may keep what no event's key can be; that isn't ours.
            self.storage.keys.clone()
        };
        let shared = Arc::new(Mutex::new((strangers, false)));
        // The callback keeps the sender: the channel ends with the answer.
        let (progress, mut told) = mpsc::channel::<()>(1);
        let taking = Arc::clone(&shared);
        let router = self.storage.router.clone();
        self.session
            .get(Selector::from((wanted, SILENCE)))
            .target(QueryTarget::All)
            .consolidation(ConsolidationMode::None)
            .timeout(ALL)
            .callback(move |reply| {
                // Full: whoever waits knows already that something came.
                let _ = progress.try_send(());
                let (strangers, late) = &mut *taking.lock();
                *late |= reply.result().is_err_and(is_timeout);
                let of_router = reply.replier_id().is_some_and(|id| id.zid().to_string() == router);
                if let (true, Ok(sample)) = (of_router, reply.result())
                    && sample.attachment().is_none()
                {
                    strangers.take(sample.key_expr().as_str(), &sample.payload().to_bytes());
                }
            })
            .await?;
        loop {
            match tokio::time::timeout(PAUSE, told.recv()).await {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(_) => return Err(ReplicaError::Silent { seconds: PAUSE.as_secs() }),
            }
        }
        let (strangers, late) = std::mem::take(&mut *shared.lock());
        if late {
            return Err(ReplicaError::Silent { seconds: ALL.as_secs() });
        }
        if strangers.told() < held {
            return Err(ReplicaError::CutOff { told: strangers.told(), held });
        }
        Ok(strangers)
    }

    /// Puts events at their keys as their store node did, and waits until they are there; says how many are.
    /// Everybody who listens to them hears them again.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`] when Zenoh refuses, or it isn't known what is there.
    pub async fn put(&self, origin: Origin, events: &[Arc<StoredEvent>]) -> Result<usize, ReplicaError> {
        let (session, sending) = (self.session.clone(), events.to_vec());
        // A congested link holds the sender up: not on one of the runtime's threads.
        let sent = tokio::task::spawn_blocking(move || {
            let last = sending.len().saturating_sub(1);
            for (index, event) in sending.iter().enumerate() {
                session
                    .put(keys::borrowed(&EventKey::of(event)), event.json())
                    .encoding(Encoding::APPLICATION_JSON)
                    .attachment(origin.attachment(event.position))
                    .congestion_control(CongestionControl::Block)
                    .reliability(Reliability::Reliable)
                    .express(index == last)
                    .wait()?;
            }
            Ok::<_, zenoh::Error>(())
        });
        match sent.await {
            Ok(sent) => sent?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
        // A put isn't an acknowledgement.
        let deadline = Instant::now() + ARRIVAL;
        loop {
            let held = self.ask(events.iter()).await?;
            let there = events.iter().zip(&held).filter(|(event, held)| **held == Some(event.json()));
            let there = there.count();
            if there == events.len() || Instant::now() >= deadline {
                return Ok(there);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Whether Zenoh itself says that an answer didn't come in time.
fn is_timeout(error: &ReplyError) -> bool {
    *error.encoding() == Encoding::ZENOH_STRING && *error.payload().to_bytes() == *b"Timeout"
}
