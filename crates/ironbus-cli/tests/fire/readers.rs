//! The subscriptions: SSE clients of the three processes, and Rust streams of the node in this one.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ironbus::{Delivery, EventFilter, Node, Position, Start, StoredEvent};
use ironbus_testkit::real_log::RealEvent;
use ironbus_testkit::within;
use tokio::task::JoinHandle;

use crate::cluster::{AGAIN, Cluster, NODES};
use crate::sse::{self, Known};
use crate::{HERE, places};

/// One subscription and what it got.
pub(crate) struct Subscription {
    pub(crate) place: &'static str,
    pub(crate) pattern: String,
    got: Mutex<Got>,
}

#[derive(Default)]
pub(crate) struct Got {
    pub(crate) events: Vec<Arc<StoredEvent>>,
    /// When each of them came.
    pub(crate) at: Vec<Instant>,
    /// How often it connected again, or read the log again.
    pub(crate) again: u64,
    /// What may never happen to a subscription, and did.
    pub(crate) faults: Vec<String>,
}

impl Subscription {
    pub(crate) fn filter(&self) -> EventFilter {
        EventFilter::public(self.pattern.parse().expect("a valid pattern"))
    }

    pub(crate) fn take(&self, event: Arc<StoredEvent>) {
        let mut got = self.got();
        got.events.push(event);
        got.at.push(Instant::now());
    }

    pub(crate) fn again(&self) {
        self.got().again += 1;
    }

    pub(crate) fn fault(&self, what: String) {
        self.got().faults.push(what);
    }

    pub(crate) fn got(&self) -> MutexGuard<'_, Got> {
        self.got.lock().expect("not poisoned")
    }

    /// Whether it has got everything that matches up to this position.
    fn has_all(&self, last: Position) -> bool {
        self.got().events.last().map_or(Position::START, |event| event.position) >= last
    }
}

pub(crate) struct Readers {
    subscriptions: Vec<Arc<Subscription>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Spreads subscriptions over all nodes; each begins with the first event. A quarter joins late, so that
    /// replay goes over into live events in the midst of the fire.
    pub(crate) fn start(
        cluster: &Cluster,
        source: &[RealEvent],
        count: usize,
        chance: &mut fastrand::Rng,
    ) -> Self {
        let (known, http) = (Arc::new(Known::default()), reqwest::Client::new());
        let (mut subscriptions, mut tasks) = (Vec::new(), Vec::new());
        for (number, place) in (0..count).zip(places().cycle()) {
            // Each node gets every kind of pattern.
            let pattern = pattern(number / (NODES.len() + 1), source, chance);
            let one = Arc::new(Subscription { place, pattern, got: Mutex::default() });
            subscriptions.push(Arc::clone(&one));
            let late = if number % 16 < 12 { 0 } else { chance.u64(0..10_000) };
            let late = tokio::time::sleep(Duration::from_millis(late));
            tasks.push(if place == HERE {
                let node = cluster.here.clone();
                tokio::spawn(async move {
                    late.await;
                    stream(node, one).await;
                })
            } else {
                let node = NODES.iter().position(|name| *name == place).expect("one of them");
                let url = format!("{}/v1/stream?after=0&pattern={}", cluster.url(node), one.pattern);
                let (http, known) = (http.clone(), Arc::clone(&known));
                tokio::spawn(async move {
                    late.await;
                    sse::follow(http, url, known, one).await;
                })
            });
        }
        Self { subscriptions, tasks }
    }

    /// Waits until each subscription has got what the log has for it, and tells how long that took.
    pub(crate) async fn caught_up(&self, log: &[Arc<StoredEvent>]) -> Duration {
        let began = Instant::now();
        for one in &self.subscriptions {
            let filter = one.filter();
            let last = log.iter().rfind(|event| filter.matches(event));
            let last = last.map_or(Position::START, |event| event.position);
            within(&format!("{} on {} gets position {last}", one.pattern, one.place), async {
                // A subscription with a fault is told as such.
                while !one.has_all(last) && one.got().faults.is_empty() {
                    tokio::time::sleep(AGAIN).await;
                }
            })
            .await;
        }
        began.elapsed()
    }

    pub(crate) fn end(self) -> Vec<Arc<Subscription>> {
        for task in &self.tasks {
            task.abort();
        }
        self.subscriptions
    }
}

/// Patterns of every kind: all, a type, single aggregates, and with wildcards within.
pub(crate) fn pattern(kind: usize, source: &[RealEvent], chance: &mut fastrand::Rng) -> String {
    let id = source[chance.usize(..source.len())].aggregate.aggregate_id();
    match kind % 10 {
        0 | 5 => "events/**".into(),
        1 => "events/Incident/**".into(),
        2 => format!("events/*/{id}/*"),
        3 => "events/Incident/*/1".into(),
        4 => format!("events/**/{id}/**"),
        _ => format!("events/Incident/{id}/**"),
    }
}

async fn stream(node: Node, subscription: Arc<Subscription>) {
    let mut events = node.store().subscribe(subscription.filter(), Start::Beginning);
    while let Some(delivery) = events.next().await {
        match delivery {
            Ok(Delivery::Event(event)) => subscription.take(event),
            Ok(Delivery::Reset(reason)) => subscription.fault(format!("a reset: {reason}")),
            Ok(_) => {}
            // The log is away, and the next poll tries again.
            Err(_) => {
                subscription.again();
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    subscription.fault("the stream ended".into());
}
