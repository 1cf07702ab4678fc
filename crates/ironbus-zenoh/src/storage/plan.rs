//! What is decided: pure, without a clock or a storage. The committer carries it out, and the model check
//! (`model.rs`) drives the very same functions through crashes, lost replies and late puts.
//!
//! A round takes appends that wait and makes one batch of them, for the slot that comes next. Invariants:
//! - event ids are looked up before anything else is checked, so that the retry of a successful append gets
//!   the first result, whatever has become of its aggregate, its epoch, or this node since;
//! - a refusal is told only when the state that it was decided on was the log's at some moment since the
//!   append was made: the batch of the same round has won its slot, or the slot was seen to be empty;
//! - whatever became of a slot, this node folds it before it decides anything further.

use std::collections::HashMap;
use std::sync::Arc;

use ironbus::event::{Aggregate, Epoch, EventId, Position, Sequence, StoredEvent};
use ironbus::store::{
    Append, AppendError, ChainHash, EpochStart, JournalStep, Lineage, LogEnd, NewStep, Phase, Recorded, chain,
};
use jiff::Timestamp;
use uuid::Uuid;

use super::batch::{Batch, Record};
use super::state::{Fault, Fingerprint, State, fingerprint};

/// What a round means to do.
#[derive(Debug)]
pub(super) struct Round {
    /// The answer to each append, if the round's batch wins its slot.
    pub(super) answers: Vec<Answer>,
    /// What to put into the next slot; nothing if no append has anything to write.
    pub(super) batch: Option<Batch>,
}

/// How an append is to be answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// Its events stand here in the round's batch.
    Written(Vec<Recorded>),
    /// It was stored before. Stays true whatever comes next.
    StoredBefore(Vec<Recorded>),
    /// It may not be written.
    Refused(AppendError),
}

/// What is known of the slot after it was tried.
#[derive(Debug, PartialEq)]
pub(super) enum Tried<T> {
    /// The batch is in its slot.
    Won,
    /// The slot holds this.
    Holds(T),
    /// Nobody knows.
    Unknown,
}

/// How a round goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Turn<T> {
    /// Fold the own batch, if there is one, and give the answers.
    Answer,
    /// Fold this and begin the round anew. It is not a conflict: versions are checked again after it.
    Fold(T),
    /// See what the slot holds.
    Look,
    /// Begin anew with the same slot: never with a later one.
    Again,
}

impl Round {
    /// Whether the answers are true only if the slot is still empty, and no batch would show that.
    pub(super) fn needs_a_look(&self) -> bool {
        let refused = |answer: &Answer| matches!(answer, Answer::Refused(_));
        self.batch.is_none() && self.answers.iter().any(refused)
    }
}

/// After a batch was put into the next slot.
pub(super) fn after_commit<T>(tried: Tried<T>) -> Turn<T> {
    match tried {
        Tried::Won => Turn::Answer,
        Tried::Holds(batch) => Turn::Fold(batch),
        Tried::Unknown => Turn::Look,
    }
}

/// After a look at the next slot. `put` says whether a batch was put there before: then an empty slot says
/// nothing, because the put may still be under way.
pub(super) fn after_look<T>(put: bool, found: Option<T>) -> Turn<T> {
    match (found, put) {
        (Some(batch), _) => Turn::Fold(batch),
        (None, true) => Turn::Again,
        (None, false) => Turn::Answer,
    }
}

/// Decides a round. Every event must bear an id.
pub(super) fn plan<'a>(
    state: &State,
    appends: impl IntoIterator<Item = &'a Append>,
    writer: Uuid,
    now: Timestamp,
) -> Round {
    let mut planned = Planned::new(state, now);
    let answers = appends.into_iter().map(|append| planned.decide(append)).collect();
    Round { answers, batch: planned.into_batch(writer) }
}

/// The places of an append that is stored already; `None` for one that isn't, or that no store would take.
pub(super) fn stored(state: &State, append: &Append) -> Option<Vec<Recorded>> {
    Planned::new(state, Timestamp::UNIX_EPOCH).stored_before(append).ok().flatten()
}

/// The state with what the round has decided so far on top.
pub(super) struct Planned<'a> {
    state: &'a State,
    recorded_at: Timestamp,
    versions: HashMap<Aggregate, Sequence>,
    ids: HashMap<EventId, (Recorded, Fingerprint)>,
    events: Vec<Arc<StoredEvent>>,
    chain: ChainHash,
}

impl<'a> Planned<'a> {
    pub(super) fn new(state: &'a State, now: Timestamp) -> Self {
        // The clock may be set back, or another node's be ahead; the log's time never goes back.
        let micros = now.as_microsecond().max(state.last_recorded_at());
        let recorded_at = Timestamp::from_microsecond(micros).unwrap_or(now);
        let chain = state.chain();
        Self { state, recorded_at, versions: HashMap::new(), ids: HashMap::new(), events: Vec::new(), chain }
    }

    pub(super) fn decide(&mut self, append: &Append) -> Answer {
        let refused = match self.stored_before(append) {
            Ok(Some(places)) => return Answer::StoredBefore(places),
            Ok(None) => self.check_open().and_then(|()| self.check_versions(append)).err(),
            Err(error) => Some(error),
        };
        match refused {
            Some(error) => Answer::Refused(error),
            None => Answer::Written(self.write(append)),
        }
    }

    /// The places of the append's events if all of them are stored already: then it is a retry.
    pub(super) fn stored_before(&self, append: &Append) -> Result<Option<Vec<Recorded>>, AppendError> {
        let mut places = Vec::new();
        let mut other = None;
        for write in &append.writes {
            for event in &write.events {
                let Some(event_id) = event.event_id else { continue };
                let known = self.ids.get(&event_id).copied().or_else(|| self.state.find(event_id));
                let Some((place, stored)) = known else { continue };
                if stored != fingerprint(&write.aggregate, event) {
                    other = other.or(Some(event_id));
                }
                places.push(place);
            }
        }
        match (other, places.len()) {
            (Some(event_id), _) => Err(AppendError::EventIdReused { event_id }),
            (None, 0) => Ok(None),
            (None, stored) if stored == append.len() => Ok(Some(places)),
            (None, stored) => Err(AppendError::PartlyStored { stored, total: append.len() }),
        }
    }

    pub(super) fn check_open(&self) -> Result<(), AppendError> {
        match closed(self.state) {
            Some(reason) => Err(AppendError::Superseded { reason }),
            None => Ok(()),
        }
    }

    /// Checks every expected version against the state that the append's earlier writes produce.
    pub(super) fn check_versions(&self, append: &Append) -> Result<(), AppendError> {
        let mut seen: HashMap<&Aggregate, Sequence> = HashMap::new();
        for write in &append.writes {
            let version = seen.entry(&write.aggregate).or_insert_with(|| self.version(&write.aggregate));
            if !write.expected.admits(*version) {
                let (aggregate, expected, actual) = (write.aggregate.clone(), write.expected, *version);
                return Err(AppendError::Conflict { aggregate, expected, actual });
            }
            *version = Sequence(version.0 + write.events.len() as u64);
        }
        Ok(())
    }

    fn version(&self, aggregate: &Aggregate) -> Sequence {
        self.versions.get(aggregate).copied().unwrap_or_else(|| self.state.version(aggregate))
    }

    pub(super) fn write(&mut self, append: &Append) -> Vec<Recorded> {
        let mut places = Vec::with_capacity(append.len());
        for write in &append.writes {
            let mut sequence = self.version(&write.aggregate);
            for event in &write.events {
                sequence = Sequence(sequence.0 + 1);
                let event_id = event.event_id.unwrap_or_else(EventId::generate);
                let position = Position(self.state.head().0 + self.events.len() as u64 + 1);
                let place = Recorded { event_id, position, sequence };
                self.ids.insert(event_id, (place, fingerprint(&write.aggregate, event)));
                let aggregate = write.aggregate.clone();
                let stored =
                    event.clone().into_stored(event_id, aggregate, sequence, position, self.recorded_at);
                self.chain = chain(&self.chain, &stored);
                self.events.push(Arc::new(stored));
                places.push(place);
            }
            self.versions.insert(write.aggregate.clone(), sequence);
        }
        places
    }

    pub(super) fn into_batch(self, writer: Uuid) -> Option<Batch> {
        let (previous, chain, events) = (self.state.chain(), self.chain, self.events);
        (!events.is_empty()).then(|| record(self.state, writer, Record::Events { previous, chain, events }))
    }
}

/// The batch that says `said` in the next slot, in the epoch in force.
fn record(state: &State, writer: Uuid, said: Record) -> Batch {
    let (store_id, slot, epoch) = (state.store_id(), state.next(), state.epoch());
    Batch { store_id, slot, epoch, writer, record: said }
}

/// Why a log accepts no appends, if that is so.
pub(super) fn closed(state: &State) -> Option<String> {
    match (state.why_sealed(), state.is_copying()) {
        (Some(why), _) => Some(why.to_owned()),
        (None, true) => {
            Some("the log here is a copy that isn't open; append to the log that it is a copy of".into())
        }
        (None, false) => state.is_sealed().then(|| {
            let (epoch, head) = (state.epoch(), state.head());
            format!("the log was sealed in epoch {epoch} at position {head}; append to the log that it went over to")
        }),
    }
}

/// Why a mark isn't written.
#[derive(Debug)]
pub(super) enum Refused {
    Append(AppendError),
    NotACopy(NotACopy),
    /// Another step of the migration was faster.
    Moved {
        expected: Phase,
        actual: Phase,
    },
}

impl From<AppendError> for Refused {
    fn from(error: AppendError) -> Self {
        Self::Append(error)
    }
}

impl From<NotACopy> for Refused {
    fn from(error: NotACopy) -> Self {
        Self::NotACopy(error)
    }
}

impl From<Fault> for Refused {
    /// It would damage the log.
    fn from(fault: Fault) -> Self {
        Self::Append(AppendError::Storage(fault.into()))
    }
}

/// Seals an epoch, which must be the one in force: never a later one, which somebody may have begun since. Nothing to
/// do if that is done, or if it is a copy in the making, which accepts no appends anyway.
pub(super) fn seal(state: &State, writer: Uuid, epoch: Epoch, why: &str) -> Result<Option<Batch>, Refused> {
    if state.is_copying() {
        return Ok(None);
    }
    if state.epoch() != epoch {
        let current = state.epoch();
        let reason =
            format!("epoch {epoch} of the log isn't in force, but {current}; look again, then seal that");
        return Err(AppendError::Superseded { reason }.into());
    }
    let (head, chain, why) = (state.head(), state.chain(), why.to_owned());
    Ok((!state.is_sealed()).then(|| record(state, writer, Record::Sealed { head, chain, why })))
}

/// Begins `epoch`; nothing to do if it, or a later one, is in force. A copy in the making is opened by
/// [`open_copy`] only, which compares it.
pub(super) fn begin_epoch(
    state: &State,
    writer: Uuid,
    epoch: Epoch,
    why: &str,
) -> Result<Option<Batch>, Refused> {
    if state.is_copying() {
        return Err(AppendError::Superseded { reason: closed(state).unwrap_or_default() }.into());
    }
    Ok((epoch > state.epoch()).then(|| begun(state, writer, epoch, why)))
}

fn begun(state: &State, writer: Uuid, epoch: Epoch, why: &str) -> Batch {
    let (after, chain, why) = (state.head(), state.chain(), why.to_owned());
    Batch { epoch, ..record(state, writer, Record::EpochBegun { after, chain, why }) }
}

/// Records a step of the migration.
pub(super) fn step(state: &State, writer: Uuid, new: &NewStep, now: Timestamp) -> Result<Batch, Refused> {
    if let Some(reason) = closed(state) {
        return Err(AppendError::Superseded { reason }.into());
    }
    if new.from != state.phase() {
        return Err(Refused::Moved { expected: new.from, actual: state.phase() });
    }
    let micros = now.as_microsecond().max(state.last_recorded_at());
    let step = JournalStep {
        step: state.steps().last().map_or(0, |last| last.step) + 1,
        at: Timestamp::from_microsecond(micros).unwrap_or(now),
        after: state.head(),
        from: new.from,
        to: new.to,
        by: new.by.clone(),
        reason: new.reason.clone(),
        figures: new.figures.clone(),
    };
    Ok(record(state, writer, Record::Step(step)))
}

/// Whether this batch is the step that `writer` was to record: its put was carried out, and the reply lost.
pub(super) fn is_step(batch: &Batch, writer: Uuid, new: &NewStep) -> bool {
    let Record::Step(step) = &batch.record else { return false };
    let same = (step.from, step.to, &step.by, &step.reason) == (new.from, new.to, &new.by, &new.reason);
    batch.writer == writer && same && step.figures == new.figures
}

/// Makes a sealed log a copy of the one that went on from it, or lets a copy go on with the further epochs of the log
/// that it is a copy of. Nothing to do if it has these.
pub(super) fn follow(state: &State, writer: Uuid, lineage: &Lineage) -> Result<Option<Batch>, NotACopy> {
    if state.is_copying() && state.lineage() == lineage {
        return Ok(None);
    }
    if !state.is_copying() && !state.is_sealed() {
        return Err(NotACopy::Open);
    }
    if !state.can_follow(lineage) {
        return Err(NotACopy::Lineage);
    }
    let (lineage, head, chain) = (lineage.clone(), state.head(), state.chain());
    let epoch = lineage.epoch();
    Ok(Some(Batch { epoch, ..record(state, writer, Record::Copying { lineage, head, chain }) }))
}

/// Copies events that follow the copy's own, with everything they have; nothing to do for those it has, which must be
/// the same.
pub(super) fn copy(
    state: &State,
    writer: Uuid,
    events: &[Arc<StoredEvent>],
) -> Result<Option<Batch>, NotACopy> {
    let known = events.partition_point(|event| event.position <= state.head());
    if let Some(other) = events[..known].iter().find(|event| !state.holds(event)) {
        return Err(NotACopy::Differs { at: other.position });
    }
    let events = events[known..].to_vec();
    let Some(first) = events.first() else { return Ok(None) };
    if !state.is_copying() {
        return Err(NotACopy::Open);
    }
    if first.position != state.head().next() {
        return Err(NotACopy::Hole { head: state.head(), first: first.position });
    }
    let previous = state.chain();
    let chain = events.iter().fold(previous, |hash, event| chain(&hash, event));
    Ok(Some(record(state, writer, Record::Events { previous, chain, events })))
}

/// Gives a copy in the making the journal of the log that it is a copy of. Nothing to do if it has that.
pub(super) fn journal(state: &State, writer: Uuid, steps: &[JournalStep]) -> Result<Option<Batch>, NotACopy> {
    if state.steps() == steps {
        return Ok(None);
    }
    if !state.is_copying() {
        return Err(NotACopy::Open);
    }
    Ok(Some(record(state, writer, Record::Journal(steps.to_vec()))))
}

/// Opens a copy in the epoch after that of the log that it is a copy of, which was sealed. Nothing to do if it was
/// opened so before.
pub(super) fn open_copy(
    state: &State,
    writer: Uuid,
    of: LogEnd,
    why: &str,
) -> Result<Option<Batch>, NotACopy> {
    let epoch = Epoch(of.epoch.0 + 1);
    if !state.is_copying() {
        let opened = EpochStart { epoch, after: of.head };
        return if state.lineage().starts().contains(&opened) { Ok(None) } else { Err(NotACopy::Open) };
    }
    if state.epoch() != of.epoch {
        return Err(NotACopy::Epoch { copy: state.epoch(), of: of.epoch });
    }
    // The seal says what a whole copy holds: a shorter one would lose what was acknowledged, another would
    // alter it.
    if !state.end().holds_the_same(&of) {
        return Err(NotACopy::Other { head: state.head(), sealed: of.head });
    }
    Ok(Some(begun(state, writer, epoch, why)))
}

/// Why a log can't be gone over to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotACopy {
    #[error("it isn't a copy in the making")]
    Open,
    #[error("it ends at position {head}; copy from there, not from {first}")]
    Hole { head: Position, first: Position },
    #[error("its event at position {at} is another")]
    Differs { at: Position },
    #[error("its epochs aren't those of the other log")]
    Lineage,
    #[error(
        "it is in epoch {copy}, and the log that was sealed in {of}; let it follow that log, then open it"
    )]
    Epoch { copy: Epoch, of: Epoch },
    #[error("it ends at position {head}, and doesn't hold what the log held that was sealed at {sealed}")]
    Other { head: Position, sealed: Position },
}
