//! A model check of going over from one log to another while nodes append: every order of their steps and
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
use super::plan::{Answer, Sealed, Tried, Turn, after_commit, begin_epoch, copy, open_copy, plan, seal};
use super::state::State;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// The copy is opened once the other log is sealed, without a look at whether it is whole.
    SealNotCompared,
    /// The copy is opened when it holds what the other log holds, which isn't sealed.
    NotSealed,
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
    /// Where its append stands, as it was told.
    told: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Plan(usize),
    Put(usize),
    Follow(usize),
    Copy,
    Seal,
    Open,
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

    /// What the mover puts into the copy's next slot.
    fn opening(&self, source: &State, target: &State) -> Option<Batch> {
        let writer = Uuid::from_u128(9);
        let sealed = Sealed { epoch: source.epoch(), head: source.head(), chain: source.chain() };
        match self.mutant {
            Mutant::SealNotCompared if source.is_sealed() => begin_epoch(target, writer, Epoch(2)),
            Mutant::NotSealed => open_copy(target, writer, sealed).ok().flatten(),
            _ if source.is_sealed() => open_copy(target, writer, sealed).ok().flatten(),
            _ => None,
        }
    }

    fn put(&self, system: &mut System, log: usize, batch: Batch) {
        let number = self.number(batch);
        system.logs[log].push(number);
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
        steps.extend([Step::Copy, Step::Seal, Step::Open]);
    }

    fn next_state(&self, last: &System, step: Step) -> Option<System> {
        let mut system = last.clone();
        let (source, target) = (self.state(&last.logs[SOURCE]), self.state(&last.logs[TARGET]));
        let mover = Uuid::from_u128(9);
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
                        system.nodes[n].told = Some((places[0].position.0, places[0].sequence.0));
                    }
                    // Its client goes where it was sent.
                    Answer::Refused(AppendError::Superseded { .. }) if !behind && node.at == SOURCE => {
                        system.nodes[n].at = TARGET;
                    }
                    Answer::Refused(_) => {}
                }
            }
            Step::Put(n) => {
                let node = &last.nodes[n];
                let (at, folded) = (node.at, node.folded[node.at]);
                let batch = node.putting.expect("it is about to");
                system.nodes[n].putting = None;
                let tried = match last.logs[at].get(folded) {
                    Some(held) => Tried::Holds(*held),
                    None => Tried::Won,
                };
                if let Turn::Answer = after_commit(tried) {
                    system.logs[at].push(batch);
                    let event = &self.batch(batch).events()[0].clone();
                    system.nodes[n].told = Some((event.position.0, event.sequence.0));
                }
                system.nodes[n].folded[at] += 1;
            }
            Step::Follow(n) => {
                let node = &mut system.nodes[n];
                node.folded[node.at] = (node.folded[node.at] + 1).min(last.logs[node.at].len());
            }
            Step::Copy => {
                let events = self.events(&last.logs[SOURCE]);
                // One at a time, so that the mover is killed between any two.
                let next = events.iter().find(|event| event.position > target.head())?;
                let batch = copy(&target, mover, std::slice::from_ref(next)).ok().flatten()?;
                self.put(&mut system, TARGET, batch);
            }
            Step::Seal => {
                let batch = seal(&source, mover)?;
                self.put(&mut system, SOURCE, batch);
            }
            Step::Open => {
                let batch = self.opening(&source, &target)?;
                self.put(&mut system, TARGET, batch);
            }
        }
        (system != *last).then_some(system)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "what is acknowledged is in the log in force",
                |model: &Self, system: &System| {
                    let target = model.state(&system.logs[TARGET]);
                    let source = model.state(&system.logs[SOURCE]);
                    let in_force = if target.is_copying() { source } else { target };
                    system.nodes.iter().enumerate().all(|(n, node)| {
                        let stands = in_force.find(numbered_id(n as u64)).map(|(place, _)| place);
                        node.told.is_none_or(|told| {
                            stands.is_some_and(|at| (at.position.0, at.sequence.0) == told)
                        })
                    })
                },
            ),
            Property::always("one log accepts appends", |model: &Self, system: &System| {
                let (source, target) = (model.state(&system.logs[SOURCE]), model.state(&system.logs[TARGET]));
                source.is_sealed() || target.is_copying()
            }),
            Property::sometimes("both logs have acknowledged", |_: &Self, system: &System| {
                let told_at = |log| system.nodes.iter().any(|node| node.told.is_some() && node.at == log);
                told_at(SOURCE) && told_at(TARGET)
            }),
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
fn going_over_loses_nothing_whenever_the_mover_is_killed() {
    let checker = moving(Mutant::None).checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    assert!(checker.unique_state_count() > 200, "too few states to mean anything");
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
