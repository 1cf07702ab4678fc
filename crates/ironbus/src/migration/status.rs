//! How the migration is: what people and programs are shown.

use serde::Serialize;

use super::nodes::NodeReport;
use super::parity::ParityReport;
use super::triggers::{Advice, TriggerReport};
use crate::bus::EventBusMode;
use crate::moving::{LogPlace, MoveStatus};
use crate::store::{JournalStep, Phase};

/// How the migration is at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// The phase in force.
    pub phase: Phase,
    /// Its number.
    pub phase_number: u8,
    /// How events travel. It is what the phase asks for, but while the bus can't follow.
    pub bus: EventBusMode,
    /// Whether this node has a Zenoh bus.
    pub zenoh: bool,
    /// How many steps were taken in all.
    pub taken: u64,
    /// The last of them.
    pub last_step: Option<JournalStep>,
    /// Where the log is, where it can move.
    pub log: Option<LogPlace>,
    /// The move of the log that is under way, or the mirror of the last one.
    pub moving: Option<MoveStatus>,
    /// How long appends waited when the log last went over, in seconds, since this process was started.
    pub pause_seconds: Option<f64>,
    /// The edge nodes that are there.
    pub edge_nodes: Vec<NodeReport>,
    /// The comparison of both buses, where both carry.
    pub parity: Option<ParityReport>,
    /// What is measured, and what follows.
    pub triggers: Vec<TriggerReport>,
    /// What all of that comes to.
    pub advice: Advice,
}
