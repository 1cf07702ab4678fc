//! A model check of several nodes on one log: every order in which they plan, put, look and fold, with
//! crashes, lost replies, and puts that come through at any later time.
//!
//! The model has only the slots and what each node knows; what a node decides it asks of `plan` and `state`,
//! the very code that the committing task runs. Each mutant decides one thing wrongly, and must be found out.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use ironbus::event::{Aggregate, Epoch, Position, StoreId};
use ironbus::store::{Append, AppendError, EpochStart, ExpectedVersion, Lineage, Recorded};
use ironbus_testkit::{aggregate, numbered, numbered_id};
use jiff::Timestamp;
use parking_lot::Mutex;
use stateright::{Checker, HasDiscoveries, Model, Property};
use uuid::Uuid;

use super::batch::{Batch, Record};
use super::log::Slot;
use super::plan::{
    Answer, Planned, Refused, Round, Tried, Turn, after_commit, after_look, begin_epoch, plan, seal,
};
use super::state::State;

/// What is decided wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// The expected version is checked before the event ids.
    VersionFirst,
    /// A slot that holds something else is told as a conflict.
    LostIsConflict,
    /// A slot that holds something else is passed over instead of folded.
    SlotSkipped,
    /// Nobody asks whether the epoch is sealed.
    SealIgnored,
    /// A refusal is told on what the node happens to know.
    RefusedUnseen,
    /// A look at an empty slot after a put without a reply is taken for the put's failure, and told.
    UnknownIsFailure,
    /// Whichever epoch is in force is sealed, not the one that was meant.
    AnyEpochSealed,
}

/// What the client of a node wants.
#[derive(Clone, Debug)]
enum Wish {
    Append {
        n: u64,
        expected: ExpectedVersion,
    },
    /// Of the first epoch.
    Seal,
    BeginEpoch(u64),
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Told {
    Stored(Vec<(u64, u64)>),
    Marked,
    /// Refused, and whether that was so at that moment.
    Refused {
        justly: bool,
    },
}

/// An interned batch.
type BatchNumber = u16;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct System {
    /// What each slot holds; `None` only where a mutant has left a hole.
    slots: Vec<Option<BatchNumber>>,
    /// Puts whose writers wait no longer, and which may still come through.
    late: BTreeSet<(u64, BatchNumber)>,
    nodes: Vec<Node>,
    crashes: u8,
    losses: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    /// How many slots it has folded.
    folded: usize,
    /// How many it has passed over; only a mutant does.
    skipped: usize,
    doing: Doing,
    told: Option<Told>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Doing {
    Nothing,
    Putting(u64, BatchNumber),
    Looking { put: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// A node plans a round.
    Plan(usize),
    /// Its put is carried out, and it hears of that.
    Put(usize),
    /// Its put is carried out, and the reply is lost.
    PutUnheard(usize),
    /// Its put is delayed, perhaps for ever, and it waits no longer.
    PutDelayed(usize),
    /// It looks at the next slot.
    Look(usize),
    /// It folds what another has committed.
    Follow(usize),
    /// It dies, and starts again with nothing; its client asks again.
    Crash(usize),
    /// A delayed put comes through.
    Late(u64, BatchNumber),
}

/// The nodes and what may go wrong.
struct Nodes {
    wishes: Vec<Wish>,
    mutant: Mutant,
    crashes: u8,
    losses: u8,
    batches: Mutex<(Vec<Bytes>, HashMap<Bytes, BatchNumber>)>,
    states: Mutex<HashMap<Vec<BatchNumber>, Option<Arc<State>>>>,
}

impl Nodes {
    fn new(wishes: Vec<Wish>, crashes: u8, losses: u8, mutant: Mutant) -> Self {
        Self { wishes, mutant, crashes, losses, batches: Mutex::default(), states: Mutex::default() }
    }

    fn number(&self, batch: &Batch) -> BatchNumber {
        let bytes = batch.encode();
        let (all, numbers) = &mut *self.batches.lock();
        *numbers.entry(bytes.clone()).or_insert_with(|| {
            all.push(bytes);
            BatchNumber::try_from(all.len() - 1).expect("a small model has few batches")
        })
    }

    fn batch(&self, slot: u64, number: BatchNumber) -> Option<Batch> {
        Batch::decode(Slot(slot), self.batches.lock().0[number as usize].clone()).ok()
    }

    /// The state after these slots; `None` if they don't follow from one another.
    fn state(&self, slots: &[Option<BatchNumber>]) -> Option<Arc<State>> {
        let numbers: Vec<BatchNumber> = slots.iter().copied().collect::<Option<_>>()?;
        if let Some(known) = self.states.lock().get(&numbers) {
            return known.clone();
        }
        let (last, before) = numbers.split_last()?;
        let batch = self.batch(before.len() as u64, *last);
        let state = if before.is_empty() {
            batch.and_then(|batch| State::begin(&batch).ok())
        } else {
            self.state(&slots[..before.len()]).zip(batch).and_then(|(before, batch)| {
                let mut state = State::clone(&before);
                state.fold(&batch).ok().map(|()| state)
            })
        };
        let state = state.map(Arc::new);
        self.states.lock().insert(numbers, state.clone());
        state
    }

    fn of(&self, system: &System, node: usize) -> Arc<State> {
        self.state(&system.slots[..system.nodes[node].folded]).expect("a node folds only what can be folded")
    }

    fn append(&self, node: usize) -> Option<Append> {
        let Wish::Append { n, expected } = self.wishes[node] else { return None };
        Some(Append::to(todo(), expected, vec![numbered(n)]))
    }

    /// What a node means to do. The mutants compose the same decisions in a wrong order, or leave one out.
    fn round(&self, state: &State, node: usize) -> Round {
        let writer = Uuid::from_u128(node as u128);
        let mark = |planned| match planned {
            Ok(batch) => Round { answers: Vec::new(), batch },
            Err(Refused::Append(error)) => Round { answers: vec![Answer::Refused(error)], batch: None },
            Err(other) => unreachable!("no log is a copy here: {other:?}"),
        };
        let append = match self.wishes[node] {
            Wish::Seal if self.mutant == Mutant::AnyEpochSealed => {
                return mark(seal(state, writer, state.epoch(), ""));
            }
            Wish::Seal => return mark(seal(state, writer, Epoch(1), "")),
            Wish::BeginEpoch(epoch) => return mark(begin_epoch(state, writer, Epoch(epoch), "")),
            Wish::Append { .. } => self.append(node).expect("it is an append"),
        };
        let now = Timestamp::UNIX_EPOCH;
        let mut planned = Planned::new(state, now);
        let answer = match self.mutant {
            Mutant::VersionFirst => match planned.check_versions(&append) {
                Err(error) => Answer::Refused(error),
                Ok(()) => planned.decide(&append),
            },
            Mutant::SealIgnored => match planned.stored_before(&append) {
                Ok(Some(places)) => Answer::StoredBefore(places),
                Ok(None) => match planned.check_versions(&append) {
                    Err(error) => Answer::Refused(error),
                    Ok(()) => Answer::Written(planned.write(&append)),
                },
                Err(error) => Answer::Refused(error),
            },
            _ => return plan(state, [&append], writer, now),
        };
        Round { answers: vec![answer], batch: planned.into_batch(writer) }
    }

    /// Whether a refusal is true of the whole log as it is now.
    fn is_just(&self, system: &System, node: usize, error: &AppendError) -> bool {
        let Some(now) = self.state(&system.slots) else { return false };
        let Wish::Append { n, expected } = self.wishes[node] else {
            return matches!(self.wishes[node], Wish::Seal) && now.epoch() > Epoch(1);
        };
        let stored = now.find(numbered_id(n)).is_some();
        let refused = match error {
            AppendError::Conflict { .. } => !expected.admits(now.version(&todo())),
            AppendError::Superseded { .. } => now.is_sealed(),
            _ => false,
        };
        refused && !stored
    }

    fn tell(&self, system: &mut System, node: usize, round: &Round) {
        let told = match round.answers.first() {
            None => Told::Marked,
            Some(Answer::Written(places) | Answer::StoredBefore(places)) => {
                Told::Stored(places.iter().map(|place| (place.position.0, place.sequence.0)).collect())
            }
            Some(Answer::Refused(error)) => Told::Refused { justly: self.is_just(system, node, error) },
        };
        system.nodes[node].told = Some(told);
        system.nodes[node].doing = Doing::Nothing;
    }

    /// Carries a put out, and says what the slot holds if it lost.
    fn carry_out(slots: &mut Vec<Option<BatchNumber>>, slot: u64, batch: BatchNumber) -> Tried<BatchNumber> {
        let slot = usize::try_from(slot).expect("small");
        while slots.len() <= slot {
            slots.push(None);
        }
        match slots[slot] {
            Some(held) => Tried::Holds(held),
            None => {
                slots[slot] = Some(batch);
                Tried::Won
            }
        }
    }

    /// How the node's round goes on.
    fn turn(&self, system: &mut System, node: usize, turn: Turn<BatchNumber>) {
        let round = self.round(&self.of(system, node), node);
        match turn {
            Turn::Answer => {
                if round.batch.is_some() && system.nodes[node].skipped == 0 {
                    system.nodes[node].folded += 1;
                }
                self.tell(system, node, &round);
            }
            Turn::Fold(_) if self.mutant == Mutant::LostIsConflict => {
                let conflict = self.append(node).map(|append| AppendError::Conflict {
                    aggregate: append.writes[0].aggregate.clone(),
                    expected: append.writes[0].expected,
                    actual: ironbus::event::Sequence(0),
                });
                if let Some(conflict) = conflict {
                    let round = Round { answers: vec![Answer::Refused(conflict)], batch: None };
                    self.tell(system, node, &round);
                } else {
                    self.fold_next(system, node);
                }
            }
            Turn::Fold(_) if self.mutant == Mutant::SlotSkipped => {
                system.nodes[node].skipped += 1;
                system.nodes[node].doing = Doing::Nothing;
            }
            Turn::Fold(_) => self.fold_next(system, node),
            Turn::Look => system.nodes[node].doing = Doing::Looking { put: true },
            Turn::Again if self.mutant == Mutant::UnknownIsFailure => {
                system.nodes[node].told = Some(Told::Refused { justly: true });
                system.nodes[node].doing = Doing::Nothing;
            }
            Turn::Again => system.nodes[node].doing = Doing::Nothing,
        }
    }

    fn fold_next(&self, system: &mut System, node: usize) {
        let folded = system.nodes[node].folded + 1;
        // A node that meets what can't follow stops; the property says that it never happens.
        if self.state(&system.slots[..folded]).is_some() {
            system.nodes[node].folded = folded;
        }
        system.nodes[node].doing = Doing::Nothing;
    }
}

fn todo() -> Aggregate {
    aggregate("Todo", "1")
}

/// The slot that a node takes for the next.
fn next_slot(node: &Node) -> usize {
    node.folded + node.skipped
}

impl Model for Nodes {
    type State = System;
    type Action = Step;

    fn init_states(&self) -> Vec<System> {
        let lineage = Lineage::new(vec![EpochStart { epoch: Epoch(1), after: Position::START }]);
        let begun = self.number(&Batch {
            store_id: StoreId(Uuid::from_u128(1)),
            slot: Slot(0),
            epoch: Epoch(1),
            writer: Uuid::nil(),
            record: Record::Created { lineage: lineage.expect("one epoch ascends"), copy: false },
        });
        let node = Node { folded: 1, skipped: 0, doing: Doing::Nothing, told: None };
        vec![System {
            slots: vec![Some(begun)],
            late: BTreeSet::new(),
            nodes: vec![node; self.wishes.len()],
            crashes: self.crashes,
            losses: self.losses,
        }]
    }

    fn actions(&self, system: &System, steps: &mut Vec<Step>) {
        for (n, node) in system.nodes.iter().enumerate() {
            if node.told.is_some() {
                continue;
            }
            match node.doing {
                Doing::Nothing => {
                    steps.push(Step::Plan(n));
                    if node.skipped == 0 && node.folded < system.slots.len() {
                        steps.push(Step::Follow(n));
                    }
                }
                Doing::Putting(..) => {
                    steps.push(Step::Put(n));
                    if system.losses > 0 {
                        steps.extend([Step::PutUnheard(n), Step::PutDelayed(n)]);
                    }
                }
                Doing::Looking { .. } => steps.push(Step::Look(n)),
            }
            if system.crashes > 0 {
                steps.push(Step::Crash(n));
            }
        }
        steps.extend(system.late.iter().map(|(slot, batch)| Step::Late(*slot, *batch)));
    }

    fn next_state(&self, last: &System, step: Step) -> Option<System> {
        let mut system = last.clone();
        match step {
            Step::Plan(n) => {
                let round = self.round(&self.of(&system, n), n);
                if let Some(batch) = &round.batch {
                    let slot = next_slot(&system.nodes[n]) as u64;
                    let number = self.number(&Batch { slot: Slot(slot), ..batch.clone() });
                    system.nodes[n].doing = Doing::Putting(slot, number);
                } else if (round.needs_a_look() && self.mutant != Mutant::RefusedUnseen)
                    || round.answers.is_empty()
                {
                    system.nodes[n].doing = Doing::Looking { put: false };
                } else {
                    self.tell(&mut system, n, &round);
                }
            }
            Step::Put(n) => {
                let Doing::Putting(slot, batch) = system.nodes[n].doing else { return None };
                let tried = Self::carry_out(&mut system.slots, slot, batch);
                self.turn(&mut system, n, after_commit(tried));
            }
            Step::PutUnheard(n) => {
                let Doing::Putting(slot, batch) = system.nodes[n].doing else { return None };
                system.losses -= 1;
                Self::carry_out(&mut system.slots, slot, batch);
                self.turn(&mut system, n, after_commit(Tried::Unknown));
            }
            Step::PutDelayed(n) => {
                let Doing::Putting(slot, batch) = system.nodes[n].doing else { return None };
                system.losses -= 1;
                system.late.insert((slot, batch));
                self.turn(&mut system, n, after_commit(Tried::Unknown));
            }
            Step::Look(n) => {
                let Doing::Looking { put } = system.nodes[n].doing else { return None };
                let found = system.slots.get(next_slot(&system.nodes[n])).copied().flatten();
                self.turn(&mut system, n, after_look(put, found));
            }
            Step::Follow(n) => self.fold_next(&mut system, n),
            Step::Crash(n) => {
                system.crashes -= 1;
                if let Doing::Putting(slot, batch) = system.nodes[n].doing {
                    system.late.insert((slot, batch));
                }
                system.nodes[n] = Node { folded: 1, skipped: 0, doing: Doing::Nothing, told: None };
            }
            Step::Late(slot, batch) => {
                system.late.remove(&(slot, batch));
                Self::carry_out(&mut system.slots, slot, batch);
            }
        }
        (system != *last).then_some(system)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn places(state: &State, n: u64) -> Option<(u64, u64)> {
            let (Recorded { position, sequence, .. }, _) = state.find(numbered_id(n))?;
            Some((position.0, sequence.0))
        }
        vec![
            // Contiguous positions and sequences, every id once, one chain, nothing after a seal: all of it
            // is what folding checks.
            Property::always("the log is one history", |model: &Self, system: &System| {
                model.state(&system.slots).is_some()
            }),
            Property::always(
                "what is acknowledged stands where it was said",
                |model: &Self, system: &System| {
                    let Some(state) = model.state(&system.slots) else { return true };
                    system.nodes.iter().enumerate().all(|(node, known)| {
                        match (&known.told, &model.wishes[node]) {
                            (Some(Told::Stored(told)), Wish::Append { n, .. }) => {
                                told.len() == 1 && places(&state, *n) == Some(told[0])
                            }
                            (Some(Told::Stored(_)), _) => false,
                            _ => true,
                        }
                    })
                },
            ),
            Property::always("what is refused had to be", |_: &Self, system: &System| {
                system.nodes.iter().all(|node| node.told != Some(Told::Refused { justly: false }))
            }),
            Property::always("what is refused is never stored", |model: &Self, system: &System| {
                let Some(state) = model.state(&system.slots) else { return true };
                system.nodes.iter().enumerate().all(|(node, known)| {
                    match (&known.told, &model.wishes[node]) {
                        (Some(Told::Refused { .. }), Wish::Append { n, .. }) => places(&state, *n).is_none(),
                        _ => true,
                    }
                })
            }),
            Property::always("what is marked stands", |model: &Self, system: &System| {
                let Some(state) = model.state(&system.slots) else { return true };
                let sealed = |epoch| {
                    system.slots.iter().enumerate().any(|(slot, number)| {
                        let batch = number.and_then(|number| model.batch(slot as u64, number));
                        batch.is_some_and(|batch| {
                            batch.epoch == epoch && matches!(batch.record, Record::Sealed { .. })
                        })
                    })
                };
                let stands = system.nodes.iter().enumerate().all(|(node, known)| {
                    match (&known.told, &model.wishes[node]) {
                        (Some(Told::Marked), Wish::Seal) => sealed(Epoch(1)),
                        (Some(Told::Marked), Wish::BeginEpoch(epoch)) => state.epoch() >= Epoch(*epoch),
                        (Some(Told::Marked), Wish::Append { .. }) => false,
                        _ => true,
                    }
                });
                // Nobody wishes to seal another.
                stands && !sealed(Epoch(2))
            }),
            Property::sometimes("everybody is answered", |_: &Self, system: &System| {
                system.nodes.iter().all(|node| node.told.is_some())
            }),
        ]
    }
}

fn append(n: u64, expected: ExpectedVersion) -> Wish {
    Wish::Append { n, expected }
}

/// Three writers to one aggregate; the third retries the first's append through a node of its own.
fn appends() -> Vec<Wish> {
    let (new, any) = (ExpectedVersion::NoStream, ExpectedVersion::Any);
    vec![append(1, new), append(2, any), append(1, new)]
}

/// Two writers, and one who seals.
fn sealing() -> Vec<Wish> {
    vec![append(1, ExpectedVersion::NoStream), append(2, ExpectedVersion::Any), Wish::Seal]
}

/// A writer, one who seals, and one who begins the next epoch, before or after that.
fn epochs() -> Vec<Wish> {
    vec![append(1, ExpectedVersion::Any), Wish::Seal, Wish::BeginEpoch(2)]
}

/// In all orders, with two crashes and two lost or late puts among the three.
fn nodes(wishes: Vec<Wish>, mutant: Mutant) -> Nodes {
    Nodes::new(wishes, 2, 2, mutant)
}

#[track_caller]
fn holds(wishes: Vec<Wish>) {
    let checker = nodes(wishes, Mutant::None).checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    assert!(checker.unique_state_count() > 1_000, "too few states to mean anything");
    checker.assert_properties();
}

#[track_caller]
fn is_caught(wishes: Vec<Wish>, mutant: Mutant, by: &'static str) {
    // Until it is: a mutant may go on for ever.
    let until = HasDiscoveries::AllOf([by].into());
    let checker = nodes(wishes, mutant).checker().threads(2).finish_when(until).spawn_bfs().join();
    let found: Vec<_> = checker.discoveries().into_keys().collect();
    assert!(found.contains(&by), "{mutant:?} breaks {found:?}");
}

#[test]
fn three_writers_make_one_history_whatever_fails() {
    holds(appends());
}

#[test]
fn nothing_is_stored_after_a_seal() {
    holds(sealing());
}

#[test]
fn an_epoch_begins_after_all_before_it() {
    holds(epochs());
}

#[test]
fn a_version_checked_before_the_ids_is_caught() {
    is_caught(appends(), Mutant::VersionFirst, "what is refused had to be");
}

#[test]
fn a_lost_slot_taken_for_a_conflict_is_caught() {
    is_caught(appends(), Mutant::LostIsConflict, "what is refused had to be");
}

#[test]
fn a_skipped_slot_is_caught() {
    is_caught(appends(), Mutant::SlotSkipped, "the log is one history");
}

#[test]
fn an_ignored_seal_is_caught() {
    is_caught(sealing(), Mutant::SealIgnored, "the log is one history");
}

#[test]
fn a_refusal_by_a_node_that_is_behind_is_caught() {
    // Behind a seal that a later epoch has lifted.
    is_caught(epochs(), Mutant::RefusedUnseen, "what is refused had to be");
}

#[test]
fn a_put_without_a_reply_told_as_failed_is_caught() {
    is_caught(appends(), Mutant::UnknownIsFailure, "what is refused is never stored");
}

#[test]
fn a_seal_of_an_epoch_that_was_not_meant_is_caught() {
    is_caught(epochs(), Mutant::AnyEpochSealed, "what is marked stands");
}
