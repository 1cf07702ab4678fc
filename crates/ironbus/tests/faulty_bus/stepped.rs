//! In virtual time, on one thread. Readers are polled only when they were woken, so that a lost wake-up is
//! found as well.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use fastrand::Rng;
use futures_util::Stream;
use ironbus::event::{Cursor, Epoch, Position, SessionId, StoredEvent};
use ironbus::key::EventFilter;
use ironbus::store::{Append, EventStore, ExpectedVersion, Lineage};
use ironbus::subscription::{Delivery, Start, Subscription};
use ironbus::tail::{Entrance, Follow, FollowOptions, Following, RingLimits, Signal, Tail};
use ironbus_testkit::check::{check_log, check_subscription};
use ironbus_testkit::far::{Answers, FarStore, Reached};
use ironbus_testkit::faulty::{Faults, FaultyBus, for_seeds};
use ironbus_testkit::{aggregate, numbered};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::{check_of_one_history, filter};

/// Remembers that it was woken.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Whether the next that a reader is told must be a reset.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ResetDue {
    Yes,
    No,
    /// Its cursor isn't compared with the log yet.
    Unknown,
}

/// One reader and all that it was given since it last began.
struct Reader {
    filter: EventFilter,
    subscription: Subscription,
    /// Everything after this cursor is due. Without a position: after where the node finds its log.
    after: (Epoch, Option<Position>),
    got: Vec<Arc<StoredEvent>>,
    reset_due: ResetDue,
    woken: Arc<Woken>,
    /// After an error of the log: not polled before.
    paused_until: Option<Instant>,
    watermarks: bool,
}

impl Reader {
    fn position(&self) -> Position {
        self.after.1.unwrap_or_default()
    }

    fn is_ready(&self) -> bool {
        let paused = self.paused_until.is_some_and(|until| until > Instant::now());
        self.woken.0.load(Ordering::SeqCst) && !paused
    }

    /// Polls once if it was woken; says whether anything came, if only an error.
    fn poll(&mut self, tail: &Tail, far: &FarStore) -> bool {
        if !self.is_ready() {
            return false;
        }
        self.woken.0.store(false, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&self.woken));
        let before = self.subscription.cursor();
        let polled = Pin::new(&mut self.subscription).poll_next(&mut Context::from_waker(&waker));
        let Poll::Ready(delivery) = polled else {
            assert!(self.subscription.cursor() >= before, "a cursor goes back only by a reset");
            return false;
        };
        self.woken.0.store(true, Ordering::SeqCst);
        let Ok(delivery) = delivery.expect("the tail stays open") else {
            self.paused_until = Some(Instant::now() + Duration::from_millis(20));
            return true;
        };
        assert!(tail.has_log(), "{delivery:?} before the log was found");
        assert_eq!(self.subscription.epoch(), tail.epoch());
        if let Delivery::Reset(reason) = &delivery {
            assert_ne!(self.reset_due, ResetDue::No, "{reason}, but it has seen nothing that was cut off");
            assert_eq!(check_of_one_history(&self.filter, self.position(), &self.got, far), Ok(()));
            self.got.clear();
            (self.reset_due, self.after) = (ResetDue::No, (tail.epoch(), Some(Position::START)));
            return true;
        }
        assert_ne!(self.reset_due, ResetDue::Yes, "{delivery:?} before the reset");
        assert!(self.subscription.cursor() >= before, "a cursor goes back only by a reset");
        self.reset_due = ResetDue::No;
        match delivery {
            Delivery::Event(event) => self.got.push(event),
            Delivery::CaughtUp(through) | Delivery::Watermark(through) => {
                let history = history(far, tail.epoch());
                let checked = check_subscription(&self.filter, self.position(), through, &self.got, &history);
                assert_eq!(checked, Ok(()), "told that all up to {through} has come");
            }
            Delivery::Reset(_) => unreachable!("dealt with above"),
        }
        true
    }

    fn check(&self, far: &FarStore) {
        let log = far.events();
        let head = far.head();
        let of = format!("{:?} after {:?}, got {}", self.filter, self.after, self.got.len());
        assert_ne!(self.reset_due, ResetDue::Yes, "the reset never came: {of}");
        let position = self.position();
        if position > Position::START {
            let cursor = Cursor { epoch: self.after.0, position };
            assert_eq!(far.lineage().check(cursor, head), Ok(()), "no reset: {of}");
        }
        assert_eq!(check_subscription(&self.filter, position, head, &self.got, &log), Ok(()), "{of}");
    }
}

/// The log as it was in an epoch, or is.
fn history(far: &FarStore, epoch: Epoch) -> Vec<Arc<StoredEvent>> {
    let index = usize::try_from(epoch.0 - 1).expect("epochs are few");
    far.former().into_iter().nth(index).unwrap_or_else(|| far.events())
}

/// How much of what was written in `epoch` a lineage has kept.
fn kept_of(lineage: &Lineage, epoch: Epoch) -> Position {
    let starts = lineage.starts();
    match starts.iter().position(|start| start.epoch == epoch) {
        Some(at) => starts.get(at + 1).map_or(Position(u64::MAX), |next| next.after),
        None => Position::START,
    }
}

/// A node without a log, and its readers.
pub(crate) struct Edge {
    pub(crate) far: FarStore,
    pub(crate) bus: FaultyBus,
    tail: Arc<Tail>,
    pub(crate) store: Reached,
    epoch: Epoch,
    readers: Vec<Reader>,
    pub(crate) known: watch::Receiver<Following>,
    following: tokio::task::JoinHandle<()>,
}

impl Edge {
    pub(crate) fn new(rng: &mut Rng, far: &FarStore) -> Self {
        let (queue, signals) = mpsc::channel([1, 3, 16, 64, 1024][rng.usize(..5)]);
        let limits = RingLimits { events: rng.usize(1..40), bytes: usize::MAX };
        let tail = Arc::new(Tail::new(Epoch(0), Position::START, limits));
        let store = far.seen_from(&tail);
        let (knows, known) = watch::channel(Following::default());
        let grace = Duration::from_millis(rng.u64(1..30));
        let options = FollowOptions {
            grace,
            lag: grace * rng.u32(2..20),
            room: RingLimits { events: [1, 2, 8, 64, 1024][rng.usize(..5)], ..limits },
            page: [1, 2, 7, 50, 1024][rng.usize(..5)],
            retry: Duration::from_millis(rng.u64(5..250)),
            crowd: [0, 1, 3, 1024][rng.usize(..4)],
        };
        let follow = Follow::new(Arc::clone(&tail), knows, options);
        let entrance = if rng.bool() { Entrance::new(Arc::clone(&follow), queue) } else { queue.into() };
        let following = tokio::spawn(follow.run(signals, Arc::new(store.clone())));
        let bus = FaultyBus::new(rng.u64(..), faults(rng), entrance);
        Self { far: far.clone(), bus, tail, store, epoch: Epoch(0), readers: Vec::new(), known, following }
    }

    /// The bus brings what is due, and the follower deals with it.
    async fn step(&mut self, time: Duration) {
        let brought = self.bus.step();
        tokio::time::sleep(time).await;
        brought.into_iter().for_each(|signal| self.took(signal));
        assert!(!self.following.is_finished(), "the follower goes on");
        assert_eq!(self.tail.epoch(), self.epoch);
    }

    /// The follower has dealt with a signal: what does that mean for the readers, none of which was
    /// polled since?
    fn took(&mut self, signal: Signal) {
        let Signal::Heartbeat(heartbeat) = signal else { return };
        let lineage = heartbeat.lineage().expect("it ascends");
        let found = self.epoch.0 == 0;
        if lineage.epoch() <= self.epoch {
            return;
        }
        let kept = if found { Position(u64::MAX) } else { kept_of(&lineage, self.epoch) };
        self.epoch = lineage.epoch();
        for reader in &mut self.readers {
            if found {
                // What was said without an epoch meant the one that is found.
                let position = reader.after.1.unwrap_or(heartbeat.head);
                let epoch = if reader.after.0.0 == 0 { self.epoch } else { reader.after.0 };
                reader.after = (epoch, Some(position));
            } else if reader.reset_due == ResetDue::No && reader.subscription.cursor() > kept {
                reader.reset_due = ResetDue::Yes;
            } else if reader.reset_due == ResetDue::No {
                // It may have begun where the log was found and not have looked since.
                reader.after.1 = reader.after.1.map(|after| after.min(kept));
            }
        }
    }

    fn subscribe(&mut self, rng: &mut Rng) {
        let filter = filter(rng);
        let (epoch, head) = (self.epoch, self.tail.head());
        let somewhere = Position(rng.u64(..=self.far.head().0));
        let (start, after, reset_due) = match rng.u8(..5) {
            0 => (Start::Beginning, Some(Position::START), ResetDue::No),
            1 => (Start::Live, self.tail.has_log().then_some(head), ResetDue::No),
            2 if somewhere <= head => (Start::After(somewhere), Some(somewhere), ResetDue::No),
            2 => (Start::After(somewhere), Some(somewhere), ResetDue::Unknown),
            3 => {
                let starts = self.far.lineage();
                let epoch = starts.starts()[rng.usize(..starts.starts().len())].epoch;
                let position = Position(rng.u64(..=history(&self.far, epoch).len() as u64));
                let reader = self.reader(
                    filter,
                    Start::Resume(Cursor { epoch, position }),
                    (epoch, Some(position)),
                    ResetDue::Unknown,
                    rng,
                );
                self.readers.push(reader);
                return;
            }
            _ => {
                let beyond = Cursor { epoch: Epoch(rng.u64(1..9)), position: Position(1_000_000) };
                (Start::Resume(beyond), Some(beyond.position), ResetDue::Unknown)
            }
        };
        let reader = self.reader(filter, start, (epoch, after), reset_due, rng);
        self.readers.push(reader);
    }

    fn reader(
        &self,
        filter: EventFilter,
        start: Start,
        after: (Epoch, Option<Position>),
        reset_due: ResetDue,
        rng: &mut Rng,
    ) -> Reader {
        let mut subscription = self.store.subscribe(filter.clone(), start);
        if rng.bool() {
            subscription = subscription.with_caught_up();
        }
        let watermarks = rng.bool();
        if watermarks {
            subscription = subscription.with_watermarks(Duration::from_millis(50));
        }
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        Reader {
            filter,
            subscription,
            after,
            got: Vec::new(),
            reset_due,
            woken,
            paused_until: None,
            watermarks,
        }
    }

    /// An append that was made on this node was acknowledged to it.
    fn appended_here(&self) {
        let signal = Signal::Committed(self.far.lineage().epoch(), self.far.head());
        // With the queue full it isn't told.
        let _ = self.bus.queue().try_send(signal);
    }

    /// Drops a reader and resumes from its cursor.
    fn reconnect(&mut self, which: usize, rng: &mut Rng) {
        let reader = &self.readers[which];
        // What wasn't said yet would be lost with the subscription that was to say it.
        if reader.reset_due != ResetDue::No || reader.after.1.is_none() || self.epoch.0 == 0 {
            return;
        }
        let position = reader.subscription.cursor();
        if position < reader.position() {
            return;
        }
        let start = Start::Resume(Cursor { epoch: self.epoch, position });
        let mut again = self.reader(reader.filter.clone(), start, reader.after, ResetDue::Unknown, rng);
        again.got = std::mem::take(&mut self.readers[which].got);
        self.readers[which] = again;
    }

    fn poll(&mut self, which: usize) -> bool {
        self.readers[which].poll(&self.tail, &self.far)
    }

    /// Polls the readers that are woken until all rest, whatever time that takes.
    async fn drain(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(3600);
        let mut quiet = 0;
        while quiet < 3 {
            assert!(Instant::now() < deadline, "the readers come to rest");
            // Longer than any read or pause takes.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let head = self.tail.head();
            quiet += 1;
            for which in 0..self.readers.len() {
                let reader = &self.readers[which];
                // Watermarks wake their reader ever again, but then it also knows where the end is.
                let rests =
                    if reader.watermarks { reader.subscription.cursor() == head } else { !reader.is_ready() };
                let mut came = false;
                while self.poll(which) {
                    came = true;
                }
                if came || !rests {
                    quiet = 0;
                }
            }
        }
    }
}

fn faults(rng: &mut Rng) -> Faults {
    if rng.bool() { Faults::USUAL } else { Faults::any(rng) }
}

fn answers(rng: &mut Rng) -> Answers {
    Answers {
        failing: if rng.bool() { 0.0 } else { rng.f64() * 0.8 },
        slow: Duration::ZERO..=Duration::from_millis([0, 0, 5, 50][rng.usize(..4)]),
        page: [usize::MAX, 1, 3, 20][rng.usize(..4)],
    }
}

/// A store node, what it has handed to the bus, and the nodes that follow it.
pub(crate) struct World {
    pub(crate) far: FarStore,
    pub(crate) carried: Option<Position>,
    pub(crate) edges: Vec<Edge>,
    pub(crate) next: u64,
}

impl World {
    pub(crate) fn commit(&mut self, rng: &mut Rng) {
        let of = [("A", "0"), ("A", "@1"), ("A", "2"), ("B", "0"), ("B", "1"), ("B", "2")];
        let one = rng.usize(..of.len());
        let (count, mixed) = match rng.u8(..8) {
            0 => (rng.usize(4..40), true),
            // More of one kind in one batch than a slot notes one by one.
            1 => (rng.usize(30..50), false),
            _ => (rng.usize(1..4), true),
        };
        let mut append = Append::default();
        for _ in 0..count {
            self.next += 1;
            let event = numbered(self.next);
            let scoped = rng.u8(..5) == 0;
            let event = if scoped { event.for_session(SessionId::new("s").expect("valid")) } else { event };
            let (kind, id) = of[if mixed { rng.usize(..of.len()) } else { one }];
            append = append.and(aggregate(kind, id), ExpectedVersion::Any, vec![event]);
        }
        self.far.commit(&append);
    }

    /// Hands what was committed to the bus, if it carries.
    pub(crate) fn publish(&mut self) {
        let Some(carried) = self.carried else { return };
        let epoch = self.far.lineage().epoch();
        for event in self.far.events().into_iter().filter(|event| event.position > carried) {
            self.carried = Some(event.position);
            let signal = Signal::Event(epoch, event);
            self.edges.iter_mut().for_each(|edge| edge.bus.carry(&signal));
        }
    }

    pub(crate) fn beat(&mut self) {
        let signal = Signal::Heartbeat(self.far.heartbeat(self.carried));
        self.edges.iter_mut().for_each(|edge| edge.bus.carry(&signal));
    }

    pub(crate) fn promote(&mut self, rng: &mut Rng) {
        let head = self.far.head();
        let kept = match rng.u8(..3) {
            0 => head,
            1 => Position(rng.u64(..=head.0)),
            _ => Position(head.0.saturating_sub(rng.u64(..5))),
        };
        self.far.promote(kept);
        // What the bus carries is what is live from now on.
        self.carried = self.carried.map(|_| self.far.head());
    }

    async fn step(&mut self, rng: &mut Rng, promotions: bool) {
        let which = rng.usize(..self.edges.len());
        match rng.u8(..40) {
            0..8 => self.commit(rng),
            8..14 => self.publish(),
            14..18 => self.beat(),
            18..23 => self.edges[which].subscribe(rng),
            23..35 if !self.edges[which].readers.is_empty() => {
                let reader = rng.usize(..self.edges[which].readers.len());
                for _ in 0..rng.usize(1..30) {
                    self.edges[which].poll(reader);
                }
                if rng.u8(..6) == 0 {
                    self.edges[which].reconnect(reader, rng);
                }
            }
            35 => {
                let to = faults(rng);
                self.edges[which].bus.set_faults(to);
            }
            36 => self.far.set_answers(answers(rng)),
            37 => self.carried = if rng.bool() { Some(self.far.head()) } else { None },
            38 if promotions => self.promote(rng),
            39 => self.edges[which].appended_here(),
            _ => {}
        }
        if rng.bool() {
            let time = Duration::from_millis(rng.u64(1..12));
            for edge in &mut self.edges {
                edge.step(time).await;
            }
        }
    }

    /// One heartbeat gets through to each node. Then every reader has what it must have.
    async fn converge(&mut self, rng: &mut Rng) {
        let answers = answers(rng);
        self.far.set_answers(Answers { failing: answers.failing / 2.0, ..answers });
        let heartbeat = self.far.heartbeat(self.carried);
        for edge in &mut self.edges {
            let signal = Signal::Heartbeat(heartbeat.clone());
            edge.bus.queue().send(signal.clone()).await.expect("the follower listens");
            tokio::time::sleep(Duration::from_millis(1)).await;
            edge.took(signal);
            let deadline = Instant::now() + Duration::from_secs(3600);
            while edge.tail.head() < heartbeat.head {
                assert!(Instant::now() < deadline, "the tail reaches the head: {:?}", edge.tail);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            edge.drain().await;
            edge.readers.iter().for_each(|reader| reader.check(&self.far));
            let said = edge.known.borrow().heartbeat.clone();
            assert_eq!(said.map(|(heartbeat, _)| heartbeat), Some(heartbeat.clone()));
        }
    }
}

/// Runs in virtual time: the clock jumps to what is next whenever all is idle.
fn in_virtual_time(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime can be built").block_on(work);
}

fn run(seed: u64, promotions: bool) {
    in_virtual_time(async move {
        let rng = &mut Rng::with_seed(seed);
        let far = FarStore::new(rng.u64(..), answers(rng));
        let carried = if rng.u8(..4) > 0 { Some(Position::START) } else { None };
        let mut world = World { far: far.clone(), carried, edges: Vec::new(), next: 0 };
        for _ in 0..rng.usize(..4) {
            world.commit(rng);
        }
        world.edges = (0..rng.usize(1..3)).map(|_| Edge::new(rng, &far)).collect();
        for _ in 0..rng.usize(20..120) {
            world.step(rng, promotions).await;
        }
        world.converge(rng).await;
        assert_eq!(check_log(&far.events()), Ok(()));
    });
}

#[test]
fn a_bus_that_loses_repeats_and_reorders_changes_nothing_that_a_subscription_sees() {
    for_seeds(1500, |seed| run(seed, false));
}

#[test]
fn across_epochs_readers_see_one_history_or_are_told_to_begin_anew() {
    for_seeds(1500, |seed| run(seed, true));
}
