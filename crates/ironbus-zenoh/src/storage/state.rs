//! What the slots of a log add up to: heads, versions, event ids, and where everything is.
//!
//! It is folded from every slot in turn and from nothing else, so two nodes that have folded the same slots
//! have the same state. A batch that doesn't follow exactly is refused and leaves the state as it was: it
//! can only come of damage, because a slot is filled only by who has folded all before it.
//!
//! It holds no payloads, but a place, an identity and a fingerprint of each event (about 120 bytes), so that
//! idempotency and every read are decided in memory, and only what a reader gets is read from the log.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use bytes::Bytes;
use ironbus::event::{
    Aggregate, Epoch, EventId, NewEvent, Position, Sequence, SessionId, StoreId, StoredEvent,
};
use ironbus::key::EventFilter;
use ironbus::store::{
    CHAIN_START, ChainHash, EpochStart, JournalStep, Lineage, LogEnd, Phase, Recorded, chain,
};
use uuid::Uuid;

use super::batch::{Batch, Record, read_lineage, write_lineage};
use super::bytes::{Damage, Reader, Writer};
use super::log::Slot;

/// Stands for what a retry must have in common with what was stored first.
pub(super) type Fingerprint = [u8; 16];

/// How many places a read without an index looks at, so that others get their turn.
const LOOK_AT_MOST: u64 = 50_000;

/// The most events of one page.
const PAGE_EVENTS: usize = 4096;

const SNAPSHOT: [u8; 4] = *b"ibsn";
/// 2 has reasons, and the steps of the migration. One of an older format is left out.
const SNAPSHOT_FORMAT: u16 = 2;

/// A log's state after some of its slots.
#[derive(Clone, Debug)]
pub(super) struct State {
    store_id: StoreId,
    lineage: Lineage,
    sealed: bool,
    /// Why it was sealed, while it accepts no appends since.
    why_sealed: Option<String>,
    /// Whether it is a copy in the making: only what is copied is added.
    copying: bool,
    /// Why the epoch in force began, where that is known.
    began: Option<String>,
    /// The steps of the migration.
    steps: Vec<JournalStep>,
    /// In microseconds since 1970.
    last_recorded_at: i64,
    /// Where the log ended after each slot; never empty.
    slots: Vec<SlotEnd>,
    places: Vec<Place>,
    ids: HashMap<EventId, Position>,
    aggregates: Names<Aggregate>,
    sessions: Names<SessionId>,
    /// The events without a session scope, by the type of their aggregates.
    types: HashMap<Box<str>, Vec<Position>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SlotEnd {
    head: Position,
    chain: ChainHash,
}

/// What is known of one event.
#[derive(Clone, Copy, Debug)]
struct Place {
    aggregate: u32,
    session: Option<u32>,
    sequence: Sequence,
    fingerprint: Fingerprint,
    event_id: EventId,
}

/// Names, by number and the other way round, with the events of each.
#[derive(Clone, Debug)]
struct Names<T> {
    numbers: HashMap<T, u32>,
    of: Vec<(T, Vec<Position>)>,
}

impl<T: Clone + Eq + Hash> Names<T> {
    fn new() -> Self {
        Self { numbers: HashMap::new(), of: Vec::new() }
    }

    fn positions(&self, name: &T) -> &[Position] {
        self.numbers.get(name).map_or(&[], |number| &self.of[*number as usize].1)
    }

    fn number(&mut self, name: &T) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.of.len()).expect("four milliard names don't fit into memory");
        self.of.push((name.clone(), Vec::new()));
        self.numbers.insert(name.clone(), number);
        number
    }
}

/// Why a batch can't be what its slot holds: the log is damaged, or isn't this log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The bytes aren't a batch.
    #[error(transparent)]
    Unreadable(#[from] Damage),
    /// It is of another log.
    #[error("it is of the log {0}")]
    OtherLog(StoreId),
    /// It isn't of the slot that comes next.
    #[error("it is of slot {found}, and slot {expected} was due")]
    NotNext {
        /// The slot that was due.
        expected: Slot,
        /// The batch's.
        found: Slot,
    },
    /// A log's first slot says something else than that the log begins, or a later one says that.
    #[error("a log begins with its first slot and only there")]
    Beginning,
    /// It was written in an epoch that isn't in force.
    #[error("it was written in epoch {found}, and {current} is in force")]
    OtherEpoch {
        /// The epoch in force.
        current: Epoch,
        /// The batch's.
        found: Epoch,
    },
    /// The epoch was sealed before.
    #[error("it was written after epoch {0} was sealed")]
    AfterSeal(Epoch),
    /// It doesn't follow what is before it.
    #[error("it begins at position {found}, and {expected} was due")]
    Hole {
        /// The position that was due.
        expected: Position,
        /// The batch's.
        found: Position,
    },
    /// An aggregate's sequence has a hole or repeats.
    #[error("the event at position {0} is out of turn in its aggregate")]
    Sequence(Position),
    /// An event id is there twice.
    #[error("the event id at position {0} is there already")]
    IdTwice(Position),
    /// The log's time goes back.
    #[error("the event at position {0} was recorded before the one ahead of it")]
    TimeGoesBack(Position),
    /// The hashes don't match the events.
    #[error("its hash isn't that of the events up to position {0}")]
    Chain(Position),
    /// It says what no copy in the making can say.
    #[error("the log is a copy in the making, which only what is copied can be added to")]
    Copying,
    /// It says what only a copy in the making can say, or only a sealed log that becomes one.
    #[error("it is of a copy, and the log is none")]
    NotCopying,
    /// The epochs of what it becomes a copy of aren't those of the log, and further ones.
    #[error("its epochs don't go on from those of the log")]
    Lineage,
    /// A step of the migration isn't the one that comes next.
    #[error("step {0} of the migration doesn't follow the one before it")]
    Step(u64),
}

/// Which events a read gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) positions: Vec<Position>,
    pub(super) through: Position,
    pub(super) head: Position,
}

/// Which slot holds an event, and what that slot's batch must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whereabouts {
    pub(super) slot: Slot,
    pub(super) first: Position,
    pub(super) last: Position,
    pub(super) previous: ChainHash,
    pub(super) chain: ChainHash,
}

impl State {
    /// The state after a log's first slot.
    pub(super) fn begin(batch: &Batch) -> Result<Self, Fault> {
        let Record::Created { lineage, copy } = &batch.record else { return Err(Fault::Beginning) };
        if batch.slot != Slot(0) {
            return Err(Fault::Beginning);
        }
        Ok(Self {
            store_id: batch.store_id,
            lineage: lineage.clone(),
            sealed: false,
            why_sealed: None,
            copying: *copy,
            began: None,
            steps: Vec::new(),
            last_recorded_at: i64::MIN,
            slots: vec![SlotEnd { head: Position::START, chain: CHAIN_START }],
            places: Vec::new(),
            ids: HashMap::new(),
            aggregates: Names::new(),
            sessions: Names::new(),
            types: HashMap::new(),
        })
    }

    pub(super) fn store_id(&self) -> StoreId {
        self.store_id
    }

    pub(super) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.lineage.epoch()
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Why it was sealed, while it accepts no appends since; it may have become a copy.
    pub(super) fn why_sealed(&self) -> Option<&str> {
        self.why_sealed.as_deref()
    }

    /// Why the epoch in force began, where that is known.
    pub(super) fn began(&self) -> Option<&str> {
        self.began.as_deref()
    }

    /// The steps of the migration.
    pub(super) fn steps(&self) -> &[JournalStep] {
        &self.steps
    }

    /// The phase that the last of them led to.
    pub(super) fn phase(&self) -> Phase {
        self.steps.last().map_or(Phase::default(), |step| step.to)
    }

    pub(super) fn end(&self) -> LogEnd {
        LogEnd { epoch: self.epoch(), head: self.head(), chain: self.chain() }
    }

    pub(super) fn is_copying(&self) -> bool {
        self.copying
    }

    /// The slot that comes next.
    pub(super) fn next(&self) -> Slot {
        Slot(self.slots.len() as u64)
    }

    pub(super) fn head(&self) -> Position {
        Position(self.places.len() as u64)
    }

    pub(super) fn chain(&self) -> ChainHash {
        self.slots[self.slots.len() - 1].chain
    }

    pub(super) fn last_recorded_at(&self) -> i64 {
        self.last_recorded_at
    }

    pub(super) fn version(&self, aggregate: &Aggregate) -> Sequence {
        Sequence(self.aggregates.positions(aggregate).len() as u64)
    }

    /// Where an event id stands, and the fingerprint of what is stored under it.
    pub(super) fn find(&self, event_id: EventId) -> Option<(Recorded, Fingerprint)> {
        let position = *self.ids.get(&event_id)?;
        let place = self.place(position);
        Some((Recorded { event_id, position, sequence: place.sequence }, place.fingerprint))
    }

    /// Whether this very event is at its position.
    pub(super) fn holds(&self, event: &StoredEvent) -> bool {
        let Some(place) = index_of(event.position).and_then(|at| self.places.get(at)) else { return false };
        let Unnumbered { fingerprint, event_id } = Unnumbered::of(event);
        (place.event_id, place.fingerprint, place.sequence) == (event_id, fingerprint, event.sequence)
    }

    fn place(&self, position: Position) -> &Place {
        &self.places[index_of(position).expect("the places are in memory")]
    }

    /// Adds the slot that comes next.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the batch doesn't follow; the state is as before.
    pub(super) fn fold(&mut self, batch: &Batch) -> Result<(), Fault> {
        self.check(batch)?;
        self.add(batch);
        Ok(())
    }

    /// Whether the batch follows. Whoever writes one asks this too, before it is put anywhere.
    ///
    /// # Errors
    ///
    /// [`Fault`] when it doesn't.
    pub(super) fn check(&self, batch: &Batch) -> Result<(), Fault> {
        if batch.store_id != self.store_id {
            return Err(Fault::OtherLog(batch.store_id));
        }
        if batch.slot != self.next() {
            return Err(Fault::NotNext { expected: self.next(), found: batch.slot });
        }
        match &batch.record {
            Record::Created { .. } => Err(Fault::Beginning),
            Record::Events { previous, chain, events } => {
                self.check_events(batch.epoch, previous, chain, events)
            }
            Record::Sealed { head, chain, .. } => {
                self.check_open(batch.epoch)?;
                self.check_copying(false)?;
                self.check_end(*head, chain)
            }
            Record::EpochBegun { after, chain, .. } => {
                self.check_end(*after, chain)?;
                self.lineage_with(batch.epoch, *after).map(drop)
            }
            Record::Step(step) => {
                self.check_open(batch.epoch)?;
                self.check_copying(false)?;
                let follows = step.after == self.head() && joins(self.steps.last(), step);
                if follows { Ok(()) } else { Err(Fault::Step(step.step)) }
            }
            Record::Copying { lineage, head, chain } => {
                self.check_end(*head, chain)?;
                self.check_becoming(batch.epoch, lineage)
            }
            // Whatever the other log's are: a log isn't kept from opening by the story of how it came here.
            Record::Journal(_) => {
                self.check_open(batch.epoch)?;
                self.check_copying(true)
            }
        }
    }

    /// Adds the slot that comes next, which was checked.
    pub(super) fn add(&mut self, batch: &Batch) {
        match &batch.record {
            Record::Created { .. } => unreachable!("it was checked: only the first slot says that"),
            Record::Events { chain, events, .. } => {
                for event in events {
                    self.add_event(Unnumbered::of(event), &event.aggregate, event.session_id.as_ref());
                    self.last_recorded_at = event.recorded_at.as_microsecond();
                }
                self.slots.push(SlotEnd { head: self.head(), chain: *chain });
                return;
            }
            Record::Sealed { why, .. } => {
                self.sealed = true;
                self.why_sealed = said(why);
            }
            Record::EpochBegun { after, why, .. } => {
                let lineage = self.lineage_with(batch.epoch, *after);
                self.lineage = lineage.expect("it was checked: its epoch follows");
                (self.began, self.why_sealed) = (said(why), None);
                (self.sealed, self.copying) = (false, false);
            }
            Record::Step(step) => self.steps.push(step.clone()),
            Record::Copying { lineage, .. } => {
                self.lineage = lineage.clone();
                (self.sealed, self.copying, self.began) = (false, true, None);
            }
            Record::Journal(steps) => self.steps.clone_from(steps),
        }
        self.slots.push(self.slots[self.slots.len() - 1]);
    }

    fn check_end(&self, head: Position, chain: &ChainHash) -> Result<(), Fault> {
        if head != self.head() {
            return Err(Fault::Hole { expected: self.head(), found: head });
        }
        if *chain == self.chain() { Ok(()) } else { Err(Fault::Chain(head)) }
    }

    fn check_copying(&self, due: bool) -> Result<(), Fault> {
        match (self.copying, due) {
            (true, false) => Err(Fault::Copying),
            (false, true) => Err(Fault::NotCopying),
            _ => Ok(()),
        }
    }

    /// The epochs, and one more.
    fn lineage_with(&self, epoch: Epoch, after: Position) -> Result<Lineage, Fault> {
        let mut starts = self.lineage.starts().to_vec();
        starts.push(EpochStart { epoch, after });
        Lineage::new(starts).ok_or(Fault::OtherEpoch { current: self.epoch(), found: epoch })
    }

    fn check_becoming(&self, epoch: Epoch, lineage: &Lineage) -> Result<(), Fault> {
        if epoch != lineage.epoch() {
            return Err(Fault::OtherEpoch { current: lineage.epoch(), found: epoch });
        }
        if !self.copying && !self.is_sealed() {
            return Err(Fault::NotCopying);
        }
        if self.can_follow(lineage) { Ok(()) } else { Err(Fault::Lineage) }
    }

    /// Whether the log can become, or go on as, a copy of one with these epochs.
    pub(super) fn can_follow(&self, lineage: &Lineage) -> bool {
        let own = self.lineage.starts();
        let further = lineage.starts().strip_prefix(own);
        // What a sealed log holds was all kept by the log that went on from it, in a later epoch.
        further.is_some_and(|further| {
            self.copying || further.first().is_some_and(|start| start.after >= self.head())
        })
    }

    fn check_open(&self, epoch: Epoch) -> Result<(), Fault> {
        if epoch != self.epoch() {
            return Err(Fault::OtherEpoch { current: self.epoch(), found: epoch });
        }
        if self.is_sealed() { Err(Fault::AfterSeal(epoch)) } else { Ok(()) }
    }

    fn check_events(
        &self,
        epoch: Epoch,
        previous: &ChainHash,
        after: &ChainHash,
        events: &[std::sync::Arc<StoredEvent>],
    ) -> Result<(), Fault> {
        self.check_open(epoch)?;
        let head = self.head();
        if *previous != self.chain() {
            return Err(Fault::Chain(head));
        }
        let mut hash = *previous;
        let mut due = head;
        let mut time = self.last_recorded_at;
        let mut versions: HashMap<&Aggregate, Sequence> = HashMap::new();
        let mut ids = HashSet::new();
        for event in events {
            due = due.next();
            let at = event.position;
            if at != due {
                return Err(Fault::Hole { expected: due, found: at });
            }
            let version = versions.entry(&event.aggregate).or_insert_with(|| self.version(&event.aggregate));
            *version = Sequence(version.0 + 1);
            if event.sequence != *version {
                return Err(Fault::Sequence(at));
            }
            if self.ids.contains_key(&event.event_id) || !ids.insert(event.event_id) {
                return Err(Fault::IdTwice(at));
            }
            if event.recorded_at.as_microsecond() < time {
                return Err(Fault::TimeGoesBack(at));
            }
            time = event.recorded_at.as_microsecond();
            hash = chain(&hash, event);
        }
        if hash == *after { Ok(()) } else { Err(Fault::Chain(due)) }
    }

    /// Adds an event at the next position, and to every index.
    fn add_event(&mut self, unnumbered: Unnumbered, aggregate: &Aggregate, session: Option<&SessionId>) {
        let position = self.head().next();
        let number = self.aggregates.number(aggregate);
        self.aggregates.of[number as usize].1.push(position);
        let session = session.map(|session| {
            let number = self.sessions.number(session);
            self.sessions.of[number as usize].1.push(position);
            number
        });
        if session.is_none() {
            match self.types.get_mut(aggregate.aggregate_type()) {
                Some(positions) => positions.push(position),
                None => drop(self.types.insert(aggregate.aggregate_type().into(), vec![position])),
            }
        }
        self.ids.insert(unnumbered.event_id, position);
        self.places.push(Place {
            aggregate: number,
            session,
            sequence: Sequence(self.aggregates.of[number as usize].1.len() as u64),
            fingerprint: unnumbered.fingerprint,
            event_id: unnumbered.event_id,
        });
    }

    /// The events of an aggregate after `after`, at most `limit`, and its version.
    pub(super) fn load(
        &self,
        aggregate: &Aggregate,
        after: Sequence,
        limit: usize,
    ) -> (Vec<Position>, Sequence) {
        let all = self.aggregates.positions(aggregate);
        let after = usize::try_from(after.0).unwrap_or(usize::MAX).min(all.len());
        let page = all[after..].iter().take(limit.min(PAGE_EVENTS)).copied().collect();
        (page, Sequence(all.len() as u64))
    }

    /// The matching events after `after` and up to `most`, at most `limit`: a range of an index where the pattern has
    /// one, else a look at the places (not at the log).
    pub(super) fn select(
        &self,
        after: Position,
        most: Position,
        filter: &EventFilter,
        limit: usize,
    ) -> Selection {
        let head = self.head().min(most);
        let mut found = Selection { positions: Vec::new(), through: after, head };
        if after >= head || limit == 0 {
            return found;
        }
        let limit = limit.min(PAGE_EVENTS);
        found.through = head;
        let pattern = &filter.pattern;
        let indexed: Option<&[Position]> = if let Some((aggregate, _)) = pattern.only_aggregate() {
            Some(self.aggregates.positions(&aggregate))
        } else if let Some(session) = pattern.only_session() {
            Some(self.sessions.positions(&session))
        } else {
            pattern.only_type().map(|name| self.types.get(name).map_or(&[][..], |positions| positions))
        };
        let mut take = |position: Position| {
            let place = self.place(position);
            let session = place.session.map(|number| &self.sessions.of[number as usize].0);
            let aggregate = &self.aggregates.of[place.aggregate as usize].0;
            if filter.matches_place(aggregate, place.sequence, session) {
                found.positions.push(position);
                if found.positions.len() == limit {
                    found.through = position;
                    return false;
                }
            }
            true
        };
        if let Some(positions) = indexed {
            let from = positions.partition_point(|position| *position <= after);
            let _ = positions[from..].iter().take_while(|at| **at <= head).all(|position| take(*position));
        } else {
            let until = head.0.min(after.0.saturating_add(LOOK_AT_MOST));
            let whole = (after.0 + 1..=until).all(|position| take(Position(position)));
            if whole {
                found.through = Position(until);
            }
        }
        found
    }

    /// Whether this can be the last slot that the state was folded from. A snapshot says what all before it were.
    ///
    /// # Errors
    ///
    /// [`Fault`] when it can't.
    pub(super) fn check_last(&self, batch: &Batch) -> Result<(), Fault> {
        if batch.store_id != self.store_id {
            return Err(Fault::OtherLog(batch.store_id));
        }
        if batch.epoch != self.epoch() {
            return Err(Fault::OtherEpoch { current: self.epoch(), found: batch.epoch });
        }
        match &batch.record {
            Record::Created { .. } if self.slots.len() == 1 => Ok(()),
            Record::Created { .. } => Err(Fault::Beginning),
            Record::Events { previous, events, .. } => {
                let before =
                    self.slots.len().checked_sub(2).map(|at| self.slots[at]).ok_or(Fault::Beginning)?;
                let hash = events.iter().fold(*previous, |hash, event| chain(&hash, event));
                if *previous != before.chain {
                    return Err(Fault::Chain(before.head));
                }
                self.check_end(events.last().map_or(before.head, |event| event.position), &hash)
            }
            Record::Sealed { head, chain, .. } if self.is_sealed() => self.check_end(*head, chain),
            Record::EpochBegun { after, chain, .. } if !self.is_sealed() && !self.copying => {
                self.check_end(*after, chain)
            }
            Record::Copying { head, chain, .. } if self.copying => self.check_end(*head, chain),
            Record::Sealed { .. } | Record::EpochBegun { .. } => Err(Fault::AfterSeal(batch.epoch)),
            Record::Copying { .. } => Err(Fault::NotCopying),
            Record::Step(step) if self.steps.last() == Some(step) => Ok(()),
            Record::Journal(steps) if self.steps == *steps => Ok(()),
            Record::Step(step) => Err(Fault::Step(step.step)),
            Record::Journal(steps) => Err(Fault::Step(steps.last().map_or(0, |step| step.step))),
        }
    }

    /// Where the event at `position` is, which the state knows.
    pub(super) fn whereabouts(&self, position: Position) -> Whereabouts {
        let at = self.slots.partition_point(|end| end.head < position);
        let SlotEnd { head: before, chain: previous } = self.slots[at - 1];
        let SlotEnd { head: last, chain } = self.slots[at];
        Whereabouts { slot: Slot(at as u64), first: before.next(), last, previous, chain }
    }

    /// Reads what a [`SnapshotWriter`] has written, which is of all slots before `before`.
    pub(super) fn restore(before: Slot, bytes: Bytes) -> Result<Self, Damage> {
        let mut from = Reader::open(bytes, SNAPSHOT, SNAPSHOT_FORMAT)?;
        let bad = || Damage::Malformed("it can't be of a log");
        let store_id = StoreId(Uuid::from_bytes(from.array()?));
        let lineage = read_lineage(&mut from)?;
        let (sealed, why_sealed, copying) = (from.u8()? != 0, from.json()?, from.u8()? != 0);
        let (began, steps) = (from.json()?, from.json()?);
        let last_recorded_at = from.i64()?;
        let count = from.count(40)?;
        let mut slots = Vec::with_capacity(count);
        for _ in 0..count {
            slots.push(SlotEnd { head: Position(from.u64()?), chain: from.array()? });
        }
        let ascending = slots.windows(2).all(|pair| pair[0].head <= pair[1].head);
        let begins = slots.first().is_some_and(|first| first.head == Position::START);
        if slots.len() as u64 != before.0 || !begins || !ascending {
            return Err(bad());
        }
        let mut aggregates = Vec::new();
        for _ in 0..from.count(8)? {
            aggregates.push(Aggregate::new(from.name()?, from.name()?).map_err(|_| bad())?);
        }
        let mut sessions = Vec::new();
        for _ in 0..from.count(4)? {
            sessions.push(SessionId::new(from.name()?).map_err(|_| bad())?);
        }
        let mut state = Self {
            store_id,
            lineage,
            sealed,
            why_sealed,
            copying,
            began,
            steps,
            last_recorded_at,
            slots,
            places: Vec::new(),
            ids: HashMap::new(),
            aggregates: Names::new(),
            sessions: Names::new(),
            types: HashMap::new(),
        };
        let count = from.count(40)?;
        state.places.reserve(count);
        state.ids.reserve(count);
        for _ in 0..count {
            let aggregate = aggregates.get(from.u32()? as usize).ok_or_else(bad)?;
            let session = match from.u32()? {
                0 => None,
                number => Some(sessions.get(number as usize - 1).ok_or_else(bad)?),
            };
            let (fingerprint, id) = (from.array()?, from.array()?);
            let event_id = EventId(Uuid::from_bytes(id));
            state.add_event(Unnumbered { fingerprint, event_id }, aggregate, session);
        }
        from.end()?;
        if state.head() != state.slots[state.slots.len() - 1].head || state.ids.len() != count {
            return Err(bad());
        }
        Ok(state)
    }
}

/// Writes a state as bytes piece by piece, so that whoever changes it waits for one piece at the most. What it is made
/// of only grows, so a snapshot is of the state that it was begun with.
pub(super) struct SnapshotWriter {
    out: Writer,
    before: Slot,
    /// How many slots, aggregates, sessions and places there are to write.
    counts: [usize; 4],
    /// Which of them it is at, and how many of those are written.
    part: usize,
    written: usize,
}

impl SnapshotWriter {
    /// How much is written at a time.
    const PIECE: usize = 4096;

    pub(super) fn begin(state: &State) -> Self {
        let mut out = Writer::new(SNAPSHOT, SNAPSHOT_FORMAT);
        out.raw(state.store_id.0.as_bytes());
        write_lineage(&mut out, &state.lineage);
        out.u8(u8::from(state.sealed));
        out.json(&state.why_sealed);
        out.u8(u8::from(state.copying));
        out.json(&state.began);
        out.json(&state.steps);
        out.i64(state.last_recorded_at);
        let counts =
            [state.slots.len(), state.aggregates.of.len(), state.sessions.of.len(), state.places.len()];
        out.count(counts[0]);
        Self { out, before: state.next(), counts, part: 0, written: 0 }
    }

    /// Writes a piece of the state that it was begun with, which may have grown since. Says whether there is more.
    pub(super) fn more(&mut self, state: &State) -> bool {
        let Some(count) = self.counts.get(self.part).copied() else { return false };
        let piece = self.written..count.min(self.written + Self::PIECE);
        self.written = piece.end;
        let out = &mut self.out;
        match self.part {
            0 => state.slots[piece].iter().for_each(|end| {
                out.u64(end.head.0);
                out.raw(&end.chain);
            }),
            1 => state.aggregates.of[piece].iter().for_each(|(aggregate, _)| {
                out.text(aggregate.aggregate_type().as_bytes());
                out.text(aggregate.aggregate_id().as_bytes());
            }),
            2 => {
                state.sessions.of[piece]
                    .iter()
                    .for_each(|(session, _)| out.text(session.as_str().as_bytes()));
            }
            _ => state.places[piece].iter().for_each(|place| {
                out.u32(place.aggregate);
                out.u32(place.session.map_or(0, |number| number + 1));
                out.raw(&place.fingerprint);
                out.raw(place.event_id.0.as_bytes());
            }),
        }
        if self.written == count {
            (self.part, self.written) = (self.part + 1, 0);
            if let Some(count) = self.counts.get(self.part) {
                out.count(*count);
            }
        }
        self.part < self.counts.len()
    }

    /// The snapshot, which is of all slots before the one that is told.
    pub(super) fn end(self) -> (Slot, Bytes) {
        (self.before, self.out.seal())
    }
}

fn said(why: &str) -> Option<String> {
    (!why.is_empty()).then(|| why.to_owned())
}

/// Whether a step follows the one before it.
fn joins(before: Option<&JournalStep>, step: &JournalStep) -> bool {
    let (number, phase) = before.map_or((0, Phase::default()), |before| (before.step, before.to));
    (step.step, step.from) == (number + 1, phase)
}

/// What of an event doesn't follow from its turn.
#[derive(Clone, Copy)]
struct Unnumbered {
    fingerprint: Fingerprint,
    event_id: EventId,
}

impl Unnumbered {
    fn of(event: &StoredEvent) -> Self {
        let fingerprint = fingerprint_of(
            &event.aggregate,
            &event.event_type,
            event.schema_version,
            event.payload.as_bytes(),
            event.session_id.as_ref(),
        );
        Self { fingerprint, event_id: event.event_id }
    }
}

/// The fingerprint that `event` would have if it was stored.
pub(super) fn fingerprint(aggregate: &Aggregate, event: &NewEvent) -> Fingerprint {
    let (payload, session) = (event.payload.as_bytes(), event.session_id.as_ref());
    fingerprint_of(aggregate, &event.event_type, event.schema_version, payload, session)
}

fn fingerprint_of(
    aggregate: &Aggregate,
    event_type: &str,
    schema_version: u32,
    payload: &[u8],
    session: Option<&SessionId>,
) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&schema_version.to_le_bytes());
    let session = session.map_or("", |id| id.as_str());
    let names = [aggregate.aggregate_type(), aggregate.aggregate_id(), event_type, session];
    for text in names.map(str::as_bytes).into_iter().chain([payload]) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    let mut fingerprint = Fingerprint::default();
    hasher.finalize_xof().fill(&mut fingerprint);
    fingerprint
}

fn index_of(position: Position) -> Option<usize> {
    usize::try_from(position.0.checked_sub(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::plan::plan;
    use ironbus::key::Entitlement;
    use ironbus::store::{Append, ExpectedVersion};
    use ironbus_testkit::{aggregate, numbered};
    use jiff::Timestamp;

    fn begun() -> State {
        let start = EpochStart { epoch: Epoch(1), after: Position::START };
        let lineage = Lineage::new(vec![start]).expect("one epoch ascends");
        let record = Record::Created { lineage, copy: false };
        let store_id = StoreId(Uuid::from_u128(1));
        State::begin(&Batch { store_id, slot: Slot(0), epoch: Epoch(1), writer: Uuid::nil(), record })
            .expect("a log begins")
    }

    /// Adds a slot with so many events, each of an aggregate and a session of its own.
    fn grow(state: &mut State, events: u64) {
        let first = state.head().0;
        let append = (first..first + events).fold(Append::default(), |append, n| {
            let session = SessionId::new(format!("s{n}")).expect("valid");
            append.and(
                aggregate("Todo", &n.to_string()),
                ExpectedVersion::Any,
                vec![numbered(n).for_session(session)],
            )
        });
        let batch = plan(state, [&append], Uuid::nil(), Timestamp::UNIX_EPOCH).batch.expect("it is new");
        state.fold(&batch).expect("it follows");
    }

    #[test]
    fn a_snapshot_is_of_the_state_that_it_was_begun_with_though_that_grows_meanwhile() {
        let mut state = begun();
        for _ in 0..3 {
            grow(&mut state, 2_000);
        }
        let then = state.clone();
        let mut writer = SnapshotWriter::begin(&state);
        let mut pieces = 1;
        grow(&mut state, 3);
        while writer.more(&state) {
            grow(&mut state, 3);
            pieces += 1;
        }
        assert!(pieces > 4, "in {pieces} pieces nobody waits only a moment");
        let (before, bytes) = writer.end();
        let restored = State::restore(before, bytes).expect("it is whole");
        assert_eq!((restored.next(), restored.end()), (then.next(), then.end()));
        for n in [0, 2_500, 5_999, 6_000] {
            let id = ironbus_testkit::numbered_id(n);
            assert_eq!(restored.find(id), then.find(id), "event {n}");
        }
        let session = Entitlement::session(SessionId::new("s5999").expect("valid"));
        let pattern = "events/session/s5999/**".parse().expect("a pattern");
        let filter = EventFilter::public(pattern).entitled(session);
        let select = |state: &State| state.select(Position::START, state.head(), &filter, 10);
        assert_eq!(select(&restored), select(&then));
    }

    #[test]
    fn a_snapshot_whose_slots_do_not_begin_with_an_empty_one_is_refused() {
        let mut state = begun();
        grow(&mut state, 2);
        state.slots[0].head = Position(1);
        let mut writer = SnapshotWriter::begin(&state);
        while writer.more(&state) {}
        let (before, bytes) = writer.end();
        assert!(State::restore(before, bytes).is_err());
    }
}
