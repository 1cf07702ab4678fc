//! The driver: takes the steps, one after another, and the figures. The one task of a migration.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::controller::{Request, Shared, StepError, SwitchError, now};
use super::step::{Observation, Transition, step};
use crate::event::Json;
use crate::moving::{LogPlace, MoveError, Mover};
use crate::store::{JournalError, JournalPage, JournalStep, NewStep, Phase, ReadError};

/// What a wish led to.
enum Taken {
    Step(JournalStep),
    /// The log moves, which takes its time; the step is recorded where it then is.
    Move(Mover, LogPlace, NewStep),
}

/// Who is named for a step that nobody wished.
const ITSELF: &str = "ironbus";

pub(super) struct Driver {
    shared: Arc<Shared>,
    /// The phase in force, the number of steps, and the last one.
    page: JournalPage,
    /// Whether the journal has to be asked before the next step, because it couldn't say whether the last
    /// one was recorded.
    in_doubt: bool,
    /// Where the log was when the journal was last asked; when it is elsewhere, a move has taken a step.
    place: Option<LogPlace>,
    /// Moves that are done, and who waits for each. One is under way at a time.
    done: (mpsc::Sender<Moved>, mpsc::Receiver<Moved>),
}

/// What became of a move, and who asked for it.
type Moved = (Result<JournalStep, MoveError>, Reply);

/// Who waits for a step.
type Reply = oneshot::Sender<Result<JournalStep, StepError>>;

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, page: JournalPage) -> Self {
        let place = shared.mover.as_ref().map(|mover| mover.whereabouts().log);
        Self { shared, page, in_doubt: false, place, done: mpsc::channel(1) }
    }

    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let shared = Arc::clone(&self.shared);
        let mut every = tokio::time::interval(shared.options.every.max(Duration::from_millis(1)));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shared.closing.cancelled() => return,
                request = requests.recv() => {
                    let Some(request) = request else { return };
                    if let Some((taken, reply)) = self.answer(request).await {
                        // First everybody is shown, so that who is answered finds it so.
                        self.tell();
                        // Who asked may have stopped waiting; the step stands all the same.
                        let _ = reply.send(taken);
                    }
                }
                Some((moved, reply)) = self.done.1.recv() => {
                    let taken = self.moved(moved).await;
                    self.tell();
                    // Who asked may have stopped waiting; the step stands all the same.
                    let _ = reply.send(taken);
                }
                _ = every.tick() => {
                    shared.measure(now());
                    self.catch_up().await;
                    self.tell();
                }
            }
        }
    }

    /// Shows everybody how the migration is.
    pub(super) fn tell(&self) {
        self.shared.status.send_replace(Arc::new(self.shared.status(&self.page, now())));
    }

    /// Lets the bus follow the journal.
    pub(super) async fn follow(&mut self) -> Result<(), SwitchError> {
        let mode = self.page.phase.bus_mode();
        if self.shared.bus.mode() != mode {
            self.shared.bus.set_mode(mode).await?;
        }
        self.shared.compare(self.page.phase == Phase::Dual, now());
        Ok(())
    }

    /// Does what couldn't be done when it was due.
    async fn catch_up(&mut self) {
        let place = self.shared.mover.as_ref().map(|mover| mover.whereabouts().log);
        if place != self.place {
            // A move that was under way before this process was started.
            (self.place, self.in_doubt) = (place, true);
        }
        if self.in_doubt
            && let Err(error) = self.ask_journal().await
        {
            tracing::warn!(%error, "it isn't known whether the last step was recorded; asking again");
            return;
        }
        if let Err(error) = self.follow().await {
            tracing::warn!(%error, phase = %self.page.phase, "the bus can't follow the phase; trying again");
        }
    }

    async fn ask_journal(&mut self) -> Result<(), ReadError> {
        self.page = self.shared.journal.journal(1).await?;
        self.in_doubt = false;
        Ok(())
    }

    /// The answer to a request, and who waits for it; nothing where a move has begun, which answers when it is done.
    async fn answer(&mut self, request: Request) -> Option<(Result<JournalStep, StepError>, Reply)> {
        let taken = match self.take(&request).await {
            Ok(Taken::Step(step)) => Ok(step),
            Ok(Taken::Move(mover, to, new)) => {
                let (done, reply) = (self.done.0.clone(), request.reply);
                tokio::spawn(async move {
                    let moved = mover.go(to, new).await;
                    // Where the driver has ended, the move is told by the journal.
                    let _ = done.send((moved, reply)).await;
                });
                return None;
            }
            Err(error) => Err(error),
        };
        Some((taken, request.reply))
    }

    /// The log has moved, and so the phase.
    async fn moved(&mut self, moved: Result<JournalStep, MoveError>) -> Result<JournalStep, StepError> {
        let step = moved?;
        self.place = self.shared.mover.as_ref().map(|mover| mover.whereabouts().log);
        self.page = JournalPage { phase: step.to, taken: step.step, steps: vec![step.clone()] };
        tracing::info!(from = %step.from, to = %step.to, by = step.by, reason = step.reason, "a step of the migration");
        match self.follow().await {
            Ok(()) => Ok(step),
            Err(source) => Err(StepError::Switch { to: step.to, phase: step.to, source }),
        }
    }

    async fn take(&mut self, request: &Request) -> Result<Taken, StepError> {
        if self.in_doubt {
            self.ask_journal().await?;
        }
        let from = self.page.phase;
        if request.expected != from {
            return Err(StepError::Moved { expected: request.expected, actual: from });
        }
        let observed = self.shared.observe(now());
        let (to, log) = match step(from, request.wish.clone(), &observed) {
            Transition::Stay { why } => return Err(StepError::Refused { phase: from, obstacles: why }),
            Transition::Advance { to, log, .. } | Transition::RollBack { to, log, .. } => (to, log),
        };
        let (by, reason) = (request.by.clone(), request.reason.clone());
        let figures = self.figures(&observed);
        let new = NewStep { from, to, by, reason, figures };
        if let Some((log, mover)) = log.zip(self.shared.mover.clone()) {
            new.check()?;
            return Ok(Taken::Move(mover, log, new));
        }
        // First the record, then the bus: see the module.
        let taken = self.record(new).await?;
        tracing::info!(%from, %to, by = taken.by, reason = taken.reason, "a step of the migration");
        match self.follow().await {
            Ok(()) => Ok(Taken::Step(taken)),
            Err(source) => Err(self.could_not_follow(from, to, source).await),
        }
    }

    /// What is recorded with a step: what was known when it was decided.
    fn figures(&self, observed: &Observation) -> Json {
        let status = self.shared.status.borrow();
        let figures = json!({
            "parity": observed.parity,
            "triggers": status.triggers,
            "edge_nodes": observed.edge_nodes,
            "foreign_subscribers": observed.foreign_subscribers,
            "broadcast_listeners": observed.broadcast_listeners,
            "zenoh_listeners": observed.zenoh_listeners,
        });
        Json::of(&figures).expect("the names of its members are text")
    }

    /// Records a step. Where the journal can't tell whether it did, the journal is asked.
    async fn record(&mut self, new: NewStep) -> Result<JournalStep, StepError> {
        let (before, error) = match self.shared.journal.record(new).await {
            Ok(step) => {
                self.page = JournalPage { phase: step.to, taken: step.step, steps: vec![step.clone()] };
                return Ok(step);
            }
            Err(error @ (JournalError::Unknown(_) | JournalError::Moved { .. })) => (self.page.taken, error),
            Err(error) => return Err(error.into()),
        };
        self.in_doubt = true;
        self.ask_journal().await?;
        // Only this driver takes steps while the log is open, so a further step is the one in question.
        match self.page.steps.last() {
            Some(step) if self.page.taken > before && matches!(error, JournalError::Unknown(_)) => {
                Ok(step.clone())
            }
            _ => Err(error.into()),
        }
    }

    /// A step is recorded, but the bus can't follow. Forward, the step is taken back, and that is recorded
    /// too. Back, the record stands, and the bus is switched again until it follows.
    async fn could_not_follow(&mut self, from: Phase, to: Phase, source: SwitchError) -> StepError {
        if to > from {
            let (by, reason) = (ITSELF.to_owned(), format!("the bus couldn't be switched: {source}"));
            let reason = reason.chars().take(NewStep::MAX_REASON_BYTES / 4).collect();
            let back = NewStep { from: to, to: from, by, reason, figures: Json::empty_object() };
            let recorded = self.record(back).await;
            let followed = self.follow().await;
            if let Err(error) = recorded {
                tracing::error!(%error, "a step that the bus can't follow couldn't be taken back");
            }
            if let Err(error) = followed {
                tracing::error!(%error, "the bus can't follow the journal");
            }
        }
        StepError::Switch { to, phase: self.page.phase, source }
    }
}
