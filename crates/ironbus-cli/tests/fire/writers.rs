//! Eight writers append the real log through all nodes at once. Each has aggregates of its own, whose exact
//! versions it knows, and repeats what wasn't acknowledged with the same ids, at the next node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ironbus::store::{Appended, Recorded};
use ironbus::{Aggregate, EventId, Json};
use ironbus_testkit::real_log::RealEvent;
use ironbus_testkit::within;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::cluster::{AGAIN, Cluster, NODES};

const WRITERS: usize = 8;

/// The most events that are appended at a time.
const BATCH: usize = 4;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was acknowledged, and what it took.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) acknowledged: Vec<Recorded>,
    pub(crate) batches: Vec<Vec<EventId>>,
    /// How often a batch was sent again.
    pub(crate) retried: u64,
    /// The longest time from the first sending to the acknowledgement.
    pub(crate) slowest: Duration,
}

pub(crate) struct Writers(Vec<JoinHandle<Written>>);

impl Writers {
    /// Appends the whole log once at the least, and on until it is over, so many events in a second.
    pub(crate) fn start(
        cluster: &Arc<Cluster>,
        source: &[RealEvent],
        rate: u32,
        over: &CancellationToken,
    ) -> Self {
        let mut shares = vec![Vec::new(); WRITERS];
        let mut owners = HashMap::new();
        for event in source {
            let next = owners.len() % WRITERS;
            shares[*owners.entry(&event.aggregate).or_insert(next)].push(event.clone());
        }
        let batches = f64::from(rate) / WRITERS as f64 / ((1 + BATCH) as f64 / 2.0);
        let every = Duration::from_secs_f64(1.0 / batches);
        let writers = shares.into_iter().enumerate().map(|(number, share)| {
            // One after the other, so that events come evenly and a pause is seen as one.
            let first = Instant::now() + every.mul_f64(number as f64 / WRITERS as f64);
            let mut pace = tokio::time::interval_at(first, every);
            // What an absent node has held up is made up for.
            pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let writer = Writer {
                cluster: Arc::clone(cluster),
                node: number,
                versions: HashMap::new(),
                http: reqwest::Client::builder().timeout(PATIENCE).build().expect("a client"),
                written: Written::default(),
            };
            tokio::spawn(writer.write(share, pace, over.clone()))
        });
        Self(writers.collect())
    }

    pub(crate) async fn end(self) -> Written {
        let mut all = Written::default();
        for writer in self.0 {
            let written = writer.await.expect("every answer is right");
            all.acknowledged.extend(written.acknowledged);
            all.batches.extend(written.batches);
            all.retried += written.retried;
            all.slowest = all.slowest.max(written.slowest);
        }
        all
    }
}

#[derive(Serialize)]
struct Body<'a> {
    writes: Vec<Write<'a>>,
}

#[derive(Serialize)]
struct Write<'a> {
    aggregate_type: &'a str,
    aggregate_id: &'a str,
    expected_version: u64,
    events: Vec<Event<'a>>,
}

#[derive(Serialize)]
struct Event<'a> {
    event_id: EventId,
    event_type: &'a str,
    payload: &'a Json,
}

struct Writer {
    cluster: Arc<Cluster>,
    /// Where the next append goes; counted round.
    node: usize,
    versions: HashMap<Aggregate, u64>,
    http: reqwest::Client,
    written: Written,
}

impl Writer {
    async fn write(mut self, share: Vec<RealEvent>, mut pace: Interval, over: CancellationToken) -> Written {
        loop {
            let mut left = &share[..];
            while !left.is_empty() {
                pace.tick().await;
                let most = 1 + self.written.batches.len() % BATCH;
                let batch;
                (batch, left) = left.split_at(batch_length(left, most));
                self.append(batch).await;
                if over.is_cancelled() && self.written.acknowledged.len() >= share.len() {
                    return self.written;
                }
            }
        }
    }

    /// Appends a batch, and repeats it until it is acknowledged.
    async fn append(&mut self, batch: &[RealEvent]) {
        let ids: Vec<_> = batch.iter().map(|_| EventId::generate()).collect();
        let body = self.body(batch, &ids);
        let began = Instant::now();
        let appended = within("an append is acknowledged", async {
            loop {
                if let Some(appended) = self.send(&body).await {
                    return appended;
                }
                self.written.retried += 1;
                tokio::time::sleep(AGAIN).await;
            }
        })
        .await;
        self.written.slowest = self.written.slowest.max(began.elapsed());
        let told: Vec<_> = appended.events.iter().map(|event| event.event_id).collect();
        assert_eq!(told, ids, "the answer is about what was sent");
        for (event, recorded) in batch.iter().zip(&appended.events) {
            let version = self.versions.entry(event.aggregate.clone()).or_default();
            *version += 1;
            assert_eq!(recorded.sequence.0, *version, "{:?}", event.aggregate);
        }
        self.written.acknowledged.extend(appended.events);
        self.written.batches.push(ids);
    }

    fn body(&self, batch: &[RealEvent], ids: &[EventId]) -> String {
        let mut writes: Vec<Write<'_>> = Vec::new();
        for (event, event_id) in batch.iter().zip(ids) {
            let (kind, id) = (event.aggregate.aggregate_type(), event.aggregate.aggregate_id());
            if writes.last().is_none_or(|last| (last.aggregate_type, last.aggregate_id) != (kind, id)) {
                let expected_version = self.versions.get(&event.aggregate).copied().unwrap_or_default();
                let events = Vec::new();
                writes.push(Write { aggregate_type: kind, aggregate_id: id, expected_version, events });
            }
            let event = Event { event_id: *event_id, event_type: &event.event_type, payload: &event.payload };
            writes.last_mut().expect("pushed above").events.push(event);
        }
        serde_json::to_string(&Body { writes }).expect("all of it is JSON")
    }

    /// Sends once, to the next node; `None` where whether it was stored isn't known, or that it wasn't.
    async fn send(&mut self, body: &str) -> Option<Appended> {
        let url = format!("{}/v1/events", self.cluster.url(self.node % NODES.len()));
        self.node += 1;
        let request = self.http.post(url).header("content-type", "application/json").body(body.to_owned());
        let response = request.send().await.ok()?;
        let status = response.status();
        let answer = response.bytes().await.ok()?;
        if status == 503 {
            return None;
        }
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&answer));
        Some(serde_json::from_slice(&answer).expect("an answer"))
    }
}

/// How many of the next events make a batch: each aggregate of it stands in one place.
fn batch_length(events: &[RealEvent], most: usize) -> usize {
    let apart = |length: &usize| {
        let (before, event) = (&events[..*length], &events[*length].aggregate);
        before[length - 1].aggregate != *event && before.iter().any(|earlier| earlier.aggregate == *event)
    };
    let most = most.min(events.len());
    (1..most).find(apart).unwrap_or(most)
}
