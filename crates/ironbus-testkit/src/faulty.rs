//! A bus that loses, repeats and reorders what it carries, by a seed: the same seed does the same again.
//!
//! Time is steps that the test takes, so that thousands of seeds run in seconds. What the bus brings goes
//! to a follower, at once or by its bounded queue; what doesn't fit there is lost too.

use std::collections::BTreeMap;
use std::ops::Range;

use fastrand::Rng;
use ironbus::tail::{Entrance, Signal};
use tokio::sync::mpsc;

/// What a bus does to what it carries. Shares are between 0 and 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// The share that is lost.
    pub lost: f64,
    /// The share that comes twice; of that again this share comes a third time, and so on.
    pub repeated: f64,
    /// The share that is late, and so comes among what was sent later.
    pub late: f64,
    /// By how many steps it is late.
    pub late_by: Range<u64>,
    /// The share of steps in which the bus stalls for a while; all that waits then comes at once.
    pub stalls: f64,
    /// The share of steps in which an outage begins: all that is sent while it lasts is lost.
    pub outages: f64,
    /// For how many steps stalls and outages last.
    pub lasting: Range<u64>,
}

impl Faults {
    /// Nothing is lost, repeated or late.
    pub const NONE: Self =
        Self { lost: 0.0, repeated: 0.0, late: 0.0, late_by: 0..1, stalls: 0.0, outages: 0.0, lasting: 0..1 };

    /// 30 % are lost, 20 % repeated, and half of the rest is late by up to a few steps.
    pub const USUAL: Self = Self { lost: 0.3, repeated: 0.2, late: 0.5, late_by: 1..6, ..Self::NONE };

    /// Faults of any kind, from none at all to hardly anything that comes through.
    #[must_use]
    pub fn any(rng: &mut Rng) -> Self {
        let mut share = |most: f64| if rng.bool() { rng.f64() * most } else { 0.0 };
        Self {
            lost: share(0.9),
            repeated: share(0.8),
            late: share(1.0),
            stalls: share(0.2),
            outages: share(0.1),
            // Without a bound: most come when the test has long ended.
            late_by: [1..3, 1..10, 5..50, 1..1000][rng.usize(..4)].clone(),
            lasting: 2..20,
        }
    }
}

/// How a signal came to be where it is in the queue of what the bus has still to bring: the step in
/// which it is due, and its turn within that step.
type Turn = (u64, u64);

/// What became of the signals that a bus was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// Taken by the follower or put into its queue, repeats included.
    pub brought: u64,
    /// Lost by the bus.
    pub lost: u64,
    /// Beyond the first, so many times.
    pub repeated: u64,
    /// Put off to a later step.
    pub late: u64,
    /// Lost because the follower's queue was full.
    pub overflowed: u64,
}

/// A bus with faults, to one follower.
#[derive(Debug)]
pub struct FaultyBus {
    rng: Rng,
    faults: Faults,
    entrance: Entrance,
    waiting: BTreeMap<Turn, Signal>,
    now: u64,
    sent: u64,
    stalled_until: u64,
    out_until: u64,
    fates: Fates,
}

impl FaultyBus {
    /// A bus to a follower: by its queue alone, or by its whole entrance.
    #[must_use]
    pub fn new(seed: u64, faults: Faults, entrance: impl Into<Entrance>) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            faults,
            entrance: entrance.into(),
            waiting: BTreeMap::new(),
            now: 0,
            sent: 0,
            stalled_until: 0,
            out_until: 0,
            fates: Fates::default(),
        }
    }

    /// Takes a signal to carry. It comes with a later step, if it comes.
    pub fn carry(&mut self, signal: &Signal) {
        if self.now < self.out_until || self.rng.f64() < self.faults.lost {
            self.fates.lost += 1;
            return;
        }
        self.put(signal.clone());
        while self.rng.f64() < self.faults.repeated {
            self.fates.repeated += 1;
            self.put(signal.clone());
        }
    }

    fn put(&mut self, signal: Signal) {
        self.sent += 1;
        let turn = if self.rng.f64() < self.faults.late {
            self.fates.late += 1;
            // Before, between or behind what else comes in that step.
            (self.now + 1 + self.rng.u64(self.faults.late_by.clone()), self.rng.u64(..self.sent))
        } else {
            (self.now + 1, self.sent)
        };
        let (step, mut within) = turn;
        while self.waiting.contains_key(&(step, within)) {
            within += 1;
        }
        self.waiting.insert((step, within), signal);
    }

    /// A step of time: brings what is due, and gives back what of it found room in the follower's queue,
    /// in that order.
    pub fn step(&mut self) -> Vec<Signal> {
        self.now += 1;
        if self.rng.f64() < self.faults.outages {
            self.out_until = self.now + self.rng.u64(self.faults.lasting.clone());
        }
        if self.rng.f64() < self.faults.stalls {
            self.stalled_until = self.now + self.rng.u64(self.faults.lasting.clone());
        }
        if self.now < self.stalled_until {
            return Vec::new();
        }
        let later = self.waiting.split_off(&(self.now + 1, 0));
        let due = std::mem::replace(&mut self.waiting, later);
        let mut brought = Vec::new();
        for signal in due.into_values() {
            match self.entrance.bring(signal.clone()) {
                Ok(()) => brought.push(signal),
                Err(_) => self.fates.overflowed += 1,
            }
        }
        self.fates.brought += brought.len() as u64;
        brought
    }

    /// What the bus does from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// What became of what it was given.
    #[must_use]
    pub fn fates(&self) -> Fates {
        self.fates
    }

    /// The follower's queue, to put something there past all faults.
    #[must_use]
    pub fn queue(&self) -> &mpsc::Sender<Signal> {
        self.entrance.queue()
    }
}

/// Runs `check` with each of so many seeds. When it panics the seed is printed; the environment variable
/// `IRONBUS_FAULT_SEED` then runs that seed alone. `IRONBUS_FAULT_TIMES` runs so many times as many.
///
/// # Panics
///
/// When `check` does, or a variable isn't a number.
pub fn for_seeds(usual: u64, check: impl Fn(u64)) {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
    };
    let (first, seeds) = match number("IRONBUS_FAULT_SEED") {
        Some(seed) => (seed, 1),
        None => (0, usual * number("IRONBUS_FAULT_TIMES").unwrap_or(1)),
    };
    for seed in first..first + seeds {
        let _said = SayOnPanic(seed);
        check(seed);
    }
}

/// Names the seed under which something panicked.
struct SayOnPanic(u64);

impl Drop for SayOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0} failed; IRONBUS_FAULT_SEED={0} replays it", self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{aggregate, numbered};
    use ironbus::event::{Epoch, Position};
    use ironbus::store::{Append, ExpectedVersion};

    fn signals(count: u64) -> Vec<Signal> {
        let mut log = crate::model::ModelLog::default();
        let events = (1..=count).map(numbered).collect();
        log.append(&Append::to(aggregate("A", "0"), ExpectedVersion::Any, events)).expect("appended");
        log.events().iter().map(|event| Signal::Event(Epoch(1), event.clone())).collect()
    }

    fn positions(brought: &[Signal]) -> Vec<Position> {
        let position = |signal: &Signal| match signal {
            Signal::Event(_, event) => event.position,
            Signal::Heartbeat(heartbeat) => heartbeat.head,
            Signal::Committed(_, position) => *position,
        };
        brought.iter().map(position).collect()
    }

    /// What a bus brings of `count` signals, five a step, and what became of them.
    fn carried(seed: u64, faults: Faults, count: u64, room: usize) -> (Vec<Position>, Fates) {
        let (queue, mut follower) = mpsc::channel(room);
        let mut bus = FaultyBus::new(seed, faults, queue);
        let mut brought = Vec::new();
        for five in signals(count).chunks(5) {
            five.iter().for_each(|signal| bus.carry(signal));
            brought.extend(bus.step());
        }
        (0..20).for_each(|_| brought.extend(bus.step()));
        let mut queued = Vec::new();
        while let Ok(signal) = follower.try_recv() {
            queued.push(signal);
        }
        assert_eq!(positions(&queued), positions(&brought), "what was brought is what is in the queue");
        (positions(&brought), bus.fates())
    }

    #[test]
    fn the_usual_faults_come_in_their_shares() {
        let (brought, fates) = carried(1, Faults::USUAL, 2000, 10_000);
        assert!((500..=700).contains(&fates.lost), "{fates:?}");
        assert!((250..=450).contains(&fates.repeated), "20 %, and 20 % of these again: {fates:?}");
        assert!(fates.late > 700, "{fates:?}");
        assert_eq!(fates.brought, 2000 - fates.lost + fates.repeated);
        assert!(brought.windows(2).filter(|pair| pair[0] > pair[1]).count() > 300, "reordered");
    }

    #[test]
    fn a_bus_without_faults_brings_everything_once_in_order() {
        let (brought, fates) = carried(1, Faults::NONE, 100, 1000);
        assert_eq!(brought, (1..=100).map(Position).collect::<Vec<_>>());
        assert_eq!(fates, Fates { brought: 100, ..Fates::default() });
    }

    #[test]
    fn the_same_seed_does_the_same_and_another_does_not() {
        let faults = || Faults { stalls: 0.1, outages: 0.1, lasting: 2..9, ..Faults::USUAL };
        assert_eq!(carried(7, faults(), 500, 1000), carried(7, faults(), 500, 1000));
        assert_ne!(carried(7, faults(), 500, 1000), carried(8, faults(), 500, 1000));
    }

    #[test]
    fn stalls_bring_all_at_once_outages_lose_all_and_a_full_queue_overflows() {
        let stalled = Faults { stalls: 0.3, lasting: 3..6, ..Faults::NONE };
        assert_eq!(carried(1, stalled.clone(), 200, 1000).1.brought, 200, "nothing is lost");
        assert!(carried(1, stalled, 200, 30).1.overflowed > 0);
        let out = Faults { outages: 0.3, lasting: 3..6, ..Faults::NONE };
        assert!(carried(1, out, 200, 1000).1.lost > 20);
    }
}
