//! What one reader is told: at which positions events wait for it.
//!
//! A slot holds positions, not events, in runs of neighbours: a reader of everything is told of a thousand events in one
//! run, and a reader of few among many goes straight to its own. Up to [`Slot::RUNS`] runs are kept; when more wait, the
//! slot only keeps from where on the reader must look at the ring itself, which is the cheaper way when much matches.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Waker;

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::event::Position;
use crate::key::{EventFilter, Hanging};

pub(crate) struct Slot {
    filter: EventFilter,
    state: Mutex<State>,
    place: AtomicUsize,
}

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
        Arc::new(Self { filter, state: Mutex::default(), place: AtomicUsize::new(0) })
    }

    pub(crate) fn filter(&self) -> &EventFilter {
        &self.filter
    }

    /// Notes that the event at `position` waits; gives back whom to wake. Positions come ascending.
    pub(super) fn note(&self, position: Position) -> Option<Waker> {
        let mut state = self.state.lock();
        if state.look_from.is_none() {
            let kept = state.runs.len();
            match state.runs.last_mut() {
                // A pattern may be found twice for one event.
                Some(run) if run.last == position => {}
                Some(run) if run.last.next() == position => run.last = position,
                _ if kept < Self::RUNS => state.runs.push(Run { first: position, last: position }),
                _ => state.look_from = Some(position),
            }
        }
        state.waker.take()
    }

    /// Forgets what waits, and notes that the log was found or rewound; gives back whom to wake.
    pub(super) fn rewind(&self) -> Option<Waker> {
        let mut state = self.state.lock();
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
        if state.runs.is_empty() && state.look_from.is_none() {
            if state.closed {
                return Waiting::Closed;
            }
            if !state.waker.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
                state.waker = Some(waker.clone());
            }
            return Waiting::Nothing;
        }
        Waiting::Events { runs: std::mem::take(&mut state.runs), look_from: state.look_from.take() }
    }
}
