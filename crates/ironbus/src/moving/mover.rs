//! Carries a move out, keeps the log that was left up to date, and finishes at the next start what was cut off.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Found, LogPlace, LogPlaces, Move, NodeLog, Whereabouts};
use crate::event::Json;
use crate::key::EventFilter;
use crate::store::{
    AppendError, CopyFailure, CopyOf, EventStore, Head, JournalStep, Log, LogCopy, LogEnd, NewStep,
    OpenError, ReadError,
};
use crate::tail::Tail;

/// How many events are copied at a time.
const PAGE: usize = 4096;

/// With fewer than this to copy the log is sealed: what has come meanwhile is copied while appends wait.
const NEAR: u64 = 1024;

/// How long is waited before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a move that is told to stop may take to.
const LEAVE: Duration = Duration::from_secs(5);

/// How long the mirror collects what is appended, so that it costs few syncs.
const COLLECT: Duration = Duration::from_millis(200);

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Events are copied while appends go on.
    Copying,
    /// The log is sealed, the rest is copied and the new log opened; appends wait.
    GoingOver,
    /// The log is elsewhere, and the one before is kept up to date for the way back.
    Mirroring,
}

/// How a move is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MoveStatus {
    /// How far it is.
    pub stage: Stage,
    /// The log that is left; while it is mirrored, the log in force.
    pub from: LogPlace,
    /// Where events are copied to.
    pub to: LogPlace,
    /// Up to which position they are.
    pub copied: u64,
    /// Where the log ends.
    pub head: u64,
    /// How many were copied in a second, of late.
    pub per_second: f64,
    /// How long the rest takes at that rate, in seconds.
    pub seconds_left: Option<f64>,
    /// What is in the way just now; it is tried on.
    pub trouble: Option<String>,
}

/// Why a log didn't move. It is where it was then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// A move is under way.
    #[error("the log is going over to {to} already; `ironbus migrate status` shows how far it is")]
    UnderWay {
        /// Where it goes.
        to: LogPlace,
    },
    /// It is there.
    #[error("the log is at {0} already")]
    Already(LogPlace),
    /// The place can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It couldn't be copied.
    #[error(transparent)]
    Copy(#[from] CopyFailure),
    /// The log can't be read.
    #[error("the log can't be read: {0}")]
    Read(#[from] ReadError),
    /// The log can't be sealed.
    #[error("the log can't be sealed: {0}")]
    Seal(#[source] AppendError),
    /// Somebody took it back.
    #[error("the move was cancelled; the log is where it was, and what was copied is gone on from next time")]
    Cancelled,
    /// The node is closing. The move goes on at its next start.
    #[error("the node is shutting down; the move goes on when it is started again")]
    Closed,
}

impl MoveError {
    /// Whether it makes no sense to try on.
    fn is_final(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Closed | Self::Copy(CopyFailure::NotACopy { .. }))
    }
}

/// Who has to know when another log has taken over; told while appends wait.
#[async_trait]
pub(crate) trait Exchanged: Send + Sync {
    async fn exchanged(&self, head: &Head);
}

/// Moves a node's log. A handle: cheap to clone.
#[derive(Clone)]
pub struct Mover(Arc<Shared>);

struct Shared {
    log: NodeLog,
    places: Arc<dyn LogPlaces>,
    data: PathBuf,
    whereabouts: Mutex<Whereabouts>,
    status: watch::Sender<Option<MoveStatus>>,
    /// How long appends waited when the log last went over.
    pause: Mutex<Option<Duration>>,
    cancel: Mutex<CancellationToken>,
    mirror: Mutex<Option<Mirror>>,
    /// Held while a move is under way.
    under_way: tokio::sync::Mutex<()>,
    exchanged: Arc<dyn Exchanged>,
    stop: CancellationToken,
}

struct Mirror {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// A node's log as it was found, and where.
pub(crate) struct Opened {
    pub(crate) log: NodeLog,
    pub(crate) whereabouts: Whereabouts,
}

/// Opens the log of a data directory, wherever it is; `begin` is where one is begun if there is none. A move that was
/// cut off after the old log was sealed is finished first.
pub(crate) async fn open(
    places: &dyn LogPlaces,
    data: &std::path::Path,
    begin: Option<LogPlace>,
    tail: Arc<Tail>,
) -> Result<Opened, OpenError> {
    let said = Whereabouts::read(data)?;
    let elsewhere = |place: &LogPlace| {
        OpenError::Elsewhere {
        place: begin.iter().map(ToString::to_string).collect(),
        source: format!(
            "the log of {} is at {place}; start without another address, and go over with `ironbus migrate advance`",
            data.display()
        )
        .into(),
    }
    };
    let mut whereabouts = match (said, &begin) {
        (Some(said), Some(begin)) if said.log != *begin => return Err(elsewhere(&said.log)),
        (Some(said), _) => said,
        (None, Some(begin)) if *begin != LogPlace::database() => {
            let usual = LogPlace::database();
            if usual.path_in(data).exists() {
                return Err(elsewhere(&usual));
            }
            let begun = Whereabouts { log: begin.clone(), ..Whereabouts::usual() };
            begun.write(data)?;
            begun
        }
        (None, _) => Whereabouts::usual(),
    };
    let mut log = places.open(&whereabouts.log, Arc::clone(&tail)).await?;
    if let Some(moving) = whereabouts.moving.clone() {
        let failed = |error: MoveError| {
            OpenError::Elsewhere {
            place: moving.to.to_string(),
            source: format!(
                "the log was sealed at {} and is going over, which can't be finished: {error}; start again once that \
                 is mended (`ironbus promote` takes the log back if it was never opened there)",
                whereabouts.log
            )
            .into(),
        }
        };
        let sealed = log.is_sealed().await.map_err(|error| failed(error.into()))?;
        if sealed {
            let new = finish(places, &log, &moving, &tail).await.map_err(failed)?;
            log.close().await;
            log = new;
            let left = std::mem::replace(&mut whereabouts.log, moving.to.clone());
            (whereabouts.moving, whereabouts.mirror) = (None, Some(left));
            whereabouts.write(data)?;
        }
    }
    let log = NodeLog::new(log, whereabouts.log.clone(), tail);
    Ok(Opened { log, whereabouts })
}

/// Copies what is left of a sealed log and opens the copy; done again it changes nothing.
async fn finish(
    places: &dyn LogPlaces,
    source: &Arc<dyn Log>,
    moving: &Move,
    tail: &Arc<Tail>,
) -> Result<Arc<dyn Log>, MoveError> {
    let end = source.seal(&sealed_for(&moving.to)).await.map_err(MoveError::Seal)?;
    match copy_in(places, source, &moving.to, tail).await? {
        Found::Opened => Ok(places.open(&moving.to, Arc::clone(tail)).await?),
        Found::Copy(copy) => finish_copy(source, copy, moving, end).await,
    }
}

async fn finish_copy(
    source: &Arc<dyn Log>,
    mut copy: Box<dyn LogCopy>,
    moving: &Move,
    end: LogEnd,
) -> Result<Arc<dyn Log>, MoveError> {
    while copy.end().head < end.head {
        let page = EventStore::read(&**source, copy.end().head, &EventFilter::everything(), PAGE).await?;
        if page.events.is_empty() {
            let reason = format!("it was sealed at {}, and reads end at {}", end.head, copy.end().head);
            return Err(ReadError::Unavailable { reason }.into());
        }
        copy.add(page.events).await?;
    }
    let mut steps = source.journal(usize::MAX).await?.steps;
    let hash = blake3::Hash::from_bytes(end.chain).to_hex().to_string();
    let figures = json!({
        "log": { "to": moving.to, "events": end.head.0, "chain": hash, "began": moving.began },
    });
    steps.push(JournalStep {
        step: steps.last().map_or(0, |step| step.step) + 1,
        at: Timestamp::now(),
        after: end.head,
        from: moving.from_phase,
        to: moving.to_phase,
        by: moving.by.clone(),
        reason: moving.reason.clone(),
        figures: Json::of(&figures).expect("the names of its members are text"),
    });
    let why = format!("the log came from {}", source.place());
    Ok(copy.open(end, steps, &why).await?)
}

/// What is at the place that the log goes to, where it is a copy of the log as far as it goes.
async fn copy_in(
    places: &dyn LogPlaces,
    source: &Arc<dyn Log>,
    to: &LogPlace,
    tail: &Arc<Tail>,
) -> Result<Found, MoveError> {
    let Head { store_id, lineage, .. } = source.head().await?;
    let of = CopyOf { store_id, lineage };
    let mut copy = match places.copy(to, &of, Arc::clone(tail)).await? {
        Found::Copy(copy) => copy,
        Found::Opened => return Ok(Found::Opened),
    };
    let end = copy.end();
    let hash = source.chain_at(end.head).await?;
    if hash != Some(end.chain) {
        copy.close().await;
        let reason = format!("they hold different events up to position {}", end.head);
        return Err(CopyFailure::NotACopy { place: to.to_string(), reason }.into());
    }
    copy.follow(&of.lineage).await?;
    Ok(Found::Copy(copy))
}

/// The copy that is being made at a place.
async fn copy_to(
    places: &dyn LogPlaces,
    source: &Arc<dyn Log>,
    to: &LogPlace,
    tail: &Arc<Tail>,
) -> Result<Box<dyn LogCopy>, MoveError> {
    match copy_in(places, source, to, tail).await? {
        Found::Copy(copy) => Ok(copy),
        Found::Opened => {
            let reason = "it accepts appends itself".into();
            Err(CopyFailure::NotACopy { place: to.to_string(), reason }.into())
        }
    }
}

/// The status at a stage of which nothing is known yet.
fn begun(log: &NodeLog, stage: Stage, to: &LogPlace) -> MoveStatus {
    MoveStatus {
        stage,
        from: log.place(),
        to: to.clone(),
        copied: 0,
        head: log.tail().head().0,
        per_second: 0.0,
        seconds_left: None,
        trouble: None,
    }
}

fn sealed_for(to: &LogPlace) -> String {
    format!("the log that was here went over to {to}; append there")
}

impl Mover {
    pub(crate) fn new(
        opened: Opened,
        places: Arc<dyn LogPlaces>,
        data: PathBuf,
        exchanged: Arc<dyn Exchanged>,
        stop: CancellationToken,
    ) -> Self {
        let Opened { log, whereabouts } = opened;
        let status = whereabouts.moving.as_ref().map(|moving| begun(&log, Stage::Copying, &moving.to));
        Self(Arc::new(Shared {
            log,
            places,
            data,
            whereabouts: Mutex::new(whereabouts),
            status: watch::Sender::new(status),
            pause: Mutex::default(),
            cancel: Mutex::default(),
            mirror: Mutex::default(),
            under_way: tokio::sync::Mutex::default(),
            exchanged,
            stop,
        }))
    }

    /// Where the log is, and where it is going.
    #[must_use]
    pub fn whereabouts(&self) -> Whereabouts {
        self.0.whereabouts.lock().clone()
    }

    /// How the move is that is under way, or the mirror of the last one.
    #[must_use]
    pub fn status(&self) -> Option<MoveStatus> {
        self.0.status.borrow().clone()
    }

    /// Tells how the move is, whenever that changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<MoveStatus>> {
        self.0.status.subscribe()
    }

    /// How long appends waited when the log last went over, since this process was started.
    #[must_use]
    pub fn last_pause(&self) -> Option<Duration> {
        *self.0.pause.lock()
    }

    /// Moves the log, as the step that is given. Returns when it is there. Dropping the future leaves it under way
    /// until the next start; it is to be run as a task.
    ///
    /// # Errors
    ///
    /// [`MoveError`]; the log is where it was then.
    pub async fn go(&self, to: LogPlace, step: NewStep) -> Result<JournalStep, MoveError> {
        let moving = Move {
            to: to.clone(),
            from_phase: step.from,
            to_phase: step.to,
            by: step.by,
            reason: step.reason,
            began: Timestamp::now(),
        };
        {
            let mut whereabouts = self.0.whereabouts.lock();
            if let Some(moving) = &whereabouts.moving {
                return Err(MoveError::UnderWay { to: moving.to.clone() });
            }
            if whereabouts.log == to {
                return Err(MoveError::Already(to));
            }
            let next = Whereabouts { moving: Some(moving.clone()), ..whereabouts.clone() };
            next.write(&self.0.data)?;
            *whereabouts = next;
            *self.0.cancel.lock() = CancellationToken::new();
        }
        self.carry_out(moving, true).await
    }

    /// Goes on with a move that was cut off, and with the mirror, where there was one when the log was `found`.
    pub(crate) async fn resume(&self, found: Whereabouts) -> Option<Result<JournalStep, MoveError>> {
        match (found.moving, found.mirror) {
            (Some(moving), _) => Some(self.carry_out(moving, false).await),
            (None, Some(mirror)) => {
                self.start_mirror(mirror);
                None
            }
            (None, None) => None,
        }
    }

    /// Takes back a move that is still copying. Says whether there was one.
    pub fn cancel(&self) -> bool {
        // Under the lock in which the stage changes: what is told to be taken back is.
        let mut copying = false;
        self.0.status.send_if_modified(|status| {
            copying = status.as_ref().is_some_and(|status| status.stage == Stage::Copying);
            if copying {
                self.0.cancel.lock().cancel();
            }
            false
        });
        copying
    }

    /// Ends keeping the log up to date that was left: the way back copies what has come since. Says whether there was
    /// one.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when that can't be written down.
    pub async fn end_mirror(&self) -> Result<bool, OpenError> {
        {
            let mut whereabouts = self.0.whereabouts.lock();
            if whereabouts.mirror.is_none() {
                return Ok(false);
            }
            let next = Whereabouts { mirror: None, ..whereabouts.clone() };
            next.write(&self.0.data)?;
            *whereabouts = next;
        }
        self.stop_mirror().await;
        // A move that is under way tells its own.
        self.0
            .status
            .send_if_modified(|status| status.take_if(|status| status.stage == Stage::Mirroring).is_some());
        Ok(true)
    }

    /// Ends what is under way; it goes on at the next start.
    pub(crate) async fn close(&self) {
        self.0.stop.cancel();
        self.stop_mirror().await;
        // It ends at its next step. One that hangs at a storage is left to the next start.
        let _ = tokio::time::timeout(LEAVE, self.0.under_way.lock()).await;
    }

    async fn stop_mirror(&self) {
        let mirror = self.0.mirror.lock().take();
        if let Some(Mirror { stop, task }) = mirror {
            stop.cancel();
            // It ends by being told; a panic of it was reported already.
            let _ = task.await;
        }
    }

    async fn carry_out(&self, moving: Move, mut first: bool) -> Result<JournalStep, MoveError> {
        let _under_way = self.0.under_way.lock().await;
        self.stop_mirror().await;
        self.0.status.send_replace(Some(begun(&self.0.log, Stage::Copying, &moving.to)));
        loop {
            let error = match self.try_move(&moving).await {
                Ok(step) => return Ok(step),
                Err(error) => error,
            };
            // What can't even begin is told to whoever asked for it; what had begun is tried on.
            if error.is_final() || first && !self.has_begun() {
                if !matches!(error, MoveError::Closed) {
                    self.forget_move();
                }
                return Err(error);
            }
            first = false;
            tracing::warn!(%error, to = %moving.to, "the log can't go over just now; trying on");
            self.0.status.send_modify(|status| {
                if let Some(status) = status {
                    status.trouble = Some(error.to_string());
                }
            });
            let cancel = self.0.cancel.lock().clone();
            tokio::select! {
                () = self.0.stop.cancelled() => return Err(MoveError::Closed),
                () = cancel.cancelled() => {
                    self.forget_move();
                    return Err(MoveError::Cancelled);
                }
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Whether there is anything to go on with. Once it is going over, the log may be sealed.
    fn has_begun(&self) -> bool {
        self.status().is_some_and(|status| status.copied > 0 || status.stage == Stage::GoingOver)
    }

    /// The log stays where it is.
    fn forget_move(&self) {
        let mirror = {
            let mut whereabouts = self.0.whereabouts.lock();
            whereabouts.moving = None;
            if let Err(error) = whereabouts.write(&self.0.data) {
                tracing::error!(%error, "that the log stays where it is couldn't be written down");
            }
            whereabouts.mirror.clone()
        };
        self.0.status.send_replace(None);
        if let Some(mirror) = mirror {
            self.start_mirror(mirror);
        }
    }

    async fn try_move(&self, moving: &Move) -> Result<JournalStep, MoveError> {
        let source = self.0.log.current();
        let tail = self.0.log.tail();
        let mut copy = copy_to(&*self.0.places, &source, &moving.to, tail).await?;
        if let Err(error) = self.copy_to_near_the_end(&source, &mut *copy, moving).await {
            copy.close().await;
            return Err(error);
        }
        self.go_over(source, copy, moving).await
    }

    /// Copies while appends go on, until little is left; and makes sure that it is the same.
    async fn copy_to_near_the_end(
        &self,
        source: &Arc<dyn Log>,
        copy: &mut dyn LogCopy,
        moving: &Move,
    ) -> Result<(), MoveError> {
        let cancel = self.0.cancel.lock().clone();
        let mut rate = Rate::new(copy.end().head.0);
        loop {
            let page = EventStore::read(&**source, copy.end().head, &EventFilter::everything(), PAGE).await?;
            let head = page.head;
            copy.add(page.events).await?;
            let copied = copy.end().head.0;
            self.tell(Stage::Copying, &self.0.log.place(), &moving.to, copied, head.0, &mut rate);
            if cancel.is_cancelled() {
                return Err(MoveError::Cancelled);
            }
            if self.0.stop.is_cancelled() {
                return Err(MoveError::Closed);
            }
            if head.0.saturating_sub(copied) < NEAR {
                break;
            }
        }
        let end = copy.end();
        if source.chain_at(end.head).await? != Some(end.chain) {
            let reason = format!("they hold different events up to position {}", end.head);
            return Err(CopyFailure::NotACopy { place: moving.to.to_string(), reason }.into());
        }
        Ok(())
    }

    /// Seals the log and opens the copy, while appends wait.
    async fn go_over(
        &self,
        source: Arc<dyn Log>,
        copy: Box<dyn LogCopy>,
        moving: &Move,
    ) -> Result<JournalStep, MoveError> {
        let gate = self.0.log.close_gate().await;
        let began = Instant::now();
        let cancelled = self.0.cancel.lock().clone();
        let goes = self.0.status.send_if_modified(|status| {
            let goes = !cancelled.is_cancelled();
            status.iter_mut().filter(|_| goes).for_each(|status| status.stage = Stage::GoingOver);
            goes
        });
        if !goes {
            copy.close().await;
            return Err(MoveError::Cancelled);
        }
        let end = match source.seal(&sealed_for(&moving.to)).await {
            Ok(end) => end,
            Err(error) => {
                // It may be sealed all the same, and then nothing but going on helps.
                if !source.is_sealed().await? {
                    copy.close().await;
                    return Err(MoveError::Seal(error));
                }
                source.seal(&sealed_for(&moving.to)).await.map_err(MoveError::Seal)?
            }
        };
        let mut opened = finish_copy(&source, copy, moving, end).await;
        let new = loop {
            let error = match opened {
                Ok(new) => break new,
                Err(error) => error,
            };
            if error.is_final() {
                // It isn't open: the log goes on where it is.
                source.begin_epoch("the log stayed where it is").await.map_err(MoveError::Seal)?;
                let head = source.head().await?;
                self.0.exchanged.exchanged(&head).await;
                return Err(error);
            }
            tracing::error!(%error, to = %moving.to, "the log is sealed, and the new one can't be opened; trying on");
            tokio::select! {
                () = self.0.stop.cancelled() => return Err(MoveError::Closed),
                () = tokio::time::sleep(AGAIN) => {}
            }
            opened = finish(&*self.0.places, &source, moving, self.0.log.tail()).await;
        };
        let head = new.head().await?;
        let old = self.0.log.exchange(Arc::clone(&new), moving.to.clone());
        self.0.exchanged.exchanged(&head).await;
        let left = {
            let mut whereabouts = self.0.whereabouts.lock();
            let left = std::mem::replace(&mut whereabouts.log, moving.to.clone());
            (whereabouts.moving, whereabouts.mirror) = (None, Some(left.clone()));
            if let Err(error) = whereabouts.write(&self.0.data) {
                // The next start finds a sealed log and an open one, and so the same. The mirror tries on.
                tracing::warn!(%error, "where the log is now couldn't be written down; trying on");
            }
            left
        };
        drop(gate);
        let pause = began.elapsed();
        *self.0.pause.lock() = Some(pause);
        tracing::info!(to = %moving.to, ?pause, events = end.head.0, "the log went over; appends waited so long");
        old.close().await;
        self.start_mirror(left);
        let last = new.journal(1).await?.steps.pop();
        Ok(last.expect("the step of the move is in the journal"))
    }

    fn tell(&self, stage: Stage, from: &LogPlace, to: &LogPlace, copied: u64, head: u64, rate: &mut Rate) {
        let per_second = rate.at(copied);
        let left = head.saturating_sub(copied);
        let seconds_left = (per_second > 0.0).then(|| left as f64 / per_second);
        let (from, to) = (from.clone(), to.clone());
        let trouble = None;
        let status = MoveStatus { stage, from, to, copied, head, per_second, seconds_left, trouble };
        self.0.status.send_replace(Some(status));
    }

    fn start_mirror(&self, place: LogPlace) {
        let stop = self.0.stop.child_token();
        let (mover, stopping) = (self.clone(), stop.clone());
        self.0.status.send_replace(Some(begun(&self.0.log, Stage::Mirroring, &place)));
        let task = tokio::spawn(async move { mover.mirror(place, stopping).await });
        *self.0.mirror.lock() = Some(Mirror { stop, task });
    }

    /// Keeps a log up to date, until it is told to stop.
    async fn mirror(&self, place: LogPlace, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let error = match self.try_mirror(&place, &stop).await {
                Ok(()) => return,
                Err(error) => error,
            };
            tracing::warn!(%error, %place, "the log that was left can't be kept up to date; trying on");
            self.0.status.send_modify(|status| {
                if let Some(status) = status {
                    status.trouble = Some(error.to_string());
                }
            });
            stop.run_until_cancelled(tokio::time::sleep(5 * AGAIN)).await;
        }
    }

    async fn try_mirror(&self, place: &LogPlace, stop: &CancellationToken) -> Result<(), MoveError> {
        // First: what is mirrored becomes a copy, and a start that takes it for the log that is left would be refused.
        self.0.whereabouts.lock().write(&self.0.data)?;
        let source = self.0.log.current();
        let tail = self.0.log.tail();
        let mut copy = copy_to(&*self.0.places, &source, place, tail).await?;
        let from = self.0.log.place();
        let mut rate = Rate::new(copy.end().head.0);
        let kept = loop {
            let after = copy.end().head;
            let page = match EventStore::read(&*source, after, &EventFilter::everything(), PAGE).await {
                Ok(page) => page,
                Err(error) => break Err(error.into()),
            };
            let (more, head) = (page.events.len() == PAGE, page.head.0);
            if let Err(error) = copy.add(page.events).await {
                break Err(error.into());
            }
            self.tell(Stage::Mirroring, &from, place, copy.end().head.0, head, &mut rate);
            if more && !stop.is_cancelled() {
                continue;
            }
            let next = async {
                tail.reached(copy.end().head.next()).await;
                tokio::time::sleep(COLLECT).await;
            };
            if stop.run_until_cancelled(next).await.is_none() {
                break Ok(());
            }
        };
        copy.close().await;
        kept
    }
}

impl std::fmt::Debug for Mover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mover").field("whereabouts", &*self.0.whereabouts.lock()).finish_non_exhaustive()
    }
}

/// How many events a second were copied, of late.
struct Rate {
    at: Instant,
    copied: u64,
    per_second: f64,
}

impl Rate {
    fn new(copied: u64) -> Self {
        Self { at: Instant::now(), copied, per_second: 0.0 }
    }

    fn at(&mut self, copied: u64) -> f64 {
        let elapsed = self.at.elapsed();
        if elapsed >= Duration::from_millis(500) {
            self.per_second = copied.saturating_sub(self.copied) as f64 / elapsed.as_secs_f64();
            (self.at, self.copied) = (Instant::now(), copied);
        } else if self.per_second == 0.0 && !elapsed.is_zero() {
            return copied.saturating_sub(self.copied) as f64 / elapsed.as_secs_f64();
        }
        self.per_second
    }
}
