//! The store of a node that has no log: it asks the store node.
//!
//! Every append carries its event ids, so that it may be sent again: a time-out means *unknown*, and the
//! retry with the same ids returns the first result. What a caller is told is one of three things: the
//! answer; that nothing was written, because the store node was known to be away; or that the outcome is
//! unknown, when a request went out and no answer came back in time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ironbus::event::{Aggregate, Epoch, EventId, Position, Sequence, StoredEvent};
use ironbus::key::EventFilter;
use ironbus::node::LogAccess;
use ironbus::store::{
    AggregatePage, Append, AppendError, Appended, EventStore, Head, LogReader, Page, ReadError,
};
use ironbus::subscription::{Start, Subscription};
use ironbus::tail::{Following, Heartbeat, Signal, Tail};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zenoh::bytes::ZBytes;
use zenoh::qos::CongestionControl;
use zenoh::query::{ConsolidationMode, QueryTarget};
use zenoh::sample::Sample;

use crate::keys::{self, Service};
use crate::wire::{
    AppendRequest, HeadAnswer, LoadEnd, LoadRequest, Malformed, PageEnd, ReadRequest, Refusal, from_json,
    to_json, unpack,
};

/// How patient a node without a log is with the store node.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long one question may take before it is asked again.
    pub answer: Duration,
    /// How long a caller waits altogether before it is told that there is no answer.
    pub caller: Duration,
    /// How long the store node may be silent before it counts as away.
    pub silence: Duration,
    /// How long an acknowledged append is waited for in this node's own tail, so that whoever appended
    /// here also reads it here. Only the acknowledgement is late when it takes longer.
    pub own_write: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(2),
            caller: Duration::from_secs(5),
            silence: Duration::from_secs(3),
            own_write: Duration::from_secs(1),
        }
    }
}

/// How long to wait before a question is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// The log of a store node, asked over Zenoh.
pub(crate) struct RemoteLog {
    session: zenoh::Session,
    known: watch::Receiver<Following>,
    patience: Patience,
    /// For whom the node waits, in words, while it hasn't heard of a store node.
    whom: String,
    /// What this node knows of the log.
    tail: Arc<Tail>,
    /// Cancelled when the node closes: nothing is asked any more.
    closed: CancellationToken,
}

/// Why a question has no answer.
enum NoAnswer {
    /// The store node is away; the question wasn't sent.
    NotSent,
    /// It was sent, and no answer came.
    Silence,
    /// The store node said no.
    Refused(Refusal),
    /// The answer can't be understood.
    Malformed(Malformed),
}

impl From<Malformed> for NoAnswer {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl RemoteLog {
    pub(crate) fn new(
        session: zenoh::Session,
        known: watch::Receiver<Following>,
        patience: Patience,
        whom: String,
        tail: Arc<Tail>,
        closed: CancellationToken,
    ) -> Self {
        Self { session, known, patience, whom, tail, closed }
    }

    /// The last heartbeat, if it is recent.
    fn present(&self) -> Option<Heartbeat> {
        let known = self.known.borrow();
        let (heartbeat, at) = known.heartbeat.as_ref()?;
        (at.elapsed() < self.patience.silence).then(|| heartbeat.clone())
    }

    pub(crate) fn access(&self) -> LogAccess {
        let known = self.known.borrow();
        match &known.heartbeat {
            None => LogAccess::Waiting { whom: self.whom.clone() },
            Some((heartbeat, at)) if at.elapsed() < self.patience.silence => {
                LogAccess::Connected { store_node: heartbeat.node.clone() }
            }
            Some((heartbeat, at)) => LogAccess::Away {
                store_node: heartbeat.node.clone(),
                since: Timestamp::now() - at.elapsed(),
                through: self.tail.head(),
            },
        }
    }

    /// Asks once.
    async fn ask(&self, service: Service, body: Vec<u8>, patience: Duration) -> Result<Sample, NoAnswer> {
        let Some(heartbeat) = self.present() else { return Err(NoAnswer::NotSent) };
        // That of this node's readers. What is heard of a later one may be known before or after they are
        // told, and an older one may still have a store node that answers.
        let epoch = self.tail.epoch();
        let (answer, answered) = tokio::sync::oneshot::channel();
        let mut answer = Some(answer);
        let asked = self
            .session
            .get(keys::service(heartbeat.store_id, epoch, service))
            .payload(body)
            .target(QueryTarget::BestMatching)
            .consolidation(ConsolidationMode::None)
            .congestion_control(CongestionControl::Block)
            .express(true)
            .timeout(patience)
            .callback_mut(move |reply| {
                if let Some(answer) = answer.take() {
                    // Who asked may have stopped waiting.
                    let _ = answer.send(reply);
                }
            });
        if let Err(error) = asked.await {
            tracing::debug!(%error, "a question could not be sent");
            return Err(NoAnswer::NotSent);
        }
        // Dropped without a reply where no store node is reached, or its link breaks.
        let Ok(reply) = answered.await else { return Err(NoAnswer::Silence) };
        match reply.into_result() {
            Ok(sample) => Ok(sample),
            // Zenoh tells a time-out as a text of its own.
            Err(error) => match from_json::<Refusal>(&error.payload().to_bytes()) {
                Ok(refusal) => Err(NoAnswer::Refused(refusal)),
                Err(_) => Err(NoAnswer::Silence),
            },
        }
    }

    fn away(&self) -> String {
        self.access().to_string()
    }

    async fn append(&self, append: &Append) -> Result<Appended, AppendError> {
        let body = to_json(&AppendRequest::of(append));
        let deadline = Instant::now() + self.patience.caller;
        let mut sent = false;
        loop {
            // Where a request is out, its outcome is waited for all the same.
            if !sent && self.closed.is_cancelled() {
                return Err(AppendError::Closed);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let said = match self.ask(Service::Append, body.clone(), left.min(self.patience.answer)).await {
                Ok(sample) => {
                    return from_json(&sample.payload().to_bytes())
                        .map_err(|error| AppendError::Unknown(error.into()));
                }
                Err(NoAnswer::Refused(refusal)) => match refusal.of_append() {
                    Some(error) => return Err(error),
                    None => "it is busy".to_owned(),
                },
                Err(NoAnswer::Malformed(error)) => return Err(AppendError::Unknown(error.into())),
                Err(NoAnswer::NotSent) => self.away(),
                Err(NoAnswer::Silence) => {
                    sent = true;
                    "it doesn't answer".to_owned()
                }
            };
            if Instant::now() + AGAIN >= deadline {
                let reason = format!("{said} (waited {:.1} s)", self.patience.caller.as_secs_f32());
                return Err(if sent {
                    AppendError::Unknown(reason.into())
                } else {
                    AppendError::Unavailable { reason }
                });
            }
            // Known to be away: whoever waits is told at once, unless an answer is still owed.
            if !sent && self.present().is_none() {
                return Err(AppendError::Unavailable { reason: said });
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Asks what may be asked again, until there is an answer or the caller's patience ends.
    async fn ask_again<T>(
        &self,
        service: Service,
        body: Vec<u8>,
        understand: impl Fn(&Sample) -> Result<T, Malformed>,
    ) -> Result<T, ReadError> {
        let deadline = Instant::now() + self.patience.caller;
        loop {
            if self.closed.is_cancelled() {
                return Err(ReadError::Closed);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let answered = self.ask(service, body.clone(), left.min(self.patience.answer)).await;
            let said = match answered.and_then(|sample| Ok(understand(&sample)?)) {
                Ok(answer) => return Ok(answer),
                Err(NoAnswer::Refused(refusal)) => match refusal.of_read() {
                    Some(error) => return Err(error),
                    None => "the store node is busy".to_owned(),
                },
                Err(NoAnswer::Malformed(error)) => return Err(ReadError::Storage(error.into())),
                Err(NoAnswer::NotSent) => {
                    let reason = self.away();
                    return Err(ReadError::Unavailable { reason });
                }
                Err(NoAnswer::Silence) => "the store node doesn't answer".to_owned(),
            };
            if Instant::now() + AGAIN >= deadline {
                return Err(ReadError::Unavailable { reason: said });
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn end_of(sample: &Sample) -> ZBytes {
    sample.attachment().cloned().unwrap_or_default()
}

#[async_trait]
impl LogReader for RemoteLog {
    async fn read(&self, after: Position, filter: &EventFilter, limit: usize) -> Result<Page, ReadError> {
        let body = to_json(&ReadRequest::new(after, filter, limit));
        self.ask_again(Service::Read, body, |sample| {
            let PageEnd { through, head } = from_json(&end_of(sample).to_bytes())?;
            Ok(Page { events: unpack(&sample.payload().to_bytes())?, through, head })
        })
        .await
    }
}

/// The event store of a node that has no log: appends, loads and reads through Zenoh, and serves
/// subscriptions from this node's own tail. A handle: cheap to clone.
///
/// An acknowledged append is in this node's tail, unless the bus and the log take longer than
/// [`Patience::own_write`].
#[derive(Clone)]
pub struct ZenohEventStore {
    log: Arc<RemoteLog>,
    tail: Arc<Tail>,
    follower: mpsc::Sender<Signal>,
}

impl ZenohEventStore {
    pub(crate) fn new(log: Arc<RemoteLog>, tail: Arc<Tail>, follower: mpsc::Sender<Signal>) -> Self {
        Self { log, tail, follower }
    }

    /// The end of the log as this node knows it.
    #[must_use]
    pub fn tail(&self) -> &Arc<Tail> {
        &self.tail
    }

    /// How this node stands to the log.
    #[must_use]
    pub fn access(&self) -> LogAccess {
        self.log.access()
    }

    /// Waits until this node's tail has what was appended here.
    async fn see_own(&self, epoch: Epoch, appended: Position) {
        if self.tail.head() >= appended {
            return;
        }
        // The bus may bring it first. Where it doesn't, the follower now knows what to ask for; with its
        // queue full there is much under way already.
        let _ = self.follower.try_send(Signal::Committed(epoch, appended));
        let seen = self.tail.reached(appended);
        if tokio::time::timeout(self.log.patience.own_write, seen).await.is_err() {
            tracing::debug!(position = %appended, "an append made here takes long to come back");
        }
    }
}

#[async_trait]
impl EventStore for ZenohEventStore {
    async fn append(&self, mut append: Append) -> Result<Appended, AppendError> {
        append.check()?;
        // Given here, so that every retry on the way is one.
        for event in append.writes.iter_mut().flat_map(|write| &mut write.events) {
            event.event_id.get_or_insert_with(EventId::generate);
        }
        let epoch = self.tail.epoch();
        let appended = self.log.append(&append).await?;
        self.see_own(epoch, appended.head).await;
        Ok(appended)
    }

    async fn load(
        &self,
        aggregate: &Aggregate,
        after: Sequence,
        limit: usize,
    ) -> Result<AggregatePage, ReadError> {
        let mut events: Vec<Arc<StoredEvent>> = Vec::new();
        let mut epoch = self.tail.epoch();
        loop {
            let after = events.last().map_or(after, |last| last.sequence);
            let request = LoadRequest {
                aggregate_type: aggregate.aggregate_type().to_owned(),
                aggregate_id: aggregate.aggregate_id().to_owned(),
                after,
                limit: limit - events.len(),
            };
            let answer = self.log.ask_again(Service::Load, to_json(&request), |sample| {
                let LoadEnd { version } = from_json(&end_of(sample).to_bytes())?;
                Ok((unpack(&sample.payload().to_bytes())?, version))
            });
            let (page, version) = answer.await?;
            // The log went over to a later epoch meanwhile: what came before may not be of its history.
            if std::mem::replace(&mut epoch, self.tail.epoch()) != epoch {
                events.clear();
                continue;
            }
            let done = page.is_empty();
            events.extend(page);
            // A reply holds only so many bytes; what is left is asked for.
            let last = events.last().map_or(after, |last| last.sequence);
            if done || events.len() >= limit || last >= version {
                return Ok(AggregatePage { events, version });
            }
        }
    }

    async fn read(&self, after: Position, filter: &EventFilter, limit: usize) -> Result<Page, ReadError> {
        LogReader::read(&*self.log, after, filter, limit).await
    }

    async fn head(&self) -> Result<Head, ReadError> {
        let asked = self.log.ask_again(Service::Head, Vec::new(), |sample| {
            from_json::<HeadAnswer>(&sample.payload().to_bytes())?.into_head()
        });
        asked.await
    }

    fn subscribe(&self, filter: EventFilter, start: Start) -> Subscription {
        Subscription::new(Arc::new(self.clone()), Arc::clone(&self.tail), filter, start)
    }
}

impl std::fmt::Debug for ZenohEventStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZenohEventStore").field("head", &self.tail.head()).finish_non_exhaustive()
    }
}
