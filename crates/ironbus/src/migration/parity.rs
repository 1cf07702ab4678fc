//! Whether both buses bring the same: what allows the step from `Dual` to `Zenoh`.
//!
//! A position is open from the moment that either bus brings it, for the grace. Then it is judged: brought
//! by both, by the in-process bus alone, or by Zenoh alone. What comes later counts as not brought.
//! Judgements are kept over a window: the shortest stretch up to now that is as long as asked for and holds
//! as many judgements as asked for; in a quiet log it reaches further back.
//!
//! Bounds: at most [`ParityOptions::most_open`] positions are open. When as many are, all of them are given
//! up: they count neither for nor against, but are shown as uncompared; so under a load that is too high
//! for it the comparison is one of samples. Judgements are kept as counts in slices of time (at most 31,
//! and one for each judgement that is asked for), latencies as the last 4,096 of each side.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::measure::{Latencies, Latency, Slices, seconds};
use super::nodes::{NodeReport, Nodes};
use super::told::{counted, told};
use crate::bus::Side;
use crate::event::Position;

/// What counts as parity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParityOptions {
    /// How long both buses must have brought the same.
    pub window: Duration,
    /// How many events they must have brought.
    pub min_events: u64,
    /// How long the slower bus may take after the faster one.
    pub grace: Duration,
    /// How many positions may wait for their judgement at a time.
    pub most_open: usize,
}

impl Default for ParityOptions {
    /// 30 s and 100 events, a grace of 1 s, 65,536 open positions.
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            min_events: 100,
            grace: Duration::from_secs(1),
            most_open: 65_536,
        }
    }
}

/// The comparison of both buses. Has no clock: whoever feeds it says when it is.
#[derive(Debug)]
pub struct Parity {
    options: ParityOptions,
    began: Instant,
    open: HashMap<Position, Open>,
    /// The open positions, the longest open first.
    order: VecDeque<(Instant, Position)>,
    /// Positions up to this one that aren't open stay closed: they came before the comparison began, or were
    /// judged or given up.
    closed: Position,
    slices: Slices<Judged>,
    /// How many judgements the slices hold.
    judged: u64,
    broadcast: Latencies,
    zenoh: Latencies,
}

#[derive(Clone, Copy, Debug, Default)]
struct Open {
    broadcast: bool,
    zenoh: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Judged {
    both: u64,
    only_broadcast: u64,
    only_zenoh: u64,
    uncompared: u64,
    first_only_broadcast: Option<Position>,
    first_only_zenoh: Option<Position>,
}

impl Judged {
    fn count(&self) -> u64 {
        self.both + self.only_broadcast + self.only_zenoh
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            both: self.both + other.both,
            only_broadcast: self.only_broadcast + other.only_broadcast,
            only_zenoh: self.only_zenoh + other.only_zenoh,
            uncompared: self.uncompared + other.uncompared,
            first_only_broadcast: self.first_only_broadcast.or(other.first_only_broadcast),
            first_only_zenoh: self.first_only_zenoh.or(other.first_only_zenoh),
        }
    }
}

impl Parity {
    /// A comparison of the positions after `after` that begins at a moment.
    #[must_use]
    pub fn new(options: ParityOptions, after: Position, began: Instant) -> Self {
        Self {
            options,
            began,
            open: HashMap::new(),
            order: VecDeque::new(),
            closed: after,
            slices: Slices::of_window(options.window),
            judged: 0,
            broadcast: Latencies::default(),
            zenoh: Latencies::default(),
        }
    }

    /// A bus has brought a position, so long after it was recorded. What it brings again changes nothing.
    pub fn heard(&mut self, side: Side, position: Position, latency: Duration, at: Instant) {
        self.judge(at);
        if !self.open.contains_key(&position) {
            if self.open.len() >= self.options.most_open {
                let all = self.open.keys().copied().fold(self.closed, Position::max);
                self.give_up(all, at);
            }
            if position <= self.closed {
                return;
            }
            self.order.push_back((at, position));
        }
        let open = self.open.entry(position).or_default();
        let (heard, latencies) = match side {
            Side::Broadcast => (&mut open.broadcast, &mut self.broadcast),
            Side::Zenoh => (&mut open.zenoh, &mut self.zenoh),
        };
        if !std::mem::replace(heard, true) {
            latencies.push(latency, at);
        }
    }

    /// Whoever listens to the buses has itself missed something before this position: nothing before it
    /// can be compared any more.
    pub fn passed_over(&mut self, before: Position, at: Instant) {
        self.judge(at);
        self.give_up(Position(before.0.saturating_sub(1)), at);
    }

    /// Gives up what is open up to a position, and what of it the other bus will still bring.
    fn give_up(&mut self, through: Position, at: Instant) {
        let before = self.open.len();
        self.open.retain(|position, _| *position > through);
        self.order.retain(|(_, position)| *position > through);
        self.slices.at(at).uncompared += (before - self.open.len()) as u64;
        self.closed = self.closed.max(through);
    }

    /// Judges the positions whose grace is over.
    fn judge(&mut self, at: Instant) {
        while let Some((since, position)) = self.order.front().copied()
            && at.saturating_duration_since(since) >= self.options.grace
        {
            self.order.pop_front();
            let open = self.open.remove(&position).expect("what stands in the order is open");
            if open.broadcast {
                // Not by what Zenoh alone says: a position far ahead would end the comparison.
                self.closed = self.closed.max(position);
            }
            let judged = self.slices.at(since + self.options.grace);
            match (open.broadcast, open.zenoh) {
                (true, true) => judged.both += 1,
                (true, false) => {
                    judged.only_broadcast += 1;
                    judged.first_only_broadcast = judged.first_only_broadcast.or(Some(position));
                }
                (false, _) => {
                    judged.only_zenoh += 1;
                    judged.first_only_zenoh = judged.first_only_zenoh.or(Some(position));
                }
            }
            self.judged += 1;
        }
        let Some(window_begins) = at.checked_sub(self.options.window) else { return };
        let (judged, enough) = (&mut self.judged, self.options.min_events);
        while let Some(left) = self.slices.leave(window_begins, |left| *judged - left.count() >= enough) {
            *judged -= left.count();
        }
    }

    /// What the comparison says now, with what the edge nodes said.
    pub fn report(&mut self, nodes: &Nodes, at: Instant) -> ParityReport {
        self.judge(at);
        let sum = self.slices.iter().fold(Judged::default(), Judged::plus);
        let age = at.saturating_duration_since(self.began);
        let reach = self.slices.begin().map_or(Duration::ZERO, |begin| at.saturating_duration_since(begin));
        let covered = age.min(self.options.window).max(reach);
        // What is judged was heard before that, by up to the grace.
        let since = at.checked_sub(covered + self.options.grace).unwrap_or(self.began);
        let nodes: Vec<_> = nodes
            .told(at)
            .map(|(said, report)| NodeParity {
                report: report.clone(),
                compared: report.covered >= self.options.window,
                expected: self.expected(said, report.covered),
            })
            .collect();
        let mut report = ParityReport {
            window: self.options.window,
            min_events: self.options.min_events,
            covered,
            compared: sum.count(),
            both: sum.both,
            only_broadcast: sum.only_broadcast,
            only_zenoh: sum.only_zenoh,
            uncompared: sum.uncompared,
            open: self.open.len() as u64,
            broadcast: self.broadcast.since(since),
            zenoh: self.zenoh.since(since),
            nodes,
            why_not: Vec::new(),
        };
        report.why_not = gaps(&report, &sum);
        report
    }

    /// How many positions a node must have heard of that said so much of the time before a moment. Not
    /// counted is what came within a grace of either end: it may be outside of what the node counts.
    fn expected(&self, said: Instant, covered: Duration) -> u64 {
        // What is judged was heard a grace before that.
        let from = said.checked_sub(covered).map_or(self.began, |from| from + 2 * self.options.grace);
        self.slices.between(from, said).map(Judged::count).sum()
    }
}

/// What keeps the report from being one of parity.
fn gaps(report: &ParityReport, sum: &Judged) -> Vec<ParityGap> {
    let mut gaps = Vec::new();
    if report.covered < report.window {
        gaps.push(ParityGap::TooShort { covered: report.covered, window: report.window });
    }
    if report.compared < report.min_events {
        gaps.push(ParityGap::TooFew { compared: report.compared, min_events: report.min_events });
    }
    if let Some(first) = sum.first_only_broadcast {
        gaps.push(ParityGap::OnlyBroadcast { positions: sum.only_broadcast, first });
    }
    if let Some(first) = sum.first_only_zenoh {
        gaps.push(ParityGap::OnlyZenoh { positions: sum.only_zenoh, first });
    }
    for NodeParity { report: node, expected, .. } in report.nodes.iter().filter(|node| node.compared) {
        if node.from_log > 0 {
            gaps.push(ParityGap::NodeReadLog { node: node.node.clone(), positions: node.from_log });
        } else if node.by_zenoh == 0 && *expected >= report.min_events.max(1) {
            gaps.push(ParityGap::NodeHeardNothing { node: node.node.clone() });
        }
    }
    gaps
}

/// What both buses brought over a window, and whether it was the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParityReport {
    /// How long a window parity asks for.
    #[serde(rename = "window_seconds", with = "seconds")]
    pub window: Duration,
    /// How many events parity asks for.
    pub min_events: u64,
    /// How far back the figures reach.
    #[serde(rename = "covered_seconds", with = "seconds")]
    pub covered: Duration,
    /// How many positions were compared.
    pub compared: u64,
    /// How many of them both buses brought.
    pub both: u64,
    /// How many of them the in-process bus alone brought in time.
    pub only_broadcast: u64,
    /// How many of them Zenoh alone brought in time.
    pub only_zenoh: u64,
    /// How many more weren't compared, because too many were open.
    pub uncompared: u64,
    /// How many aren't judged yet.
    pub open: u64,
    /// How long events took through the in-process bus.
    #[serde(rename = "broadcast_latency_seconds")]
    pub broadcast: Option<Latency>,
    /// How long events took through Zenoh, to the node that compares.
    #[serde(rename = "zenoh_latency_seconds")]
    pub zenoh: Option<Latency>,
    /// The edge nodes that are there.
    pub nodes: Vec<NodeParity>,
    /// What keeps this from being parity; empty when it is.
    pub why_not: Vec<ParityGap>,
}

impl ParityReport {
    /// Whether both buses brought the same, for long enough and often enough.
    #[must_use]
    pub fn is_parity(&self) -> bool {
        self.why_not.is_empty()
    }
}

/// An edge node in the comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeParity {
    /// What it says of itself.
    #[serde(flatten)]
    pub report: NodeReport,
    /// Whether it has been there for the whole window. One that has only just joined isn't in the way: it
    /// is named as not yet compared.
    pub compared: bool,
    /// How many positions came here within what its counts reach over, so that it must have heard of them.
    pub expected: u64,
}

/// What keeps a comparison from being one of parity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParityGap {
    /// Both buses haven't been compared for long enough.
    #[error("both buses were compared for {:.0} s so far; {:.0} s are asked for", covered.as_secs_f64(), window.as_secs_f64())]
    TooShort {
        /// For how long they were.
        covered: Duration,
        /// For how long they have to be.
        window: Duration,
    },
    /// Too few events came to say anything.
    #[error("{} compared so far; {min_events} are asked for", counted(*compared, "event"))]
    TooFew {
        /// How many came.
        compared: u64,
        /// How many have to come.
        min_events: u64,
    },
    /// Zenoh didn't bring something in time.
    #[error(
        "Zenoh didn't bring {} that the in-process bus brought, the first at position {first}",
        counted(*positions, "event")
    )]
    OnlyBroadcast {
        /// How many.
        positions: u64,
        /// The first of them.
        first: Position,
    },
    /// The in-process bus didn't bring something in time.
    #[error(
        "the in-process bus didn't bring {} that Zenoh brought, the first at position {first}",
        counted(*positions, "event")
    )]
    OnlyZenoh {
        /// How many.
        positions: u64,
        /// The first of them.
        first: Position,
    },
    /// An edge node had to read from the log what Zenoh didn't bring it.
    #[error("the node {node} had to read {} from the log that Zenoh hadn't brought it", counted(*positions, "event"))]
    NodeReadLog {
        /// The node.
        node: String,
        /// How many.
        positions: u64,
    },
    /// Zenoh brought an edge node nothing at all.
    #[error("Zenoh brought the node {node} nothing in the whole window")]
    NodeHeardNothing {
        /// The node.
        node: String,
    },
}

told!(ParityGap {
    TooShort { .. } => "compared_too_short",
    TooFew { .. } => "compared_too_few",
    OnlyBroadcast { .. } => "only_broadcast",
    OnlyZenoh { .. } => "only_zenoh",
    NodeReadLog { .. } => "node_read_log",
    NodeHeardNothing { .. } => "node_heard_nothing",
});
