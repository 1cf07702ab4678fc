//! When to migrate: what is measured over time, against thresholds, shown as advice. Decides nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use crate::event::Position;
use crate::store::Phase;

/// What of each trigger is too much for one process. The defaults are the mission's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// More open streams than this, over all nodes (200).
    pub sse_clients: u64,
    /// More events per second than this, sustained (800).
    pub events_per_second: u64,
    /// Over how long a rate must be sustained (60 s).
    pub sustained_over: Duration,
    /// More nodes than this (1).
    pub nodes: u64,
    /// More foreign subscribers on `events/**` than this (0).
    pub foreign_subscribers: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            sse_clients: 200,
            events_per_second: 800,
            sustained_over: Duration::from_secs(60),
            nodes: 1,
            foreign_subscribers: 0,
        }
    }
}

/// What is measured at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The last position of the log.
    pub head: Position,
    /// Open streams, over all nodes.
    pub sse_clients: u64,
    /// Nodes, the store node among them.
    pub nodes: u64,
    /// Zenoh subscribers on `events/**` that aren't nodes of ours.
    pub foreign_subscribers: u64,
}

/// A reason to migrate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Trigger {
    /// Many streams are open at the same time.
    SseClients,
    /// Events come fast for long.
    EventsPerSecond,
    /// There is more than one node.
    Nodes,
    /// Other services listen.
    ForeignSubscribers,
}

impl Trigger {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::SseClients, Self::EventsPerSecond, Self::Nodes, Self::ForeignSubscribers];
}

/// Measures over time. Has no clock: whoever feeds it says when it is.
#[derive(Debug)]
pub struct Triggers {
    thresholds: Thresholds,
    last: Measured,
    /// Heads at the ends of slices of the window; the first is at or before its begin once it is full.
    heads: VecDeque<(Instant, Position)>,
    /// The rate that at least half of the last full window had.
    sustained: Option<f64>,
    exceeded_since: [Option<Timestamp>; 4],
}

impl Triggers {
    /// How many slices the window of the sustained rate is made of.
    const SLICES: u32 = 12;

    /// Nothing measured yet.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            last: Measured::default(),
            heads: VecDeque::new(),
            sustained: None,
            exceeded_since: [None; 4],
        }
    }

    /// Takes what is measured at a moment; about once a second is often enough. `time` is the same moment
    /// as people say it.
    pub fn observe(&mut self, measured: Measured, at: Instant, time: Timestamp) {
        self.last = measured;
        let slice = self.thresholds.sustained_over / Self::SLICES;
        if self.heads.back().is_none_or(|(then, _)| at.saturating_duration_since(*then) >= slice) {
            self.heads.push_back((at, measured.head));
            let window = at.checked_sub(self.thresholds.sustained_over);
            while self.heads.get(1).zip(window).is_some_and(|((second, _), begin)| *second <= begin) {
                self.heads.pop_front();
            }
            let full = self.heads.front().zip(window).is_some_and(|((first, _), begin)| *first <= begin);
            self.sustained = if full { Some(self.held_for_half()) } else { None };
        }
        let exceeds = |trigger| self.measured(trigger).is_some_and(|value| value > self.threshold(trigger));
        for (exceeds, since) in Trigger::ALL.map(exceeds).into_iter().zip(&mut self.exceeded_since) {
            *since = if exceeds { since.or(Some(time)) } else { None };
        }
    }

    /// The greatest rate that was reached for at least half of the window. So a peak, however high, isn't
    /// taken for a load that lasts, and a short lull doesn't end one.
    fn held_for_half(&self) -> f64 {
        let mut slices: Vec<(f64, Duration)> = Vec::new();
        for ((begin, from), (end, to)) in self.heads.iter().zip(self.heads.iter().skip(1)) {
            let length = end.duration_since(*begin);
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let events = to.0.saturating_sub(from.0) as f64;
            slices.push((events / length.as_secs_f64(), length));
        }
        slices.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let half: Duration = slices.iter().map(|(_, length)| *length).sum::<Duration>() / 2;
        let mut held = Duration::ZERO;
        for (rate, length) in slices {
            held += length;
            if held >= half {
                return rate;
            }
        }
        0.0
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of clients and nodes are small")]
    fn measured(&self, trigger: Trigger) -> Option<f64> {
        match trigger {
            Trigger::SseClients => Some(self.last.sse_clients as f64),
            Trigger::EventsPerSecond => self.sustained,
            Trigger::Nodes => Some(self.last.nodes as f64),
            Trigger::ForeignSubscribers => Some(self.last.foreign_subscribers as f64),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a threshold is a small number")]
    fn threshold(&self, trigger: Trigger) -> f64 {
        (match trigger {
            Trigger::SseClients => self.thresholds.sse_clients,
            Trigger::EventsPerSecond => self.thresholds.events_per_second,
            Trigger::Nodes => self.thresholds.nodes,
            Trigger::ForeignSubscribers => self.thresholds.foreign_subscribers,
        }) as f64
    }

    /// What each trigger says in a phase.
    #[must_use]
    pub fn report(&self) -> Vec<TriggerReport> {
        let report = |(trigger, since): (Trigger, &Option<Timestamp>)| {
            let (measured, threshold) = (self.measured(trigger), self.threshold(trigger));
            TriggerReport {
                trigger,
                measured,
                threshold,
                exceeded_since: *since,
                advice: self.advice(trigger, measured, since.is_some()),
            }
        };
        Trigger::ALL.into_iter().zip(&self.exceeded_since).map(report).collect()
    }

    fn advice(&self, trigger: Trigger, measured: Option<f64>, exceeded: bool) -> String {
        let threshold = self.threshold(trigger);
        let (over, back) = (self.thresholds.sustained_over.as_secs(), back_at(trigger, threshold));
        let Some(value) = measured else {
            return format!("not known until events have been counted for {over} s");
        };
        match (trigger, exceeded) {
            (Trigger::SseClients, true) => format!(
                "{value:.0} streams are open, more than {threshold:.0}: go on to Zenoh, so that further nodes can \
                 serve some of them. Going back would be reasonable at {back:.0} or fewer"
            ),
            (Trigger::SseClients, false) => {
                format!("{value:.0} streams are open; one process serves up to {threshold:.0} well")
            }
            (Trigger::EventsPerSecond, true) => format!(
                "{value:.0} events a second were sustained over {over} s, more than {threshold:.0}: go on to Zenoh, \
                 so that further nodes can take over readers. Going back would be reasonable at {back:.0} or fewer"
            ),
            (Trigger::EventsPerSecond, false) => format!(
                "{value:.0} events a second were sustained over {over} s; one process carries up to {threshold:.0} well"
            ),
            (Trigger::Nodes, true) => format!(
                "there are {value:.0} nodes: go on to Zenoh, which brings events to all of them as they happen; before \
                 that, edge nodes hear from the log, at the pace of the heartbeat. Going back would be reasonable \
                 with {back:.0} or fewer"
            ),
            (Trigger::Nodes, false) => "one node needs no network between nodes".to_owned(),
            (Trigger::ForeignSubscribers, true) => format!(
                "{value:.0} subscribers of other services listen on events/**: only Zenoh reaches them. Going back \
                 would be reasonable once there are {back:.0} or fewer"
            ),
            (Trigger::ForeignSubscribers, false) => "no other service listens on events/**".to_owned(),
        }
    }

    /// Whether going back would be reasonable as far as every trigger is concerned.
    fn all_calm(&self) -> bool {
        Trigger::ALL.into_iter().all(|trigger| {
            self.measured(trigger).is_some_and(|value| value <= back_at(trigger, self.threshold(trigger)))
        })
    }

    /// What all triggers come to in a phase.
    #[must_use]
    pub fn advise(&self, phase: Phase) -> Advice {
        let exceeded = self.exceeded_since.iter().flatten().count();
        // What is measured here is no reason to leave SQLite: that is a matter of how the log is to be kept.
        let next = phase.next().filter(|next| *next < Phase::ZenohStorage);
        match (next, phase.previous()) {
            (Some(next), _) if exceeded > 0 => Advice {
                towards: Some(next),
                text: format!(
                    "{exceeded} of {} measured figures {} too much for one process: go on to {next}",
                    Trigger::ALL.len(),
                    if exceeded == 1 { "is" } else { "are" }
                ),
            },
            (_, Some(_)) if self.all_calm() => Advice {
                towards: Some(Phase::Broadcast),
                text: "nothing that is measured needs Zenoh: going back to broadcast would be reasonable, if it \
                       isn't expected to grow again"
                    .to_owned(),
            },
            _ => Advice { towards: None, text: format!("stay in {phase}") },
        }
    }
}

/// The measured value from which going back is reasonable. Half of a threshold of load, so that the advice
/// doesn't swing to and fro.
fn back_at(trigger: Trigger, threshold: f64) -> f64 {
    match trigger {
        Trigger::SseClients | Trigger::EventsPerSecond => (threshold / 2.0).floor(),
        Trigger::Nodes | Trigger::ForeignSubscribers => threshold,
    }
}

/// What one trigger says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TriggerReport {
    /// Which one.
    pub trigger: Trigger,
    /// What is measured; `None` as long as it isn't known.
    pub measured: Option<f64>,
    /// What more than is too much.
    pub threshold: f64,
    /// Since when it has been more without a break; `None` while it isn't.
    pub exceeded_since: Option<Timestamp>,
    /// What follows, in words.
    pub advice: String,
}

/// What all triggers come to. Nothing acts on it: a step is an operator's act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// The phase to go to, if any.
    pub towards: Option<Phase>,
    /// Why, in words.
    pub text: String,
}
