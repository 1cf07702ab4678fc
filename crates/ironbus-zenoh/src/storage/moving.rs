//! A model check of going over from one log to another and back while nodes append: every order of their steps and
//! of the mover's, who may be killed at any moment because it knows nothing but what the logs hold.
//!
//! As in `model`, what is decided is asked of `plan` and `state`; replies and puts aren't lost here.

use std::collections::HashMap;
use std::sync::Arc;

use ironbus::event::{Aggregate, Epoch, Position, StoreId, StoredEvent};
use ironbus::store::{Append, AppendError, EpochStart, ExpectedVersion, Lineage};
use ironbus_testkit::{aggregate, numbered, numbered_id};
use jiff::Timestamp;
use parking_lot::Mutex;
use stateright::{Checker, HasDiscoveries, Model, Property};
use uuid::Uuid;

use super::batch::{Batch, Record};
use super::log::Slot;
use super::plan::{Answer, Tried, Turn, after_commit, begin_epoch, copy, follow, open_copy, plan, seal};
use super::state::State;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// The copy is opened once the other log is sealed, without a look at whether it is whole.
    SealNotCompared,
    /// The copy is opened when it holds what the other log holds, which isn't sealed.
    NotSealed,
    /// The log that was left is opened again as it is, once the one that it went over to is sealed.
    NotACopyOfIt,
}

const SOURCE: usize = 0;
const TARGET: usize = 1;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct System {
    /// The batches of each log, by number.
    logs: [Vec<u16>; 2],
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    /// Which log it appends to.
    at: usize,
    /// How much of each it has folded.
    folded: [usize; 2],
    /// The batch that it is about to put.
    putting: Option<u16>,
    /// Where its append stands, as it was told, and in which epoch it was told so.
    told: Option<(u64, u64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Plan(usize),
    Put(usize),
    Follow(usize),
    /// The mover's, each from the log that is named to the other.
    BecomeCopy(usize),
    Copy(usize),
    Seal(usize),
    Open(usize),
}

struct Moving {
    mutant: Mutant,
    wishes: Vec<ExpectedVersion>,
    batches: Mutex<Vec<Batch>>,
    states: Mutex<HashMap<Vec<u16>, Arc<State>>>,
}

impl Moving {
    fn number(&self, batch: Batch) -> u16 {
        let mut batches = self.batches.lock();
        let at = batches.iter().position(|known| *known == batch).unwrap_or_else(|| {
            batches.push(batch);
            batches.len() - 1
        });
        u16::try_from(at).expect("a small model has few batches")
    }

    fn batch(&self, number: u16) -> Batch {
        self.batches.lock()[number as usize].clone()
    }

    /// The state after these slots. Each was planned on those before it and won its slot, so it follows.
    fn state(&self, slots: &[u16]) -> Arc<State> {
        if let Some(known) = self.states.lock().get(slots) {
            return Arc::clone(known);
        }
        let (last, before) = slots.split_last().expect("a log has begun");
        let batch = self.batch(*last);
        let state = if before.is_empty() {
            State::begin(&batch).expect("a log begins")
        } else {
            let mut state = State::clone(&self.state(before));
            state.fold(&batch).expect("what was planned on all before it follows");
            state
        };
        let state = Arc::new(state);
        self.states.lock().insert(slots.to_vec(), Arc::clone(&state));
        state
    }

    fn begun(&self, copy: bool) -> u16 {
        let lineage = Lineage::new(vec![EpochStart { epoch: Epoch(1), after: Position::START }]);
        let record = Record::Created { lineage: lineage.expect("one epoch ascends"), copy };
        let store_id = StoreId(Uuid::from_u128(1));
        self.number(Batch { store_id, slot: Slot(0), epoch: Epoch(1), writer: Uuid::nil(), record })
    }

    fn append(&self, node: usize) -> Append {
        Append::to(todo(), self.wishes[node], vec![numbered(node as u64)])
    }

    fn events(&self, slots: &[u16]) -> Vec<Arc<StoredEvent>> {
        slots.iter().flat_map(|number| self.batch(*number).events().to_vec()).collect()
    }

    /// What the mover puts into a log's next slot, on its way to it.
    fn moving(
        &self,
        step: Step,
        source: &State,
        target: &State,
        events: &[Arc<StoredEvent>],
    ) -> Option<Batch> {
        let mover = Uuid::from_u128(9);
        // The copy is opened as it is, whatever that is.
        let opened = || {
            let (after, chain) = (target.head(), target.chain());
            let (store_id, slot, epoch) = (target.store_id(), target.next(), Epoch(source.epoch().0 + 1));
            let record = Record::EpochBegun { after, chain, why: String::new() };
            Some(Batch { store_id, slot, epoch, writer: mover, record })
        };
        match step {
            Step::BecomeCopy(_) if source.is_copying() || source.is_sealed() => None,
            Step::BecomeCopy(_) => follow(target, mover, source.lineage()).ok().flatten(),
            Step::Copy(_) => {
                // One at a time, so that the mover is killed between any two.
                let next = events.iter().find(|event| event.position > target.head())?;
                copy(target, mover, std::slice::from_ref(next)).ok().flatten()
            }
            Step::Open(_) if !source.is_sealed() && self.mutant != Mutant::NotSealed => None,
            Step::Open(_) if target.is_copying() && self.mutant == Mutant::SealNotCompared => opened(),
            Step::Open(_) if target.is_sealed() && self.mutant == Mutant::NotACopyOfIt => {
                begin_epoch(target, mover, Epoch(source.epoch().0 + 1), "").ok().flatten()
            }
            Step::Open(_) => open_copy(target, mover, source.end(), "").ok().flatten(),
            Step::Plan(_) | Step::Put(_) | Step::Follow(_) | Step::Seal(_) => None,
        }
    }

    fn put(&self, system: &mut System, log: usize, batch: Batch) {
        let number = self.number(batch);
        system.logs[log].push(number);
    }

    /// The log that accepts appends, or that was the last to.
    fn in_force(&self, system: &System) -> Arc<State> {
        let [source, target] = [SOURCE, TARGET].map(|log| self.state(&system.logs[log]));
        let target_is = !target.is_copying() && (source.is_copying() || target.epoch() > source.epoch());
        if target_is { target } else { source }
    }
}

fn todo() -> Aggregate {
    aggregate("Todo", "1")
}

impl Model for Moving {
    type State = System;
    type Action = Step;

    fn init_states(&self) -> Vec<System> {
        let node = Node { at: SOURCE, folded: [1, 1], putting: None, told: None };
        let logs = [vec![self.begun(false)], vec![self.begun(true)]];
        vec![System { logs, nodes: vec![node; self.wishes.len()] }]
    }

    fn actions(&self, system: &System, steps: &mut Vec<Step>) {
        for (n, node) in system.nodes.iter().enumerate().filter(|(_, node)| node.told.is_none()) {
            if node.putting.is_some() {
                steps.push(Step::Put(n));
            } else {
                steps.extend([Step::Plan(n), Step::Follow(n)]);
            }
        }
        for from in [SOURCE, TARGET] {
            steps.extend([Step::BecomeCopy(from), Step::Copy(from), Step::Seal(from), Step::Open(from)]);
        }
    }

    fn next_state(&self, last: &System, step: Step) -> Option<System> {
        let mut system = last.clone();
        match step {
            Step::Plan(n) => {
                let node = &last.nodes[n];
                let state = self.state(&last.logs[node.at][..node.folded[node.at]]);
                let append = self.append(n);
                let writer = Uuid::from_u128(n as u128);
                let mut round = plan(&state, [&append], writer, Timestamp::UNIX_EPOCH);
                // A refusal needs a look: it is told only where the node has folded all there is.
                let behind = node.folded[node.at] < last.logs[node.at].len();
                match round.answers.pop().expect("one append, one answer") {
                    Answer::Written(_) => {
                        system.nodes[n].putting = round.batch.map(|batch| self.number(batch));
                    }
                    Answer::StoredBefore(places) => {
                        let (position, sequence) = (places[0].position.0, places[0].sequence.0);
                        system.nodes[n].told = Some((position, sequence, state.epoch().0));
                    }
                    // Its client goes where it was sent.
                    Answer::Refused(AppendError::Superseded { .. }) if !behind => {
                        system.nodes[n].at = 1 - node.at;
                    }
                    Answer::Refused(_) => {}
                }
            }
            Step::Put(n) => {
                let node = &last.nodes[n];
                let (at, folded) = (node.at, node.folded[node.at]);
                let number = node.putting.expect("it is about to");
                system.nodes[n].putting = None;
                let tried = match last.logs[at].get(folded) {
                    Some(held) => Tried::Holds(*held),
                    None => Tried::Won,
                };
                if let Turn::Answer = after_commit(tried) {
                    system.logs[at].push(number);
                    let batch = self.batch(number);
                    let event = &batch.events()[0];
                    system.nodes[n].told = Some((event.position.0, event.sequence.0, batch.epoch.0));
                }
                system.nodes[n].folded[at] += 1;
            }
            Step::Follow(n) => {
                let node = &mut system.nodes[n];
                node.folded[node.at] = (node.folded[node.at] + 1).min(last.logs[node.at].len());
            }
            Step::Seal(from) => {
                let source = self.state(&last.logs[from]);
                // Once each way.
                let epoch = Epoch(if from == SOURCE { 1 } else { 2 });
                let batch = seal(&source, Uuid::from_u128(9), epoch, "").ok().flatten()?;
                self.put(&mut system, from, batch);
            }
            Step::BecomeCopy(from) | Step::Copy(from) | Step::Open(from) => {
                let (source, target) = (self.state(&last.logs[from]), self.state(&last.logs[1 - from]));
                let events = self.events(&last.logs[from]);
                let batch = self.moving(step, &source, &target, &events)?;
                self.put(&mut system, 1 - from, batch);
            }
        }
        (system != *last).then_some(system)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "what is acknowledged is in the log in force",
                |model: &Self, system: &System| {
                    let in_force = model.in_force(system);
                    system.nodes.iter().enumerate().all(|(n, node)| {
                        let stands = in_force.find(numbered_id(n as u64)).map(|(place, _)| place);
                        node.told.is_none_or(|(position, sequence, _)| {
                            stands.is_some_and(|at| (at.position.0, at.sequence.0) == (position, sequence))
                        })
                    })
                },
            ),
            Property::always("one log accepts appends", |model: &Self, system: &System| {
                let accepts = |log: &&Vec<u16>| {
                    let state = model.state(log);
                    !state.is_sealed() && !state.is_copying()
                };
                system.logs.iter().filter(accepts).count() <= 1
            }),
            Property::sometimes(
                "it has acknowledged before, there, and back again",
                |_: &Self, system: &System| {
                    let told_in =
                        |epoch| system.nodes.iter().any(|node| node.told.is_some_and(|told| told.2 == epoch));
                    told_in(1) && told_in(2) && told_in(3)
                },
            ),
        ]
    }
}

fn moving(mutant: Mutant) -> Moving {
    let wishes = vec![ExpectedVersion::Any, ExpectedVersion::Any, ExpectedVersion::NoStream];
    Moving { mutant, wishes, batches: Mutex::default(), states: Mutex::default() }
}

#[track_caller]
fn is_caught(mutant: Mutant, by: &'static str) {
    let until = HasDiscoveries::AllOf([by].into());
    let checker = moving(mutant).checker().threads(2).finish_when(until).spawn_bfs().join();
    assert!(checker.discoveries().contains_key(by), "{mutant:?} passes");
}

#[test]
fn going_over_and_back_loses_nothing_whenever_the_mover_is_killed() {
    let checker = moving(Mutant::None).checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    assert!(checker.unique_state_count() > 1_000, "too few states to mean anything");
    checker.assert_properties();
}

#[test]
fn a_seal_that_is_not_compared_is_caught() {
    is_caught(Mutant::SealNotCompared, "what is acknowledged is in the log in force");
}

#[test]
fn a_copy_opened_beside_an_unsealed_log_is_caught() {
    is_caught(Mutant::NotSealed, "one log accepts appends");
}

#[test]
fn a_log_that_was_left_and_is_opened_as_it_is_is_caught() {
    is_caught(Mutant::NotACopyOfIt, "what is acknowledged is in the log in force");
}
