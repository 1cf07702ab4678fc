//! How far whoever carries events elsewhere (the publisher of the Zenoh side) was handed the log: kept in the
//! file, so that after a crash it goes on behind what may not have left this process.
//!
//! What was handed over may wait in the network's queues of this process, and dies with it. A receiver that
//! takes nothing holds these queues up for some seconds before its connection is closed. So what was handed
//! over counts as carried only after [`LINGER`]; until then a crash has it carried again.
//!
//! Invariant: the mark in the file is never beyond what was handed over [`LINGER`] before; after a clean close,
//! which empties the queues, never beyond what was handed over before that began.
//!
//! Bounded: one moment for each [`APART`] of [`LINGER`], and the last one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::event::Position;

/// How long what was handed over may still be in this process.
pub(crate) const LINGER: Duration = Duration::from_secs(6);

/// How far apart the moments are that are remembered.
const APART: Duration = Duration::from_millis(250);

/// What was handed over, told by who carries and asked by the writer of the log.
#[derive(Debug, Default)]
pub(crate) struct Carried(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// `None` while nobody carries.
    handed: Option<Handed>,
    /// At a clean close: what is handed over from now on doesn't count.
    closing: bool,
}

#[derive(Debug)]
struct Handed {
    settled: Position,
    /// By which moment which position was handed over.
    moments: VecDeque<(Instant, Position)>,
    /// As a moment, but newer than all of them, and moved on by what comes within [`APART`] of the last one.
    last: (Instant, Position),
}

impl Handed {
    fn settle(&mut self, now: Instant) -> Position {
        let left = |at: Instant| now.saturating_duration_since(at) >= LINGER;
        while let Some((_, position)) = self.moments.front().filter(|(at, _)| left(*at)) {
            self.settled = *position;
            self.moments.pop_front();
        }
        if left(self.last.0) {
            self.settled = self.last.1;
        }
        self.settled
    }
}

impl Carried {
    /// Somebody begins to carry what comes after a position.
    pub(crate) fn begin(&self, after: Position, now: Instant) {
        let handed = Handed { settled: after, moments: VecDeque::new(), last: (now, after) };
        self.0.lock().handed = Some(handed);
    }

    /// Everything up to a position was handed over.
    pub(crate) fn hand(&self, position: Position, now: Instant) {
        let state = &mut *self.0.lock();
        let Some(handed) = state.handed.as_mut().filter(|_| !state.closing) else { return };
        handed.settle(now);
        handed.last = (now, position);
        if handed.moments.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= APART) {
            handed.moments.push_back((now, position));
        }
    }

    /// Nobody carries any more.
    pub(crate) fn end(&self) {
        self.0.lock().handed = None;
    }

    /// The network is about to be closed, and empties its queues: nothing that comes later is carried.
    pub(crate) fn close_begins(&self) {
        self.0.lock().closing = true;
    }

    /// The network is closed, and its queues were emptied: what was handed over before that is carried.
    pub(crate) fn close_done(&self) {
        if let Some(handed) = &mut self.0.lock().handed {
            handed.settled = handed.last.1;
            handed.moments.clear();
        }
    }

    /// Up to which position everything has left this process; `None` while nobody carries.
    pub(super) fn settled(&self, now: Instant) -> Option<Position> {
        self.0.lock().handed.as_mut().map(|handed| handed.settle(now))
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::event::{Aggregate, Json, NewEvent};
    use crate::store::{
        Append, Carrying, EventStore, ExpectedVersion, Journal, Log as _, NewStep, Phase, SqliteEventStore,
        SqliteOptions,
    };

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_was_handed_over_counts_only_once_it_has_had_the_time_to_leave() {
        let (carried, begin) = (Carried::default(), Instant::now());
        let settled = |after: Duration| carried.settled(begin + after).map(|position| position.0);
        assert_eq!(settled(SECOND), None);
        carried.hand(Position(9), begin);
        assert_eq!(settled(2 * LINGER), None, "nobody had begun");
        carried.begin(Position(10), begin);
        assert_eq!(settled(SECOND), Some(10));
        // A hundred a second, for twenty seconds.
        for n in 0..2000_u32 {
            let now = n * SECOND / 100;
            carried.hand(Position(11 + u64::from(n)), begin + now);
            let settled = settled(now).expect("somebody carries");
            let left = now.saturating_sub(LINGER);
            let most = 11 + left.as_millis() as u64 / 10;
            assert!(settled <= most && settled + 30 >= most.min(10 + u64::from(n)), "{settled} at {now:?}");
        }
        assert_eq!(settled(20 * SECOND + LINGER), Some(2010), "the last one, when no more come");
        assert!(carried.0.lock().handed.as_ref().is_some_and(|handed| handed.moments.len() < 30), "bounded");
        carried.hand(Position(2011), begin + 30 * SECOND);
        carried.end();
        assert_eq!(settled(60 * SECOND), None);
    }

    #[test]
    fn at_a_clean_close_what_was_handed_over_before_it_counts_and_nothing_after_it() {
        let (carried, begin) = (Carried::default(), Instant::now());
        carried.begin(Position(10), begin);
        carried.hand(Position(12), begin + SECOND);
        carried.close_begins();
        carried.hand(Position(13), begin + SECOND);
        assert_eq!(carried.settled(begin + SECOND), Some(Position(10)), "the queues aren't emptied yet");
        carried.close_done();
        assert_eq!(carried.settled(begin + SECOND), Some(Position(12)));
    }

    /// A log of which each commit's mark can be looked at.
    struct Log(tempfile::TempDir, SqliteEventStore);

    impl Log {
        async fn open(place: tempfile::TempDir) -> Self {
            let path = place.path().join("ironbus.db");
            let store = SqliteEventStore::open(SqliteOptions::new(path)).await.expect("opens");
            Self(place, store)
        }

        async fn append(&self) -> Position {
            let to = Aggregate::new("Counter", "1").expect("valid");
            let event = NewEvent::new("Counted", Json::empty_object());
            self.1.append(Append::to(to, ExpectedVersion::Any, vec![event])).await.expect("appended").head
        }

        async fn step(&self, from: Phase, to: Phase) {
            let (by, reason, figures) = ("ann".into(), "a test".into(), Json::empty_object());
            self.1.record(NewStep { from, to, by, reason, figures }).await.expect("recorded");
        }

        fn carrying(&self) -> Carrying {
            self.1.carrying().expect("it is kept")
        }

        fn before(&self) -> Option<Position> {
            self.carrying().before
        }

        /// What the next start would know if the process were killed now.
        async fn after_a_kill(&self) -> Option<u64> {
            let left = tempfile::tempdir().expect("temporary files can be made");
            for file in ["ironbus.db", "ironbus.db-wal"] {
                std::fs::copy(self.0.path().join(file), left.path().join(file)).expect("copied");
            }
            let next = Self::open(left).await;
            let before = next.before();
            next.1.close().await;
            before.map(|position| position.0)
        }

        async fn reopened(self) -> Self {
            self.1.close().await;
            let Self(place, store) = self;
            drop(store);
            Self::open(place).await
        }
    }

    #[tokio::test]
    async fn the_file_keeps_what_has_left_and_follows_the_head_where_nothing_is_to_leave() {
        let long_ago = Instant::now().checked_sub(2 * LINGER).expect("this machine runs for longer");
        let log = Log::open(tempfile::tempdir().expect("temporary files can be made")).await;
        for _ in 0..3 {
            log.append().await;
        }
        assert_eq!(log.after_a_kill().await, None, "nothing leaves this process");
        // What was appended before is not news for those who listen from now on.
        log.step(Phase::Broadcast, Phase::Dual).await;
        assert_eq!(log.after_a_kill().await, Some(3));
        log.append().await;
        assert_eq!(log.after_a_kill().await, Some(3), "nobody has carried it yet");
        let carried = log.carrying().carried;
        carried.begin(Position(3), long_ago);
        carried.hand(Position(4), long_ago);
        log.append().await;
        assert_eq!(log.after_a_kill().await, Some(4), "a commit keeps it");
        carried.hand(Position(5), Instant::now());
        log.append().await;
        assert_eq!(log.after_a_kill().await, Some(4), "it may still be here");
        carried.begin(Position(5), long_ago);
        (log.carrying().keep)();
        // The writer takes one thing after the other.
        log.step(Phase::Dual, Phase::Zenoh).await;
        assert_eq!(log.after_a_kill().await, Some(5));
        carried.hand(Position(6), Instant::now());
        carried.close_begins();
        carried.close_done();
        let log = log.reopened().await;
        assert_eq!(log.before(), Some(Position(6)), "a clean close empties the queues");
        log.append().await;
        log.step(Phase::Zenoh, Phase::Broadcast).await;
        log.append().await;
        log.step(Phase::Broadcast, Phase::Dual).await;
        assert_eq!(log.after_a_kill().await, Some(8), "what was committed meanwhile is no news either");
    }
}
