//! What the server counts: for `/metrics` (Prometheus text) and for `/v1/status`.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::Mutex;

/// How many appends the percentiles of `/v1/status` look back over.
const RECENT_APPENDS: usize = 1024;

/// How many seconds of heads are remembered for the rates of `/v1/status`.
const RATE_SECONDS: usize = 60;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Answer {
    pub(crate) route: String,
    pub(crate) status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

pub(crate) struct Metrics {
    registry: Registry,
    started: Instant,
    requests: Family<Answer, Counter>,
    appends: Family<Outcome, Counter>,
    events_appended: Counter,
    append_seconds: Histogram,
    sse_clients: Gauge,
    pub(crate) sse_events: Counter,
    head: Gauge,
    subscriptions: Gauge,
    log_bytes: Gauge<u64, AtomicU64>,
    recent: Mutex<VecDeque<Duration>>,
    heads: Mutex<VecDeque<(Instant, u64)>>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("ironbus"),
            started: Instant::now(),
            requests: Family::default(),
            appends: Family::default(),
            events_appended: Counter::default(),
            append_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
            sse_clients: Gauge::default(),
            sse_events: Counter::default(),
            head: Gauge::default(),
            subscriptions: Gauge::default(),
            log_bytes: Gauge::default(),
            recent: Mutex::default(),
            heads: Mutex::default(),
        };
        metrics.register()
    }

    fn register(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("http_requests", "Requests answered", self.requests.clone());
        registry.register("appends", "Appends by outcome", self.appends.clone());
        registry.register("events_appended", "Events appended over HTTP", self.events_appended.clone());
        registry.register_with_unit(
            "append",
            "Time from an append's arrival to its acknowledgement",
            Unit::Seconds,
            self.append_seconds.clone(),
        );
        registry.register("sse_clients", "Streams open now", self.sse_clients.clone());
        registry.register("sse_events", "Events sent on streams", self.sse_events.clone());
        registry.register("log_head", "The last position of the log", self.head.clone());
        registry.register("subscriptions", "Subscriptions registered now", self.subscriptions.clone());
        registry.register_with_unit("log", "Size of the log's files", Unit::Bytes, self.log_bytes.clone());
        self
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn answered(&self, route: &str, status: u16) {
        self.requests.get_or_create(&Answer { route: route.to_owned(), status }).inc();
    }

    pub(crate) fn append_accepted(&self, events: usize, took: Duration) {
        self.appends.get_or_create(&Outcome { outcome: "accepted" }).inc();
        self.events_appended.inc_by(events as u64);
        self.append_seconds.observe(took.as_secs_f64());
        let mut recent = self.recent.lock().expect("nothing panics while holding it");
        if recent.len() == RECENT_APPENDS {
            recent.pop_front();
        }
        recent.push_back(took);
    }

    pub(crate) fn append_refused(&self) {
        self.appends.get_or_create(&Outcome { outcome: "refused" }).inc();
    }

    /// Appends accepted, appends refused, events appended.
    pub(crate) fn append_counts(&self) -> (u64, u64, u64) {
        let count = |outcome| self.appends.get_or_create(&Outcome { outcome }).get();
        (count("accepted"), count("refused"), self.events_appended.get())
    }

    /// The median and the 99th percentile of the last appends; `None` before the first.
    pub(crate) fn append_percentiles(&self) -> Option<(Duration, Duration)> {
        let recent = self.recent.lock().expect("nothing panics while holding it");
        let mut sorted: Vec<_> = recent.iter().copied().collect();
        drop(recent);
        sorted.sort_unstable();
        let at = |hundredths: usize| sorted.get((sorted.len() * hundredths / 100).min(sorted.len() - 1));
        if sorted.is_empty() { None } else { Some((*at(50)?, *at(99)?)) }
    }

    /// Remembers the head; called once a second.
    pub(crate) fn sample_head(&self, head: u64) {
        let mut heads = self.heads.lock().expect("nothing panics while holding it");
        if heads.len() > RATE_SECONDS {
            heads.pop_front();
        }
        heads.push_back((Instant::now(), head));
    }

    /// Events per second over the last second and over the last minute (or since the start).
    pub(crate) fn rates(&self) -> (f64, f64) {
        let heads = self.heads.lock().expect("nothing panics while holding it");
        let rate = |back: usize| -> Option<f64> {
            let (then, from) = heads.get(heads.len().checked_sub(back + 1)?)?;
            let (now, to) = heads.back()?;
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = to.saturating_sub(*from) as f64 / now.duration_since(*then).as_secs_f64();
            Some(rate)
        };
        let longest = heads.len().saturating_sub(1);
        (rate(1).unwrap_or(0.0), if longest == 0 { 0.0 } else { rate(longest).unwrap_or(0.0) })
    }

    /// Everything as Prometheus text.
    pub(crate) fn encode(&self, head: u64, subscriptions: usize, streams: usize, log_bytes: u64) -> String {
        self.head.set(i64::try_from(head).unwrap_or(i64::MAX));
        self.subscriptions.set(i64::try_from(subscriptions).unwrap_or(i64::MAX));
        self.sse_clients.set(i64::try_from(streams).unwrap_or(i64::MAX));
        self.log_bytes.set(log_bytes);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing into a String can't fail");
        text
    }
}
