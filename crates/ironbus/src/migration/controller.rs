//! The controller as seen from outside: what it stands on, what it is asked, what it shows.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::driver::Driver;
use super::nodes::{NodeReport, Nodes};
use super::parity::{Parity, ParityOptions};
use super::status::Status;
use super::step::{Observation, Obstacle, Plan, Transition, Wish, step};
use super::triggers::{Measured, Thresholds, Triggers};
use crate::bus::{EventBusMode, Side};
use crate::event::{Json, Position};
use crate::moving::{LogPlace, MoveError, Mover};
use crate::store::{InvalidStep, Journal, JournalError, JournalPage, JournalStep, NewStep, Phase, ReadError};

/// How many requests for steps may wait. When as many wait, a further one waits to be let in.
const WAITING_REQUESTS: usize = 16;

/// How a migration behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationOptions {
    /// What counts as parity of both buses.
    pub parity: ParityOptions,
    /// What is too much for one process.
    pub thresholds: Thresholds,
    /// An edge node that says nothing for so long isn't there any more (10 s).
    pub silence: Duration,
    /// How often figures are taken and the status is told (1 s).
    pub every: Duration,
}

impl Default for MigrationOptions {
    fn default() -> Self {
        Self {
            parity: ParityOptions::default(),
            thresholds: Thresholds::default(),
            silence: Duration::from_secs(10),
            every: Duration::from_secs(1),
        }
    }
}

/// Why a bus couldn't be switched: whatever it said.
pub type SwitchError = Box<dyn std::error::Error + Send + Sync>;

/// The bus of a node, as far as the migration needs it.
#[async_trait]
pub trait BusSwitch: Send + Sync + 'static {
    /// How events travel now.
    fn mode(&self) -> EventBusMode;

    /// Whether there is a Zenoh side to switch to.
    fn has_zenoh(&self) -> bool;

    /// How many raw subscriptions of this node listen to one side.
    fn listeners(&self, side: Side) -> usize;

    /// Switches. Once it returns, what is committed from then on travels in that mode.
    ///
    /// # Errors
    ///
    /// What the bus says; nothing changes then.
    async fn set_mode(&self, mode: EventBusMode) -> Result<(), SwitchError>;
}

/// What can be counted at a node.
pub trait Gauges: Send + Sync + 'static {
    /// The last position of the log.
    fn head(&self) -> Position;

    /// How many streams are open at this node.
    fn sse_clients(&self) -> u64;

    /// How many Zenoh subscribers on `events/**` there are that aren't nodes of ours.
    fn foreign_subscribers(&self) -> u64;
}

/// Who wishes a step, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRequest {
    /// The phase to go to. For an advance the next one, for a rollback the one before, where none is
    /// named.
    pub to: Option<Phase>,
    /// Where the log is to go, for a step with which it moves.
    pub log: Option<LogPlace>,
    /// Who wishes it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Why a migration can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The journal can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The node has no log of its own.
    #[error("this node has no log of its own; the steps of its migration are taken at the store node")]
    NoLog,
    /// The log is in a phase that needs Zenoh.
    #[error(
        "the log is in phase {phase}, and this node has no Zenoh bus: start it with one, or take the log back \
         with `ironbus migrate rollback --to broadcast --data DIR --reason …`"
    )]
    NoZenoh {
        /// The phase.
        phase: Phase,
    },
    /// The bus can't be switched to the phase's mode.
    #[error("the log is in phase {phase}, and the bus can't follow: {source}")]
    Switch {
        /// The phase.
        phase: Phase,
        /// What the bus said.
        source: SwitchError,
    },
}

/// Why a step wasn't taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// Something is in the way.
    #[error("no step from phase {phase}: {}", in_words(obstacles))]
    Refused {
        /// The phase in force.
        phase: Phase,
        /// What is in the way.
        obstacles: Vec<Obstacle>,
    },
    /// Somebody else's step was faster.
    #[error("the log is in phase {actual} and no longer in phase {expected}: another step was faster")]
    Moved {
        /// The phase in force when the step was wished.
        expected: Phase,
        /// The phase in force.
        actual: Phase,
    },
    /// The request doesn't say who wishes the step, or why.
    #[error(transparent)]
    Invalid(#[from] InvalidStep),
    /// The step couldn't be recorded, so it wasn't taken.
    #[error(transparent)]
    Journal(JournalError),
    /// The bus couldn't be switched.
    #[error("the bus couldn't be switched to phase {to} ({source}); the log is in phase {phase}")]
    Switch {
        /// The phase where the step was to lead.
        to: Phase,
        /// The phase in force now. Where it is `to`, the switch is tried again until it succeeds.
        phase: Phase,
        /// What the bus said.
        source: SwitchError,
    },
    /// The log couldn't move.
    #[error(transparent)]
    Move(MoveError),
    /// The journal can't be read, so it isn't known which phase is in force.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The node is closed or closing.
    #[error("the node is shutting down; no step is taken")]
    Closed,
}

impl From<MoveError> for StepError {
    fn from(error: MoveError) -> Self {
        match error {
            MoveError::Closed => Self::Closed,
            other => Self::Move(other),
        }
    }
}

impl From<JournalError> for StepError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Moved { expected, actual } => Self::Moved { expected, actual },
            JournalError::Invalid(invalid) => Self::Invalid(invalid),
            JournalError::Closed => Self::Closed,
            other => Self::Journal(other),
        }
    }
}

fn in_words(obstacles: &[Obstacle]) -> String {
    let words: Vec<_> = obstacles.iter().map(ToString::to_string).collect();
    words.join("; ")
}

/// The controller of a log's migration. A handle: cheap to clone.
#[derive(Clone)]
pub struct Migration {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

/// What the handles and the driver share.
pub(super) struct Shared {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) bus: Arc<dyn BusSwitch>,
    gauges: Arc<dyn Gauges>,
    pub(super) mover: Option<Mover>,
    pub(super) options: MigrationOptions,
    pub(super) closing: CancellationToken,
    /// Whether `meters.parity` is there, so that nobody takes the lock for nothing.
    comparing: AtomicBool,
    meters: Mutex<Meters>,
    pub(super) status: watch::Sender<Arc<Status>>,
}

/// What is measured.
struct Meters {
    parity: Option<Parity>,
    nodes: Nodes,
    triggers: Triggers,
}

/// A wish, on its way to the driver.
pub(super) struct Request {
    pub(super) wish: Wish,
    pub(super) by: String,
    pub(super) reason: String,
    /// The phase that was in force when it was wished.
    pub(super) expected: Phase,
    pub(super) reply: oneshot::Sender<Result<JournalStep, StepError>>,
}

impl Migration {
    /// Reads the phase in force and lets the bus follow it. Whoever starts a migration owns its driver,
    /// which has to be run as a task: it takes the steps, one after another, and the figures. It ends
    /// when the migration is closed or its last handle is gone. Without a `mover` the log stays where it is.
    ///
    /// # Errors
    ///
    /// [`StartError`] when the journal can't be read, or the bus can't follow it.
    pub async fn start(
        journal: Arc<dyn Journal>,
        bus: Arc<dyn BusSwitch>,
        gauges: Arc<dyn Gauges>,
        mover: Option<Mover>,
        options: MigrationOptions,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), StartError> {
        let page = journal.journal(1).await?;
        let phase = page.phase;
        if phase.bus_mode().carries(Side::Zenoh) && !bus.has_zenoh() {
            return Err(StartError::NoZenoh { phase });
        }
        let meters = Meters {
            parity: None,
            nodes: Nodes::new(options.silence),
            triggers: Triggers::new(options.thresholds),
        };
        let first = status_of(&page, bus.as_ref(), mover.as_ref(), &meters.triggers, Vec::new(), None);
        let shared = Arc::new(Shared {
            journal,
            bus,
            gauges,
            mover,
            options,
            closing: CancellationToken::new(),
            comparing: AtomicBool::new(false),
            meters: Mutex::new(meters),
            status: watch::Sender::new(Arc::new(first)),
        });
        let (requests, waiting) = mpsc::channel(WAITING_REQUESTS);
        let mut driver = Driver::new(Arc::clone(&shared), page);
        driver.follow().await.map_err(|source| StartError::Switch { phase, source })?;
        driver.tell();
        Ok((Self { shared, requests }, driver.run(waiting)))
    }

    /// How both buses are compared.
    #[must_use]
    pub fn parity_options(&self) -> ParityOptions {
        self.shared.options.parity
    }

    /// How the migration is, as of the last second.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.shared.status.borrow())
    }

    /// Tells how the migration is, about once a second and after every step.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Status>> {
        self.shared.status.subscribe()
    }

    /// What the next step forward and each step back would do, and what is in the way.
    #[must_use]
    pub fn plan(&self) -> Plan {
        Plan::of(self.status().phase, &self.shared.observe(now()))
    }

    /// The last steps that were taken, in order.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when the journal can't be read.
    pub async fn history(&self, last: usize) -> Result<Vec<JournalStep>, ReadError> {
        Ok(self.shared.journal.journal(last).await?.steps)
    }

    /// Goes one phase forward. Returns once the bus has followed. Dropping the future doesn't take the
    /// step back.
    ///
    /// # Errors
    ///
    /// [`StepError`] with what is in the way.
    pub async fn advance(&self, request: StepRequest) -> Result<JournalStep, StepError> {
        self.ask(Wish::Advance { to: request.to, log: request.log }, request.by, request.reason).await
    }

    /// Goes back to an earlier phase. Returns once the bus has followed. Dropping the future doesn't take
    /// the step back.
    ///
    /// # Errors
    ///
    /// [`StepError`]; nothing that is observed is ever in the way.
    pub async fn rollback(&self, request: StepRequest) -> Result<JournalStep, StepError> {
        self.ask(Wish::RollBack { to: request.to, log: request.log }, request.by, request.reason).await
    }

    async fn ask(&self, wish: Wish, by: String, reason: String) -> Result<JournalStep, StepError> {
        let expected = self.status().phase;
        let (reply, answer) = oneshot::channel();
        let request = Request { wish, by, reason, expected, reply };
        self.requests.send(request).await.map_err(|_| StepError::Closed)?;
        answer.await.map_err(|_| StepError::Closed)?
    }

    /// Takes back a move of the log that is still copying. Says whether there was one.
    #[must_use]
    pub fn cancel_move(&self) -> bool {
        self.shared.mover.as_ref().is_some_and(Mover::cancel)
    }

    /// Ends keeping the log up to date that was left by the last move. Says whether there was one.
    ///
    /// # Errors
    ///
    /// [`StepError::Move`] when that can't be written down.
    pub async fn end_mirror(&self) -> Result<bool, StepError> {
        match &self.shared.mover {
            Some(mover) => mover.end_mirror().await.map_err(|error| StepError::Move(error.into())),
            None => Ok(false),
        }
    }

    /// Whether both buses are being compared, so that what they bring is to be told to [`Self::heard`].
    #[must_use]
    pub fn is_comparing(&self) -> bool {
        self.shared.comparing.load(Ordering::Acquire)
    }

    /// A bus has brought a position, so long after it was recorded. Does nothing while nothing is
    /// compared.
    pub fn heard(&self, side: Side, position: Position, latency: Duration) {
        if !self.is_comparing() {
            return;
        }
        if let Some(parity) = &mut self.shared.meters.lock().parity {
            parity.heard(side, position, latency, now());
        }
    }

    /// Whoever tells what the buses bring has itself missed something before this position, so that
    /// nothing before it can be compared.
    pub fn passed_over(&self, before: Position) {
        if let Some(parity) = &mut self.shared.meters.lock().parity {
            parity.passed_over(before, now());
        }
    }

    /// An edge node has said how it is.
    pub fn node_report(&self, report: NodeReport) {
        self.shared.meters.lock().nodes.report(report, now());
    }

    /// An edge node has said that it goes.
    pub fn node_left(&self, node: &str) {
        self.shared.meters.lock().nodes.left(node);
    }

    /// Lets the step under way finish, takes no further one, and ends the driver.
    pub fn close(&self) {
        self.shared.closing.cancel();
    }
}

impl std::fmt::Debug for Migration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Migration").field("phase", &self.status().phase).finish_non_exhaustive()
    }
}

/// The moment by tokio's clock, which tests may stop.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Shared {
    /// What a decision is made from.
    pub(super) fn observe(&self, at: Instant) -> Observation {
        let meters = &mut *self.meters.lock();
        Observation {
            zenoh: self.bus.has_zenoh(),
            parity: meters.parity.as_mut().map(|parity| parity.report(&meters.nodes, at)),
            edge_nodes: meters.nodes.present(at).map(|report| report.node.clone()).collect(),
            broadcast_listeners: self.bus.listeners(Side::Broadcast),
            zenoh_listeners: self.bus.listeners(Side::Zenoh),
            foreign_subscribers: self.gauges.foreign_subscribers(),
            log: self.mover.as_ref().map(Mover::whereabouts),
        }
    }

    /// Takes the figures that the triggers go by.
    pub(super) fn measure(&self, at: Instant) {
        let meters = &mut *self.meters.lock();
        let (mut nodes, mut at_edges) = (1, 0);
        for report in meters.nodes.present(at) {
            nodes += 1;
            at_edges += report.sse_clients;
        }
        let measured = Measured {
            head: self.gauges.head(),
            sse_clients: self.gauges.sse_clients() + at_edges,
            nodes,
            foreign_subscribers: self.gauges.foreign_subscribers(),
        };
        meters.triggers.observe(measured, at, Timestamp::now());
    }

    /// Compares both buses from now on, or ends comparing them.
    pub(super) fn compare(&self, compare: bool, at: Instant) {
        let mut meters = self.meters.lock();
        if compare != meters.parity.is_some() {
            // What was committed before the switch may have travelled by one bus alone.
            let begin = || Parity::new(self.options.parity, self.gauges.head(), at);
            meters.parity = compare.then(begin);
            self.comparing.store(compare, Ordering::Release);
        }
    }

    pub(super) fn status(&self, page: &JournalPage, at: Instant) -> Status {
        let meters = &mut *self.meters.lock();
        let parity = meters.parity.as_mut().map(|parity| parity.report(&meters.nodes, at));
        let edge_nodes = meters.nodes.present(at).cloned().collect();
        status_of(page, self.bus.as_ref(), self.mover.as_ref(), &meters.triggers, edge_nodes, parity)
    }
}

fn status_of(
    page: &JournalPage,
    bus: &dyn BusSwitch,
    mover: Option<&Mover>,
    triggers: &Triggers,
    edge_nodes: Vec<NodeReport>,
    parity: Option<super::ParityReport>,
) -> Status {
    Status {
        phase: page.phase,
        phase_number: page.phase.number(),
        bus: bus.mode(),
        zenoh: bus.has_zenoh(),
        taken: page.taken,
        last_step: page.steps.last().cloned(),
        log: mover.map(|mover| mover.whereabouts().log),
        moving: mover.and_then(Mover::status),
        pause_seconds: mover.and_then(Mover::last_pause).map(|pause| pause.as_secs_f64()),
        edge_nodes,
        parity,
        triggers: triggers.report(),
        advice: triggers.advise(page.phase),
    }
}

/// Records a rollback in a journal whose log nobody serves; the bus follows when a server starts. So a log
/// in a phase that needs Zenoh is taken back without Zenoh.
///
/// # Errors
///
/// [`StepError`]; nothing but a phase that isn't earlier is in the way.
pub async fn roll_back_record(journal: &dyn Journal, request: StepRequest) -> Result<JournalStep, StepError> {
    let from = journal.journal(0).await?.phase;
    match step(from, Wish::RollBack { to: request.to, log: request.log }, &Observation::default()) {
        Transition::Stay { why } => Err(StepError::Refused { phase: from, obstacles: why }),
        Transition::Advance { to, .. } | Transition::RollBack { to, .. } => {
            let StepRequest { by, reason, .. } = request;
            let figures = Json::empty_object();
            Ok(journal.record(NewStep { from, to, by, reason, figures }).await?)
        }
    }
}
