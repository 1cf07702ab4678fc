//! What one reader is told: at which positions events wait for it.
//!
//! A slot holds positions, not events, in runs of neighbours: a reader of everything is told of a thousand events in one
//! run, and a reader of few among many goes straight to its own. Up to [`Slot::RUNS`] runs are kept; when more wait, the
//! slot only keeps from where on the reader must look at the ring itself, which is the cheaper way when much matches.
//!
//! Most of what a busy reader is told makes its last run longer. Where that run ends stands apart from the others, so that
//! it takes one exchange and no lock.
//!
//! Invariant: while `last` is a position nobody waits (there is no waker), and what matched up to it is noted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::event::Position;
use crate::key::{EventFilter, Hanging};

pub(crate) struct Slot {
    filter: EventFilter,
    /// Where the last of the runs ends; [`NONE`] where there is none. Leaves `NONE`, or for it, under the lock of `state`.
    last: AtomicU64,
    state: Mutex<State>,
    place: AtomicUsize,
}

/// No position: they count from 1.
const NONE: u64 = 0;

/// Neighbouring positions at which events wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: Position,
    pub(crate) last: Position,
}

/// Runs in the order of their positions; most readers have one.
pub(crate) type Runs = SmallVec<[Run; 1]>;

#[derive(Default)]
struct State {
    /// The end of the last one is that of the slot.
    runs: Runs,
    look_from: Option<Position>,
    waker: Option<Waker>,
    closed: bool,
    rewound: bool,
}

/// What a reader finds in its slot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Nothing; the reader's waker is kept and called when that changes.
    Nothing,
    /// Events at just these positions, and after them whatever matches from `look_from` on.
    Events { runs: Runs, look_from: Option<Position> },
    /// The log was found or rewound: what was noted before is void.
    Rewound,
    /// Nothing, and nothing will come: the tail was closed.
    Closed,
}

impl Hanging for Arc<Slot> {
    fn place(&self) -> &AtomicUsize {
        &self.place
    }
}

impl Slot {
    /// How many runs are kept. When more wait, the reader looks at the ring instead.
    const RUNS: usize = 32;

    pub(crate) fn new(filter: EventFilter) -> Arc<Self> {
        let last = AtomicU64::new(NONE);
        Arc::new(Self { filter, last, state: Mutex::default(), place: AtomicUsize::new(0) })
    }

    pub(crate) fn filter(&self) -> &EventFilter {
        &self.filter
    }

    /// Notes that the event at `position` waits; gives back whom to wake. Positions come ascending, and from one thread at
    /// a time.
    pub(super) fn note(&self, position: Position) -> Option<Waker> {
        let Position(at) = position;
        let last = self.last.load(Ordering::Relaxed);
        // A pattern may be found twice for one event.
        if last == at || (last != NONE && last + 1 == at && self.lengthen(last)) {
            return None;
        }
        self.begin_run(position)
    }

    /// Says whether there still was a run that ends there.
    fn lengthen(&self, last: u64) -> bool {
        self.last.compare_exchange(last, last + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn begin_run(&self, position: Position) -> Option<Waker> {
        let mut state = self.state.lock();
        if state.look_from.is_none() {
            if state.runs.len() < Self::RUNS {
                let ended = self.last.swap(position.0, Ordering::AcqRel);
                if let Some(run) = state.runs.last_mut() {
                    run.last = Position(ended);
                }
                state.runs.push(Run { first: position, last: position });
            } else {
                state.look_from = Some(position);
            }
        }
        state.waker.take()
    }

    /// Forgets what waits, and notes that the log was found or rewound; gives back whom to wake.
    pub(super) fn rewind(&self) -> Option<Waker> {
        let mut state = self.state.lock();
        self.last.store(NONE, Ordering::Release);
        state.runs.clear();
        state.look_from = None;
        state.rewound = true;
        state.waker.take()
    }

    pub(super) fn close(&self) -> Option<Waker> {
        let mut state = self.state.lock();
        state.closed = true;
        state.waker.take()
    }

    /// Takes what waits; where nothing does, keeps `waker` for the next event.
    pub(crate) fn take(&self, waker: &Waker) -> Waiting {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.rewound) {
            return Waiting::Rewound;
        }
        let ended = self.last.swap(NONE, Ordering::AcqRel);
        let Some(run) = state.runs.last_mut() else {
            if state.closed {
                return Waiting::Closed;
            }
            if !state.waker.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
                state.waker = Some(waker.clone());
            }
            return Waiting::Nothing;
        };
        run.last = Position(ended);
        Waiting::Events { runs: std::mem::take(&mut state.runs), look_from: state.look_from.take() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;
    use std::thread::{self, Thread};
    use std::time::Duration;

    use super::*;

    /// Wakes a thread, and says so.
    struct Unpark(Thread, AtomicBool);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.1.store(true, Ordering::Release);
            self.0.unpark();
        }
    }

    fn slot() -> Arc<Slot> {
        Slot::new(EventFilter::everything())
    }

    fn run(first: u64, last: u64) -> Run {
        Run { first: Position(first), last: Position(last) }
    }

    #[test]
    fn neighbours_are_one_run_and_a_position_that_is_noted_twice_is_there_once() {
        let slot = slot();
        for position in [3, 4, 4, 5, 8, 8, 9, 12] {
            assert!(slot.note(Position(position)).is_none());
        }
        let runs = Runs::from_slice(&[run(3, 5), run(8, 9), run(12, 12)]);
        assert_eq!(slot.take(Waker::noop()), Waiting::Events { runs, look_from: None });
        assert_eq!(slot.take(Waker::noop()), Waiting::Nothing);
        assert!(slot.note(Position(13)).is_some(), "the reader waits");
        let runs = Runs::from_slice(&[run(13, 13)]);
        assert_eq!(slot.take(Waker::noop()), Waiting::Events { runs, look_from: None });
    }

    #[test]
    fn with_too_many_runs_the_reader_looks_itself_from_where_they_end() {
        let slot = slot();
        let room = Slot::RUNS as u64;
        for number in 1..=room + 2 {
            slot.note(Position(2 * number));
            slot.note(Position(2 * number + 20 * u64::from(number > room)));
        }
        let Waiting::Events { runs, look_from } = slot.take(Waker::noop()) else { panic!("events wait") };
        assert_eq!(runs.len(), Slot::RUNS);
        assert_eq!(runs.last(), Some(&run(2 * room, 2 * room)));
        assert_eq!(look_from, Some(Position(2 * room + 2)));
    }

    /// One thread notes, another takes, both as fast as they can; what is taken is what was noted, once and in order, and
    /// the reader is woken whenever it waits for something.
    #[test]
    fn a_reader_is_told_of_everything_once_and_never_left_asleep() {
        const LAST: u64 = 500_000;
        // Every so often a position is left out: its neighbours are in two runs.
        let is_noted = |position: u64| !position.is_multiple_of(7);
        let slot = slot();
        // What a ring would hold: an event is there before it is noted.
        let published = Arc::new(AtomicU64::new(0));
        let (told, at) = (Arc::clone(&slot), Arc::clone(&published));
        let notes = thread::spawn(move || {
            for position in (1..=LAST).filter(|position| is_noted(*position)) {
                at.store(position, Ordering::Release);
                told.note(Position(position)).into_iter().for_each(Waker::wake);
            }
            told.close().into_iter().for_each(Waker::wake);
        });
        let woken = Arc::new(Unpark(thread::current(), AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut cursor = 0;
        loop {
            match slot.take(&waker) {
                Waiting::Events { runs, look_from } => {
                    for Run { first: Position(first), last: Position(last) } in runs {
                        // What was found by looking may be noted after that.
                        let first = first.max(cursor + 1);
                        let skipped = (cursor + 1..first).filter(|position| is_noted(*position)).count();
                        assert_eq!(skipped, 0, "from {cursor} to {first}");
                        assert!((first..=last).all(is_noted), "from {first} to {last}");
                        cursor = cursor.max(last);
                    }
                    if let Some(Position(from)) = look_from {
                        let skipped = (cursor + 1..from).filter(|position| is_noted(*position)).count();
                        assert_eq!(skipped, 0, "from {cursor} to {from}");
                        cursor = cursor.max(published.load(Ordering::Acquire));
                    }
                }
                Waiting::Nothing => {
                    while !woken.1.swap(false, Ordering::Acquire) {
                        thread::park_timeout(Duration::from_secs(10));
                        assert!(woken.1.load(Ordering::Acquire), "left asleep at {cursor}");
                    }
                }
                Waiting::Closed => break,
                Waiting::Rewound => unreachable!("nothing was rewound"),
            }
        }
        notes.join().expect("no panic");
        assert_eq!(cursor, (1..=LAST).rfind(|position| is_noted(*position)).expect("there is one"));
    }
}
