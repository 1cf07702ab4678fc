//! The migration: takes a log live from one process to many nodes, step by step, and back.
//!
//! [`step`] decides: what follows from a [`Phase`], a [`Wish`] and an [`Observation`]. [`Parity`] compares
//! both buses, [`Triggers`] say when migrating is worth it, [`Nodes`] which edge nodes are there; all of
//! these are pure. [`Migration`] carries steps out, over a [`Journal`], a [`BusSwitch`] and [`Gauges`].
//!
//! Stands above the store and the buses. A subscription's state is a position, so that a step only
//! exchanges the sources of the tail: no reader loses, repeats or reorders anything by it.
//!
//! Invariants:
//! - the journal is the truth, and the bus follows it: a step is recorded first, then the bus is switched.
//!   A process that is killed in between begins in the phase that was recorded. The other way round, a
//!   phase that nobody recorded would have been in force, and would silently be taken back by the restart;
//! - of two who wish the same step, one takes it and the other is told;
//! - a rollback needs nothing, not even Zenoh.

mod comparison;
mod controller;
mod driver;
mod measure;
mod nodes;
mod parity;
mod status;
mod step;
mod told;
mod triggers;

pub(crate) use comparison::compare;
pub use controller::{
    BusSwitch, Gauges, Migration, MigrationOptions, StartError, StepError, StepRequest, SwitchError,
    roll_back_record,
};
pub use measure::Latency;
pub use nodes::{NodeMeter, NodeReport, Nodes};
pub use parity::{NodeParity, Parity, ParityGap, ParityOptions, ParityReport};
pub use status::Status;
pub use step::{Consequence, Observation, Obstacle, Plan, PlannedStep, Transition, Wish, step};
pub use triggers::{Advice, Measured, Thresholds, Trigger, TriggerReport, Triggers};

pub use crate::store::{
    InvalidPhase, InvalidStep, Journal, JournalError, JournalPage, JournalStep, NewStep, Phase,
};
