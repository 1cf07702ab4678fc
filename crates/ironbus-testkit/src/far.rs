//! A store node as nodes without a log see it: by heartbeats, and by reads that take time and may fail.
//!
//! Its log goes over to later epochs, which may have kept only its beginning. As with the real one, a
//! question is put to the epoch that the asking node's tail is in, and nobody of another epoch answers
//! it; but an answer that is on its way may arrive after that epoch has ended.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use ironbus::bus::EventBusMode;
use ironbus::event::{Aggregate, Epoch, Position, Sequence, StoreId, StoredEvent};
use ironbus::key::EventFilter;
use ironbus::store::{
    AggregatePage, Append, AppendError, Appended, EpochStart, EventStore, Head, Lineage, Page, ReadError,
};
use ironbus::subscription::{Start, Subscription};
use ironbus::tail::{Heartbeat, Tail};
use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::model::ModelLog;

/// How the far log answers.
#[derive(Clone, Debug)]
pub struct Answers {
    /// The share of questions that fail.
    pub failing: f64,
    /// How long a question is on its way, and again its answer: something between these.
    pub slow: RangeInclusive<Duration>,
    /// How many events a page holds at the most.
    pub page: usize,
}

impl Answers {
    /// At once and in full.
    pub const PROMPT: Self = Self { failing: 0.0, slow: Duration::ZERO..=Duration::ZERO, page: usize::MAX };
}

/// The store node. A handle: cheap to clone.
#[derive(Clone, Debug)]
pub struct FarStore(Arc<Mutex<Far>>);

#[derive(Debug)]
struct Far {
    log: ModelLog,
    epochs: Vec<EpochStart>,
    former: Vec<Vec<Arc<StoredEvent>>>,
    rng: Rng,
    answers: Answers,
    asked: Vec<Instant>,
}

impl FarStore {
    /// An empty log in epoch 1; how long and whether its answers take follows the seed.
    #[must_use]
    pub fn new(seed: u64, answers: Answers) -> Self {
        Self(Arc::new(Mutex::new(Far {
            log: ModelLog::default(),
            epochs: vec![EpochStart { epoch: Epoch(1), after: Position::START }],
            former: Vec::new(),
            rng: Rng::with_seed(seed),
            answers,
            asked: Vec::new(),
        })))
    }

    /// How it answers from now on.
    pub fn set_answers(&self, answers: Answers) {
        self.0.lock().answers = answers;
    }

    /// Commits an append.
    ///
    /// # Panics
    ///
    /// If the append is refused: tests of followers append what can be appended.
    pub fn commit(&self, append: &Append) {
        self.0.lock().log.append(append).expect("the test appends what can be appended");
    }

    /// Begins a new epoch with the events up to `kept`: all of them, or a copy of the log was promoted
    /// that had only those.
    pub fn promote(&self, kept: Position) {
        let mut far = self.0.lock();
        let former = far.log.events().to_vec();
        far.former.push(former);
        far.log.keep(kept);
        let epoch = Epoch(far.epochs.last().map_or(1, |last| last.epoch.0 + 1));
        // A copy that was made before an epoch began has never heard of it.
        far.epochs.retain(|start| start.epoch == Epoch(1) || start.after <= kept);
        let after = far.head();
        far.epochs.push(EpochStart { epoch, after });
    }

    /// The log as it is.
    #[must_use]
    pub fn events(&self) -> Vec<Arc<StoredEvent>> {
        self.0.lock().log.events().to_vec()
    }

    /// The log as it was at the end of each epoch before the one in force.
    #[must_use]
    pub fn former(&self) -> Vec<Vec<Arc<StoredEvent>>> {
        self.0.lock().former.clone()
    }

    /// The last position.
    #[must_use]
    pub fn head(&self) -> Position {
        self.0.lock().head()
    }

    /// The log's epochs.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        self.0.lock().lineage()
    }

    /// What it says of itself, having handed its events to Zenoh up to `carried`.
    #[must_use]
    pub fn heartbeat(&self, carried: Option<Position>) -> Heartbeat {
        let far = self.0.lock();
        Heartbeat {
            window_ms: 30_000,
            window_events: 100,
            store_id: StoreId(Uuid::nil()),
            epochs: far.epochs.clone(),
            head: far.head(),
            carried,
            mode: if carried.is_some() { EventBusMode::Dual } else { EventBusMode::Broadcast },
            node: "far".into(),
            instance: Uuid::nil(),
        }
    }

    /// When it was asked to read, each time.
    #[must_use]
    pub fn asked(&self) -> Vec<Instant> {
        self.0.lock().asked.clone()
    }

    /// The same log as a node with this tail reaches it.
    #[must_use]
    pub fn seen_from(&self, tail: &Arc<Tail>) -> Reached {
        Reached { far: self.clone(), tail: Arc::clone(tail) }
    }
}

impl Far {
    fn head(&self) -> Position {
        Position(self.log.events().len() as u64)
    }

    fn lineage(&self) -> Lineage {
        Lineage::new(self.epochs.clone()).expect("later epochs begin later")
    }

    fn page(&self, after: Position, filter: &EventFilter, limit: usize) -> Page {
        let head = self.head();
        let limit = limit.min(self.answers.page).max(1);
        let later = self.log.events().iter().filter(|event| event.position > after);
        let events: Vec<_> = later.filter(|event| filter.matches(event)).take(limit).cloned().collect();
        let through = match events.last() {
            Some(last) if events.len() == limit => last.position,
            _ => head.max(after),
        };
        Page { events, through, head }
    }
}

/// A [`FarStore`] as one node reaches it. A handle: cheap to clone.
#[derive(Clone, Debug)]
pub struct Reached {
    far: FarStore,
    tail: Arc<Tail>,
}

impl Reached {
    async fn ask<T>(&self, look: impl FnOnce(&Far) -> T) -> Result<T, ReadError> {
        let epoch = self.tail.epoch();
        let (fails, there, back) = {
            let Far { rng, answers, .. } = &mut *self.far.0.lock();
            let (least, most) = answers.slow.clone().into_inner();
            let mut way = || least + (most - least).mul_f64(if rng.bool() { rng.f64() } else { 0.0 });
            let (there, back) = (way(), way());
            (rng.f64() < answers.failing, there, back)
        };
        pass(there).await;
        let answer = {
            let far = self.far.0.lock();
            let unavailable = |reason: &str| ReadError::Unavailable { reason: reason.into() };
            if fails {
                Err(unavailable("the test says so"))
            } else if far.lineage().epoch() != epoch {
                Err(unavailable("nobody of this epoch answers"))
            } else {
                Ok(look(&far))
            }
        };
        pass(back).await;
        answer
    }
}

async fn pass(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

#[async_trait]
impl EventStore for Reached {
    async fn append(&self, _: Append) -> Result<Appended, AppendError> {
        Err(AppendError::ReadOnly)
    }

    async fn load(
        &self,
        aggregate: &Aggregate,
        after: Sequence,
        limit: usize,
    ) -> Result<AggregatePage, ReadError> {
        self.ask(|far| {
            let of = far.log.events().iter().filter(|event| event.aggregate == *aggregate);
            let events = of.filter(|event| event.sequence > after).take(limit).cloned().collect();
            AggregatePage { events, version: far.log.version(aggregate) }
        })
        .await
    }

    async fn read(&self, after: Position, filter: &EventFilter, limit: usize) -> Result<Page, ReadError> {
        self.far.0.lock().asked.push(Instant::now());
        self.ask(|far| far.page(after, filter, limit)).await
    }

    async fn head(&self) -> Result<Head, ReadError> {
        self.ask(|far| Head {
            store_id: StoreId(Uuid::nil()),
            lineage: far.lineage(),
            earliest: Position(1),
            position: far.head(),
        })
        .await
    }

    fn subscribe(&self, filter: EventFilter, start: Start) -> Subscription {
        Subscription::new(Arc::new(self.clone()), Arc::clone(&self.tail), filter, start)
    }
}
