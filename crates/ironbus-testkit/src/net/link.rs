//! One direction between two hosts: what is done to its packets, and what was done to them.
//!
//! What becomes of a packet is decided here and carried out elsewhere. Every packet takes the same number of
//! random draws whatever the setting, so the n-th packet of a link meets the same luck in every run with that
//! seed.

use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;

/// What a link does to the packets of one direction. [`Link::default`] does nothing to them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Whether anything passes. What is under way when this turns false is lost.
    pub up: bool,
    /// The share of packets that is lost, from 0 to 1.
    pub loss: f64,
    /// The share of packets that arrives twice, from 0 to 1.
    pub duplicate: f64,
    /// The share of packets that is held back, so that later ones overtake it, from 0 to 1.
    pub reorder: f64,
    /// How long a packet is held back at most; each for a random part of it.
    pub hold: Duration,
    /// How long every packet takes. With less than before, new packets overtake those under way.
    pub delay: Duration,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            up: true,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            hold: Duration::from_millis(5),
            delay: Duration::ZERO,
        }
    }
}

/// What became of the packets of one direction, since the lab began.
///
/// `offered + duplicated = delivered + dropped() + waiting` at every moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that their host sent into the link.
    pub offered: u64,
    /// Packets that reached the other host, copies included.
    pub delivered: u64,
    /// The bytes of those, IP headers included.
    pub bytes: u64,
    /// Packets dropped because the link was down.
    pub cut: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Packets dropped because as many as the link holds were waiting already.
    pub overflowed: u64,
    /// Packets that the other host didn't take: its device is down.
    pub refused: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Packets held back so that later ones could overtake them.
    pub reordered: u64,
    /// Packets under way now, delayed or held back.
    pub waiting: u64,
}

impl Counters {
    /// All packets that didn't arrive, whatever the reason.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.cut + self.lost + self.overflowed + self.refused
    }
}

/// A link as the forwarder sees it. Its lock is held while a packet is handed over: once a link was cut,
/// nothing passes it any more.
pub(super) struct Wire {
    state: Mutex<State>,
    /// How many packets may be under way at a time.
    queue: u64,
}

struct State {
    link: Link,
    rng: Rng,
    counters: Counters,
}

/// What becomes of a packet and of its copy: after how long each arrives, if there is such a one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fate {
    copy: Option<Duration>,
    packet: Option<Duration>,
}

impl Wire {
    pub(super) fn new(seed: u64, queue: usize) -> Self {
        let state = State { link: Link::default(), rng: Rng::with_seed(seed), counters: Counters::default() };
        Self { state: Mutex::new(state), queue: queue as u64 }
    }

    pub(super) fn link(&self) -> Link {
        self.state.lock().link
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Link)) {
        change(&mut self.state.lock().link);
    }

    pub(super) fn counters(&self) -> Counters {
        self.state.lock().counters
    }

    /// Takes a packet of so many bytes that its host sent. What arrives at once is handed over, which says
    /// whether the other host took it. What has to wait, the packet's copy or the packet, is told with how long.
    pub(super) fn admit(&self, bytes: usize, hand_over: impl Fn() -> bool) -> [Option<Duration>; 2] {
        let state = &mut *self.state.lock();
        let fate = state.decide();
        let mut waits = [None; 2];
        for (delay, waits) in [fate.copy, fate.packet].into_iter().zip(&mut waits) {
            match delay {
                None => {}
                Some(Duration::ZERO) => state.counters.handed_over(bytes, hand_over()),
                Some(_) if state.counters.waiting == self.queue => state.counters.overflowed += 1,
                Some(delay) => {
                    state.counters.waiting += 1;
                    *waits = Some(delay);
                }
            }
        }
        waits
    }

    /// Hands over a packet that has waited, if the link is still up.
    pub(super) fn release(&self, bytes: usize, hand_over: impl Fn() -> bool) {
        let state = &mut *self.state.lock();
        state.counters.waiting -= 1;
        if state.link.up {
            state.counters.handed_over(bytes, hand_over());
        } else {
            state.counters.cut += 1;
        }
    }
}

impl State {
    fn decide(&mut self) -> Fate {
        let Self { link, rng, counters } = self;
        let [loss, duplicate, reorder, hold] = std::array::from_fn(|_| rng.f64());
        counters.offered += 1;
        if !link.up {
            counters.cut += 1;
            return Fate::default();
        }
        if loss < link.loss {
            counters.lost += 1;
            return Fate::default();
        }
        let mut fate = Fate { copy: None, packet: Some(link.delay) };
        if reorder < link.reorder {
            counters.reordered += 1;
            fate.packet = Some(link.delay + link.hold.mul_f64(hold));
        }
        if duplicate < link.duplicate {
            counters.duplicated += 1;
            fate.copy = Some(link.delay);
        }
        fate
    }
}

impl Counters {
    fn handed_over(&mut self, bytes: usize, taken: bool) {
        if taken {
            self.delivered += 1;
            self.bytes += bytes as u64;
        } else {
            self.refused += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKEN: fn() -> bool = || true;

    fn wire(seed: u64, queue: usize, link: Link) -> Wire {
        let wire = Wire::new(seed, queue);
        wire.change(|current| *current = link);
        wire
    }

    #[test]
    fn a_seed_gives_the_same_fates_again_and_another_seed_gives_others() {
        let rough = Link { loss: 0.1, duplicate: 0.1, reorder: 0.2, ..Link::default() };
        let fates = |seed| {
            let wire = wire(seed, 0, rough);
            (0..1_000).map(|_| wire.state.lock().decide()).collect::<Vec<_>>()
        };
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
    }

    #[test]
    fn a_change_of_one_setting_leaves_the_luck_of_the_others() {
        let lost = |duplicate| {
            let wire = wire(7, 0, Link { loss: 0.1, duplicate, ..Link::default() });
            (0..1_000).map(|_| wire.state.lock().decide().packet.is_none()).collect::<Vec<_>>()
        };
        assert_eq!(lost(0.0), lost(0.5));
    }

    #[test]
    fn shares_are_met_and_every_packet_is_accounted_for() {
        let rough = Link { loss: 0.1, duplicate: 0.2, reorder: 0.3, ..Link::default() };
        let wire = wire(1, usize::MAX, rough);
        for _ in 0..100_000 {
            for delay in wire.admit(10, TAKEN).into_iter().flatten() {
                assert!(delay < rough.hold);
                wire.release(10, TAKEN);
            }
        }
        let counters = wire.counters();
        let near = |count: u64, share: f64| (count as f64 / 100_000.0 - share).abs() < 0.01;
        assert!(near(counters.lost, 0.1), "{counters:?}");
        assert!(near(counters.duplicated, 0.2 * 0.9), "{counters:?}");
        assert!(near(counters.reordered, 0.3 * 0.9), "{counters:?}");
        assert_eq!((counters.offered, counters.waiting), (100_000, 0));
        assert_eq!(counters.offered + counters.duplicated, counters.delivered + counters.dropped());
        assert_eq!(counters.bytes, 10 * counters.delivered);
    }

    #[test]
    fn what_waits_is_bounded_and_what_overflows_is_counted() {
        let wire = wire(1, 3, Link { delay: Duration::from_secs(1), ..Link::default() });
        let waits: Vec<_> = (0..5).map(|_| wire.admit(1, TAKEN)[1].is_some()).collect();
        assert_eq!(waits, [true, true, true, false, false]);
        wire.release(1, TAKEN);
        assert!(wire.admit(1, TAKEN)[1].is_some(), "a place is free again");
        let counters = wire.counters();
        assert_eq!((counters.waiting, counters.overflowed), (3, 2));
    }

    #[test]
    fn a_cut_takes_what_comes_and_what_was_under_way() {
        let wire = wire(1, 10, Link { delay: Duration::from_secs(1), ..Link::default() });
        assert!(wire.admit(1, TAKEN)[1].is_some());
        wire.change(|link| link.up = false);
        let never = || -> bool { panic!("nothing passes a link that is down") };
        assert_eq!(wire.admit(1, never), [None, None]);
        wire.release(1, never);
        assert_eq!((wire.counters().cut, wire.counters().waiting), (2, 0));
    }

    #[test]
    fn what_the_other_host_does_not_take_is_counted() {
        let wire = Wire::new(1, 10);
        assert_eq!(wire.admit(1, || false), [None, None]);
        assert_eq!((wire.counters().refused, wire.counters().delivered), (1, 0));
    }
}
