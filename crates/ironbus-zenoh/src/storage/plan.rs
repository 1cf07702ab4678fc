//! What is decided: pure, without a clock or a storage. The committer carries it out, and the model check
//! (`tests/storage/model.rs`) drives the very same functions through crashes, lost replies and late puts.
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
use ironbus::store::{Append, AppendError, ChainHash, Recorded, chain};
use jiff::Timestamp;
use uuid::Uuid;

use super::batch::{Batch, Record};
use super::state::{Fingerprint, State, fingerprint};

/// Where a log was sealed, or a later epoch of it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The epoch in force.
    pub epoch: Epoch,
    /// Where the log ends.
    pub head: Position,
    /// The hash of all of it.
    pub chain: ChainHash,
}

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
        if self.state.is_copying() {
            let reason =
                "the log is a copy that isn't open yet; append to the log that it is a copy of".into();
            return Err(AppendError::Superseded { reason });
        }
        if !self.state.is_sealed() {
            return Ok(());
        }
        let (epoch, head) = (self.state.epoch(), self.state.head());
        let reason = format!(
            "the log was sealed in epoch {epoch} at position {head}; append to the log that it went over to"
        );
        Err(AppendError::Superseded { reason })
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

/// Seals the epoch in force; nothing to do if that is done.
pub(super) fn seal(state: &State, writer: Uuid) -> Option<Batch> {
    let (head, chain) = (state.head(), state.chain());
    (!state.is_sealed()).then(|| record(state, writer, Record::Sealed { head, chain }))
}

/// Begins `epoch`; nothing to do if it, or a later one, is in force.
pub(super) fn begin_epoch(state: &State, writer: Uuid, epoch: Epoch) -> Option<Batch> {
    let (after, chain) = (state.head(), state.chain());
    (epoch > state.epoch())
        .then(|| Batch { epoch, ..record(state, writer, Record::EpochBegun { after, chain }) })
}

/// Copies events that follow the copy's own, with everything they have; nothing to do for those it has.
pub(super) fn copy(
    state: &State,
    writer: Uuid,
    events: &[Arc<StoredEvent>],
) -> Result<Option<Batch>, NotACopy> {
    let known = events.partition_point(|event| event.position <= state.head());
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

/// Opens a copy in the epoch after that of the log that it is a copy of, which was sealed. Nothing to do if
/// that epoch is in force.
pub(super) fn open_copy(state: &State, writer: Uuid, of: Sealed) -> Result<Option<Batch>, NotACopy> {
    let epoch = Epoch(of.epoch.0 + 1);
    if !state.is_copying() {
        return if state.epoch() >= epoch { Ok(None) } else { Err(NotACopy::Open) };
    }
    // The seal says what a whole copy holds: a shorter one would lose what was acknowledged, another would
    // alter it.
    if (state.head(), state.chain()) != (of.head, of.chain) {
        return Err(NotACopy::Other { head: state.head(), sealed: of.head });
    }
    Ok(begin_epoch(state, writer, epoch))
}

/// Why a log can't be gone over to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotACopy {
    #[error("the log isn't a copy in the making")]
    Open,
    #[error("the copy ends at position {head}; copy from there, not from {first}")]
    Hole { head: Position, first: Position },
    #[error(
        "the copy, which ends at position {head}, doesn't hold what the log held that was sealed at {sealed}"
    )]
    Other { head: Position, sealed: Position },
}
