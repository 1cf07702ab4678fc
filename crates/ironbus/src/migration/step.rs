//! The state machine of the migration: what follows from a phase, a wish and an observation. Pure.
//!
//! ```text
//!                  advance:                 advance:
//!                  Zenoh configured         Zenoh configured, parity
//!  ┌─────────────┐ ────────────▶ ┌────────┐ ────────────▶ ┌─────────┐ ────────────▶ ┌────────────────┐
//!  │ 1 Broadcast │               │ 2 Dual │               │ 3 Zenoh │ the log moves │ 4 ZenohStorage │
//!  └─────────────┘ ◀──────────── └────────┘ ◀──────────── └─────────┘ ◀──────────── └────────────────┘
//!         ▲            rollback                rollback        │        rollback: the log moves │
//!         └────────────────────────────────────────────────────┴────────────────────────────────┘
//!                        rollback, straight to any earlier phase
//! ```
//!
//! An advance goes one phase forward. A rollback needs nothing that is observed: it is allowed, but while the log is
//! just moving. From and to the fourth phase the log itself moves ([`crate::moving`]); the step is recorded where it
//! then is.

use serde::Serialize;

use super::parity::{ParityGap, ParityReport};
use super::told::{counted, told};
use crate::bus::EventBusMode;
use crate::moving::{LogPlace, Whereabouts};
use crate::store::Phase;

impl Phase {
    /// How events travel in this phase.
    #[must_use]
    pub fn bus_mode(self) -> EventBusMode {
        match self {
            Self::Broadcast => EventBusMode::Broadcast,
            Self::Dual => EventBusMode::Dual,
            Self::Zenoh | Self::ZenohStorage => EventBusMode::Zenoh,
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
            Self::ZenohStorage => "events travel over Zenoh, and the log is one of slots, without SQLite",
        }
    }
}

/// What somebody wishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To go one phase forward.
    Advance {
        /// The phase where that is expected to lead, so that of two who wish the same only one moves.
        to: Option<Phase>,
        /// Where the log is to go, if it moves.
        log: Option<LogPlace>,
    },
    /// To go back.
    RollBack {
        /// The earlier phase; the one before where none is named.
        to: Option<Phase>,
        /// Where the log is to go, if it moves; to where it was before, where none is named.
        log: Option<LogPlace>,
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
    /// Where the log is, where it can move.
    pub log: Option<Whereabouts>,
}

impl Observation {
    /// Whether the log is in a SQLite file.
    fn on_database(&self) -> bool {
        self.log.as_ref().is_none_or(|log| log.log.is_database())
    }

    /// The SQLite file that the log goes back to where none is named.
    fn home(&self) -> LogPlace {
        let mirror = self.log.as_ref().and_then(|log| log.mirror.clone());
        mirror.filter(LogPlace::is_database).unwrap_or_else(LogPlace::database)
    }
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
        /// Where the log goes, if it moves.
        log: Option<LogPlace>,
        /// What whoever takes the step should know before.
        consequences: Vec<Consequence>,
    },
    /// Back.
    RollBack {
        /// The phase.
        to: Phase,
        /// Where the log goes, if it moves.
        log: Option<LogPlace>,
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
    /// The log is moving.
    #[error("the log is just going over to {to}; `ironbus migrate status` shows how far it is")]
    Moving {
        /// Where it goes.
        to: LogPlace,
    },
    /// Nobody here can move the log.
    #[error("the log can't move here: it is no node's that has a data directory")]
    Immovable,
    /// It isn't said where the log is to go.
    #[error("say where the log is to go: --log rocksdb:DIRECTORY, folder:DIRECTORY or s3://BUCKET/PREFIX")]
    NoPlace,
    /// The log can't go there with this step.
    #[error("with this step the log can't go to {to}: {why}")]
    WrongPlace {
        /// Where.
        to: LogPlace,
        /// Why not.
        why: &'static str,
    },
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
    Moving { .. } => "moving",
    Immovable => "immovable",
    NoPlace => "no_place",
    WrongPlace { .. } => "wrong_place",
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
        Wish::Advance { to, log } => advance(phase, to, log, observed),
        Wish::RollBack { to, log } => roll_back(phase, to, log, observed),
    }
}

fn advance(phase: Phase, to: Option<Phase>, log: Option<LogPlace>, observed: &Observation) -> Transition {
    let Some(next) = phase.next() else { return Transition::Stay { why: vec![Obstacle::Last { phase }] } };
    if let Some(to) = to.filter(|to| *to != next) {
        return Transition::Stay { why: vec![Obstacle::NotNext { phase, next, to }] };
    }
    let mut why: Vec<_> = moving(observed).into_iter().collect();
    if !observed.zenoh {
        why.push(Obstacle::NoZenoh);
    }
    if phase == Phase::Dual {
        match &observed.parity {
            None => why.push(Obstacle::NotCompared),
            Some(parity) => why.extend(parity.why_not.iter().cloned().map(Obstacle::Parity)),
        }
    }
    let moves = next == Phase::ZenohStorage && observed.on_database();
    match &log {
        _ if moves && observed.log.is_none() => why.push(Obstacle::Immovable),
        None if moves => why.push(Obstacle::NoPlace),
        Some(to) if moves && to.is_database() => {
            why.push(Obstacle::WrongPlace { to: to.clone(), why: "a SQLite file is what it leaves" });
        }
        Some(to) if !moves => {
            why.push(Obstacle::WrongPlace { to: to.clone(), why: "the log stays where it is" });
        }
        _ => {}
    }
    if why.is_empty() {
        Transition::Advance { to: next, log, consequences: consequences(phase, next, observed) }
    } else {
        Transition::Stay { why }
    }
}

fn moving(observed: &Observation) -> Option<Obstacle> {
    let moving = observed.log.as_ref()?.moving.as_ref()?;
    Some(Obstacle::Moving { to: moving.to.clone() })
}

fn roll_back(phase: Phase, to: Option<Phase>, log: Option<LogPlace>, observed: &Observation) -> Transition {
    let Some(before) = phase.previous() else {
        return Transition::Stay { why: vec![Obstacle::First { phase }] };
    };
    let to = to.unwrap_or(before);
    if to >= phase {
        return Transition::Stay { why: vec![Obstacle::NotEarlier { phase, to }] };
    }
    if let Some(moving) = moving(observed) {
        return Transition::Stay { why: vec![moving] };
    }
    let moves = phase == Phase::ZenohStorage && !observed.on_database();
    let log = match log {
        Some(to) if !moves => {
            let why = vec![Obstacle::WrongPlace { to, why: "the log stays where it is" }];
            return Transition::Stay { why };
        }
        Some(to) if !to.is_database() => {
            let why = vec![Obstacle::WrongPlace { to, why: "a step back leads to a SQLite file" }];
            return Transition::Stay { why };
        }
        named => moves.then(|| named.unwrap_or_else(|| observed.home())),
    };
    Transition::RollBack { to, log, consequences: consequences(phase, to, observed) }
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
    // With the log its epoch changes, and raw subscriptions don't know what that kept.
    let moves = (from == Phase::ZenohStorage) != (to == Phase::ZenohStorage);
    if stops(Side::Zenoh) || moves {
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
    /// Whether it has to be said where the log is to go.
    pub needs_log: bool,
}

impl Plan {
    /// The plan in a phase.
    #[must_use]
    pub fn of(phase: Phase, observed: &Observation) -> Self {
        let moves = |to| to == Phase::ZenohStorage && observed.on_database();
        let planned = |to: Phase, wish: Wish| {
            let (obstacles, consequences) = match step(phase, wish, observed) {
                Transition::Stay { why } => (why, consequences(phase, to, observed)),
                Transition::Advance { consequences, .. } | Transition::RollBack { consequences, .. } => {
                    (Vec::new(), consequences)
                }
            };
            PlannedStep { to, does: to.meaning(), obstacles, consequences, needs_log: moves(to) }
        };
        let earlier = std::iter::successors(phase.previous(), |phase| phase.previous());
        Self {
            phase,
            advance: phase.next().map(|to| {
                // Wherever it goes, what is in the way is the same.
                let log = moves(to).then(LogPlace::anywhere);
                planned(to, Wish::Advance { to: Some(to), log })
            }),
            rollback: earlier.map(|to| planned(to, Wish::RollBack { to: Some(to), log: None })).collect(),
        }
    }
}
