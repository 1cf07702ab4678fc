//! The state machine of the migration: what follows from a phase, a wish and an observation. Pure.
//!
//! ```text
//!                  advance:                 advance:
//!                  Zenoh configured         Zenoh configured, parity
//!  ┌─────────────┐ ────────────▶ ┌────────┐ ────────────▶ ┌─────────┐
//!  │ 1 Broadcast │               │ 2 Dual │               │ 3 Zenoh │  (4: Zenoh as the storage)
//!  └─────────────┘ ◀──────────── └────────┘ ◀──────────── └─────────┘
//!         ▲            rollback                rollback        │
//!         └────────────────────────────────────────────────────┘
//!                        rollback, straight to any earlier phase
//! ```
//!
//! An advance goes one phase forward. A rollback needs nothing: it is allowed whatever was observed.

use serde::Serialize;

use super::parity::{ParityGap, ParityReport};
use super::told::{counted, told};
use crate::bus::EventBusMode;
use crate::store::Phase;

impl Phase {
    /// How events travel in this phase.
    #[must_use]
    pub fn bus_mode(self) -> EventBusMode {
        match self {
            Self::Broadcast => EventBusMode::Broadcast,
            Self::Dual => EventBusMode::Dual,
            Self::Zenoh => EventBusMode::Zenoh,
        }
    }

    /// What going to this phase does, in words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Broadcast => "events travel within this process alone, and Zenoh carries none",
            Self::Dual => {
                "events travel within this process and over Zenoh, and both are compared; new raw subscriptions \
                 take Zenoh, old ones stay where they are"
            }
            Self::Zenoh => "events travel over Zenoh alone",
        }
    }
}

/// What somebody wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To go one phase forward.
    Advance {
        /// The phase where that is expected to lead, so that of two who wish the same only one moves.
        to: Option<Phase>,
    },
    /// To go back.
    RollBack {
        /// The earlier phase; the one before where none is named.
        to: Option<Phase>,
    },
}

/// What is known when a step is decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Whether this node has a Zenoh bus.
    pub zenoh: bool,
    /// The comparison of both buses, where both carry.
    pub parity: Option<ParityReport>,
    /// The names of the edge nodes that are connected.
    pub edge_nodes: Vec<String>,
    /// How many raw subscriptions listen to the in-process bus.
    pub broadcast_listeners: usize,
    /// How many raw subscriptions of this node listen to Zenoh.
    pub zenoh_listeners: usize,
    /// How many subscribers of other services listen on `events/**`.
    pub foreign_subscribers: u64,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Nothing: this is in the way.
    Stay {
        /// What is in the way; never empty.
        why: Vec<Obstacle>,
    },
    /// One phase forward.
    Advance {
        /// The phase.
        to: Phase,
        /// What whoever takes the step should know before.
        consequences: Vec<Consequence>,
    },
    /// Back.
    RollBack {
        /// The phase.
        to: Phase,
        /// What whoever takes the step should know before.
        consequences: Vec<Consequence>,
    },
}

/// Something that is in the way of a step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// There is no phase after this one.
    #[error("there is no phase after {phase}")]
    Last {
        /// The phase in force.
        phase: Phase,
    },
    /// There is no phase before this one.
    #[error("there is no phase before {phase}")]
    First {
        /// The phase in force.
        phase: Phase,
    },
    /// An advance goes to the next phase and no other.
    #[error("from {phase} an advance leads to {next} and not to {to}")]
    NotNext {
        /// The phase in force.
        phase: Phase,
        /// The next one.
        next: Phase,
        /// The one that was named.
        to: Phase,
    },
    /// A rollback goes to an earlier phase.
    #[error("{to} isn't earlier than {phase}, so nothing can be rolled back to it")]
    NotEarlier {
        /// The phase in force.
        phase: Phase,
        /// The one that was named.
        to: Phase,
    },
    /// This node has no Zenoh bus.
    #[error(
        "this node has no Zenoh bus: start it with one (`ironbus serve --zenoh-listen …`, or `[zenoh]` in \
         ironbus.toml)"
    )]
    NoZenoh,
    /// Both buses haven't been compared yet.
    #[error("both buses haven't been compared yet")]
    NotCompared,
    /// Both buses don't bring the same.
    #[error(transparent)]
    Parity(#[from] ParityGap),
}

told!(Obstacle {
    Last { .. } => "last_phase",
    First { .. } => "first_phase",
    NotNext { .. } => "not_next",
    NotEarlier { .. } => "not_earlier",
    NoZenoh => "no_zenoh",
    NotCompared => "not_compared",
    Parity(gap) => gap.kind(),
});

/// What a step brings with it, told before it is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Consequence {
    /// Edge nodes go on, but hear later.
    #[error(
        "edge nodes ({}) will hear of events from the log, at the pace of the heartbeat; they lose nothing",
        nodes.join(", ")
    )]
    EdgeNodesHearByHeartbeat {
        /// The nodes.
        nodes: Vec<String>,
    },
    /// Other services hear nothing any more.
    #[error("other services will hear nothing any more: {} on events/**", counted(*subscribers, "subscriber"))]
    ForeignSubscribersHearNothing {
        /// How many.
        subscribers: u64,
    },
    /// Raw subscriptions end.
    #[error(
        "{} of this node will end and can subscribe anew; streams and other catch-up subscriptions go on where \
         they are",
        counted(*listeners as u64, "raw subscription")
    )]
    RawSubscriptionsEnd {
        /// How many.
        listeners: usize,
    },
}

told!(Consequence {
    EdgeNodesHearByHeartbeat { .. } => "edge_nodes_hear_by_heartbeat",
    ForeignSubscribersHearNothing { .. } => "foreign_subscribers_hear_nothing",
    RawSubscriptionsEnd { .. } => "raw_subscriptions_end",
});

/// What follows from a phase, a wish and an observation.
#[must_use]
pub fn step(phase: Phase, wish: Wish, observed: &Observation) -> Transition {
    match wish {
        Wish::Advance { to } => advance(phase, to, observed),
        Wish::RollBack { to } => roll_back(phase, to, observed),
    }
}

fn advance(phase: Phase, to: Option<Phase>, observed: &Observation) -> Transition {
    let Some(next) = phase.next() else { return Transition::Stay { why: vec![Obstacle::Last { phase }] } };
    if let Some(to) = to.filter(|to| *to != next) {
        return Transition::Stay { why: vec![Obstacle::NotNext { phase, next, to }] };
    }
    let mut why = Vec::new();
    if !observed.zenoh {
        why.push(Obstacle::NoZenoh);
    }
    if phase == Phase::Dual {
        match &observed.parity {
            None => why.push(Obstacle::NotCompared),
            Some(parity) => why.extend(parity.why_not.iter().cloned().map(Obstacle::Parity)),
        }
    }
    if why.is_empty() {
        Transition::Advance { to: next, consequences: consequences(phase, next, observed) }
    } else {
        Transition::Stay { why }
    }
}

fn roll_back(phase: Phase, to: Option<Phase>, observed: &Observation) -> Transition {
    let Some(before) = phase.previous() else {
        return Transition::Stay { why: vec![Obstacle::First { phase }] };
    };
    let to = to.unwrap_or(before);
    if to >= phase {
        return Transition::Stay { why: vec![Obstacle::NotEarlier { phase, to }] };
    }
    Transition::RollBack { to, consequences: consequences(phase, to, observed) }
}

fn consequences(from: Phase, to: Phase, observed: &Observation) -> Vec<Consequence> {
    use crate::bus::Side;
    let mut told = Vec::new();
    let stops = |side| from.bus_mode().carries(side) && !to.bus_mode().carries(side);
    if stops(Side::Zenoh) {
        if !observed.edge_nodes.is_empty() {
            told.push(Consequence::EdgeNodesHearByHeartbeat { nodes: observed.edge_nodes.clone() });
        }
        if observed.foreign_subscribers > 0 {
            let subscribers = observed.foreign_subscribers;
            told.push(Consequence::ForeignSubscribersHearNothing { subscribers });
        }
    }
    let mut listeners = 0;
    if stops(Side::Broadcast) {
        listeners += observed.broadcast_listeners;
    }
    if stops(Side::Zenoh) {
        listeners += observed.zenoh_listeners;
    }
    if listeners > 0 {
        told.push(Consequence::RawSubscriptionsEnd { listeners });
    }
    told
}

/// What the next step forward and each step back would do, and what is in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The phase in force.
    pub phase: Phase,
    /// The next step forward, if there is one.
    pub advance: Option<PlannedStep>,
    /// Each step back, the shortest first.
    pub rollback: Vec<PlannedStep>,
}

/// One step that could be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    /// The phase where it leads.
    pub to: Phase,
    /// What it does, in words.
    pub does: &'static str,
    /// What is in its way; empty when it can be taken now.
    pub obstacles: Vec<Obstacle>,
    /// What whoever takes it should know before.
    pub consequences: Vec<Consequence>,
}

impl Plan {
    /// The plan in a phase.
    #[must_use]
    pub fn of(phase: Phase, observed: &Observation) -> Self {
        let planned = |to: Phase, wish: Wish| {
            let (obstacles, consequences) = match step(phase, wish, observed) {
                Transition::Stay { why } => (why, consequences(phase, to, observed)),
                Transition::Advance { consequences, .. } | Transition::RollBack { consequences, .. } => {
                    (Vec::new(), consequences)
                }
            };
            PlannedStep { to, does: to.meaning(), obstacles, consequences }
        };
        let earlier = std::iter::successors(phase.previous(), |phase| phase.previous());
        Self {
            phase,
            advance: phase.next().map(|to| planned(to, Wish::Advance { to: Some(to) })),
            rollback: earlier.map(|to| planned(to, Wish::RollBack { to: Some(to) })).collect(),
        }
    }
}
