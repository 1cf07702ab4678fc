//! How soon, and how often: what a node without a log does when its bus or its log leave it waiting. In
//! virtual time, so that "within" and "no sooner" are exact.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ironbus::event::{Epoch, Position, StoredEvent};
use ironbus::key::EventFilter;
use ironbus::store::{Append, EventStore, ExpectedVersion, ResetReason};
use ironbus::subscription::{Delivery, Start, Subscription};
use ironbus::tail::{
    Entrance, Follow, FollowOptions, Following, Heartbeat, Merged, NoRoom, RingLimits, Signal, Tail,
};
use ironbus_testkit::far::{Answers, FarStore, Reached};
use ironbus_testkit::{aggregate, numbered};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, advance, sleep};

const GRACE: Duration = Duration::from_millis(20);
const LAG: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_millis(250);
/// The clock of the timers has no finer parts.
const TICK: Duration = Duration::from_millis(1);

/// Room for so many events that come before their turn.
fn options(room: usize) -> FollowOptions {
    let room = RingLimits { events: room, ..RingLimits::default() };
    FollowOptions { grace: GRACE, lag: LAG, room, page: 1024, retry: RETRY, ..FollowOptions::default() }
}

/// A node that follows a far log, and what it is told of it.
struct Node {
    far: FarStore,
    tail: Arc<Tail>,
    store: Reached,
    signals: mpsc::Sender<Signal>,
    entrance: Entrance,
    known: watch::Receiver<Following>,
}

impl Node {
    /// It hasn't found its log yet, and has room for so many early events.
    fn new(room: usize) -> Self {
        Self::with(options(room), 1024)
    }

    fn with(options: FollowOptions, queue: usize) -> Self {
        let far = FarStore::new(1, Answers::PROMPT);
        let tail = Arc::new(Tail::new(Epoch(0), Position::START, RingLimits::default()));
        let store = far.seen_from(&tail);
        let (signals, heard) = mpsc::channel(queue);
        let (knows, known) = watch::channel(Following::default());
        let follow = Follow::new(Arc::clone(&tail), knows, options);
        let entrance = Entrance::new(Arc::clone(&follow), signals.clone());
        tokio::spawn(follow.run(heard, Arc::new(store.clone())));
        Self { far, tail, store, signals, entrance, known }
    }

    /// It has found its log, which is empty so far.
    async fn found(room: usize) -> Self {
        let node = Self::new(room);
        node.beat(0, Some(0)).await;
        idle().await;
        assert!(node.tail.has_log());
        node
    }

    fn commit(&self, count: u64) {
        let first = self.far.head().0 + 1;
        let events = (first..first + count).map(numbered).collect();
        self.far.commit(&Append::to(aggregate("A", "0"), ExpectedVersion::Any, events));
    }

    async fn tell(&self, signal: Signal) {
        self.signals.send(signal).await.expect("the follower listens");
    }

    /// The bus brings the event at a position.
    async fn bring(&self, position: u64) {
        self.tell(self.event(position)).await;
    }

    fn event(&self, position: u64) -> Signal {
        let events = self.far.events();
        let event = events.iter().find(|event| event.position == Position(position));
        Signal::Event(Epoch(1), Arc::clone(event.expect("it was committed")))
    }

    /// A heartbeat with this head, whatever the log's is.
    async fn beat(&self, head: u64, carried: Option<u64>) {
        let heartbeat = self.far.heartbeat(carried.map(Position));
        self.tell(Signal::Heartbeat(Heartbeat { head: Position(head), ..heartbeat })).await;
    }

    /// How long it takes from now until the tail has come to `head`.
    async fn until(&self, head: u64) -> Duration {
        let asked = Instant::now();
        let mut events = self.store.subscribe(EventFilter::everything(), Start::After(self.tail.head()));
        while self.tail.head() < Position(head) {
            let next = tokio::time::timeout(Duration::from_secs(60), events.next_event()).await;
            next.unwrap_or_else(|_| panic!("position {head} never comes: {:?}", self.tail));
        }
        asked.elapsed()
    }

    fn merged(&self) -> Merged {
        self.known.borrow().merged
    }
}

/// Everything that can be done now is done.
async fn idle() {
    sleep(Duration::from_nanos(1)).await;
}

fn assert_after(took: Duration, least: Duration) {
    assert!(least <= took + TICK && took <= least + 2 * TICK, "{took:?}, and not {least:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_event_that_the_bus_lost_comes_a_grace_after_the_heartbeat_says_so() {
    let node = Node::found(8).await;
    node.commit(1);
    let read = 5 * TICK;
    node.far.set_answers(Answers { slow: read..=read, ..Answers::PROMPT });
    node.beat(1, Some(1)).await;
    assert_after(node.until(1).await, GRACE + 2 * read);
    assert_eq!(node.merged(), Merged { by_log: 1, ..Merged::default() });
}

#[tokio::test(start_paused = true)]
async fn an_event_before_others_that_the_bus_lost_comes_a_grace_after_these() {
    let node = Node::found(8).await;
    node.commit(3);
    node.bring(1).await;
    node.bring(3).await;
    assert_after(node.until(3).await, GRACE);
    assert_eq!(node.merged(), Merged { by_bus: 2, by_log: 1, ..Merged::default() });
    assert_eq!(node.far.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_late_but_within_grace_is_not_read() {
    let node = Node::found(8).await;
    node.commit(2);
    node.bring(2).await;
    sleep(GRACE - 2 * TICK).await;
    node.bring(1).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!((node.tail.head(), node.far.asked().len()), (Position(2), 0));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_node_has_not_sent_yet_is_read_after_the_lag() {
    let node = Node::found(8).await;
    node.commit(5);
    node.beat(5, Some(0)).await;
    assert_after(node.until(5).await, LAG);
}

#[tokio::test(start_paused = true)]
async fn where_no_bus_carries_the_heartbeat_has_it_read_at_once() {
    let node = Node::found(8).await;
    node.commit(5);
    node.beat(5, None).await;
    assert_after(node.until(5).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_was_appended_here_is_read_at_once_where_no_bus_carries_else_after_the_grace() {
    for (carried, wait) in [(None, Duration::ZERO), (Some(0), GRACE)] {
        let node = Node::new(8);
        node.beat(0, carried).await;
        node.commit(2);
        node.tell(Signal::Committed(Epoch(1), Position(2))).await;
        assert_after(node.until(2).await, wait);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_appended_to_no_log_that_is_known_is_not_asked_for() {
    let node = Node::new(8);
    node.commit(2);
    node.tell(Signal::Committed(Epoch(1), Position(2))).await;
    node.beat(0, Some(0)).await;
    node.tell(Signal::Committed(Epoch(2), Position(2))).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!((node.tail.head(), node.far.asked().len()), (Position(0), 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_meanwhile_is_not_waited_for_as_long_as_what_was_not() {
    let node = Node::found(8).await;
    node.commit(5);
    node.beat(5, Some(0)).await;
    sleep(Duration::from_millis(100)).await;
    node.beat(5, Some(3)).await;
    assert_after(node.until(3).await, GRACE);
}

#[tokio::test(start_paused = true)]
async fn more_than_a_page_that_is_missing_is_read_without_pauses() {
    let node = Node::with(FollowOptions { page: 10, ..options(8) }, 1024);
    node.beat(0, Some(0)).await;
    node.commit(95);
    node.beat(95, Some(95)).await;
    assert_after(node.until(95).await, GRACE);
    assert_eq!(node.far.asked().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_log_without_what_was_told_of_it_is_asked_only_so_often() {
    let node = Node::found(8).await;
    node.commit(10);
    node.beat(100, Some(100)).await;
    assert_after(node.until(10).await, GRACE);
    let before = node.far.asked().len();
    sleep(Duration::from_secs(60)).await;
    let asked = node.far.asked().len() - before;
    assert!((230..=242).contains(&asked), "{asked} times in a minute, at {RETRY:?} each");
    node.commit(90);
    assert!(node.until(100).await <= RETRY + 2 * TICK);
}

#[tokio::test(start_paused = true)]
async fn such_a_log_is_not_asked_more_often_because_the_bus_goes_on() {
    let node = Node::found(8).await;
    let ahead = Node::new(8);
    ahead.commit(1000);
    node.beat(2000, Some(2000)).await;
    for position in 1..=1000 {
        node.tell(ahead.event(position)).await;
        sleep(TICK).await;
    }
    assert_eq!(node.tail.head(), Position(1000));
    assert!((2..=6).contains(&node.far.asked().len()), "{:?} in a second", node.far.asked().len());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_fails_is_asked_again_with_pauses_and_said_to_fail_until_it_answers() {
    let node = Node::found(8).await;
    node.far.set_answers(Answers { failing: 1.0, ..Answers::PROMPT });
    node.commit(1);
    node.beat(1, None).await;
    sleep(Duration::from_secs(10)).await;
    let asked = node.far.asked().len();
    assert!((38..=42).contains(&asked), "{asked} times in ten seconds, at {RETRY:?} each");
    let said = node.known.borrow().unreadable.clone().expect("it can't be read");
    assert!(said.contains("the test says so"), "{said}");
    node.far.set_answers(Answers::PROMPT);
    assert!(node.until(1).await <= RETRY + 2 * TICK);
    assert_eq!(node.known.borrow().unreadable, None);
}

/// A read that the bus overtook says nothing against the log.
#[tokio::test(start_paused = true)]
async fn a_page_that_the_bus_was_faster_than_makes_no_pause() {
    let node = Node::found(8).await;
    node.commit(2);
    node.far.set_answers(Answers { slow: 50 * TICK..=50 * TICK, ..Answers::PROMPT });
    node.bring(2).await;
    while node.far.asked().is_empty() {
        sleep(TICK).await;
    }
    node.bring(1).await;
    assert!(node.until(2).await <= TICK, "the bus is not held up by the log");
    // The log has looked, and its answer is on its way: with 1 and 2.
    sleep(60 * TICK).await;
    node.far.set_answers(Answers::PROMPT);
    node.commit(2);
    node.bring(4).await;
    assert_after(node.until(4).await, 40 * TICK);
}

/// They are known to exist, so nothing waits for the next heartbeat to say so.
#[tokio::test(start_paused = true)]
async fn events_for_which_there_was_no_room_are_read_a_grace_after_their_turn_has_come() {
    let node = Node::found(1).await;
    node.commit(4);
    for position in [2, 3, 4, 1] {
        node.bring(position).await;
    }
    idle().await;
    assert_eq!(node.tail.head(), Position(2));
    assert_after(node.until(4).await, GRACE);
    assert_eq!(node.merged(), Merged { by_bus: 2, by_log: 2, repeated: 0, no_room: 2 });
}

#[tokio::test(start_paused = true)]
async fn what_is_only_repeated_is_counted_too() {
    let node = Node::found(8).await;
    node.commit(1);
    for _ in 0..3 {
        node.bring(1).await;
        idle().await;
    }
    assert_eq!(node.merged(), Merged { by_bus: 1, repeated: 2, ..Merged::default() });
}

#[tokio::test(start_paused = true)]
async fn what_comes_together_is_told_together_past_the_queue() {
    let node = Node::found(8).await;
    node.commit(4);
    let mut events = node.store.subscribe(EventFilter::everything(), Start::Live);
    for position in [1, 3, 2] {
        node.entrance.bring(node.event(position)).expect("it is taken");
    }
    assert_eq!(node.signals.capacity(), node.signals.max_capacity(), "nothing was queued");
    assert_eq!(node.tail.head(), Position(0), "they are told together");
    idle().await;
    assert_eq!(node.tail.head(), Position(3));
    for position in 1..=3 {
        assert_eq!(event(&mut events).await.position, Position(position));
    }
    // Others wait already, so it goes behind them.
    node.tell(node.event(1)).await;
    node.entrance.bring(node.event(4)).expect("there is room");
    assert_eq!(node.signals.capacity(), node.signals.max_capacity() - 2);
    idle().await;
    assert_eq!(node.tail.head(), Position(4));
    // Nor is more held back than so much.
    node.commit(64);
    for position in 5..=68 {
        node.entrance.bring(node.event(position)).expect("it is taken");
    }
    assert_eq!(node.tail.head(), Position(68));
}

#[tokio::test(start_paused = true)]
async fn a_hole_that_shows_past_the_queue_is_read_after_a_grace() {
    let node = Node::found(8).await;
    node.commit(2);
    node.entrance.bring(node.event(2)).expect("it is taken");
    assert_after(node.until(2).await, GRACE);
    assert_eq!(node.merged(), Merged { by_bus: 1, by_log: 1, ..Merged::default() });
}

#[tokio::test(start_paused = true)]
async fn where_many_readers_wait_the_task_of_the_follower_tells_them() {
    let node = Node::with(FollowOptions { crowd: 2, ..options(8) }, 1);
    node.beat(0, Some(0)).await;
    idle().await;
    node.commit(4);
    let readers: Vec<_> =
        (0..3).map(|_| node.store.subscribe(EventFilter::everything(), Start::Live)).collect();
    node.entrance.bring(node.event(1)).expect("it is taken");
    idle().await;
    assert_eq!(node.tail.head(), Position(1), "that there are so many shows with the first");
    node.entrance.bring(node.event(2)).expect("there is room");
    assert_eq!(node.signals.capacity(), 0);
    assert_eq!(node.entrance.bring(node.event(3)), Err(NoRoom));
    idle().await;
    assert_eq!(node.tail.head(), Position(2));
    drop(readers);
    node.entrance.bring(node.event(3)).expect("there is room");
    assert_eq!(node.signals.capacity(), 0);
    idle().await;
    node.entrance.bring(node.event(4)).expect("it is taken");
    assert_eq!(node.signals.capacity(), 1, "there are few again");
    idle().await;
    assert_eq!(node.tail.head(), Position(4));
}

#[tokio::test(start_paused = true)]
async fn that_many_readers_want_an_event_is_not_forgotten_with_the_next_one() {
    let node = Node::with(FollowOptions { crowd: 2, ..options(8) }, 1);
    node.beat(0, Some(0)).await;
    idle().await;
    node.commit(3);
    let readers: Vec<_> =
        (0..40).map(|_| node.store.subscribe(EventFilter::everything(), Start::Live)).collect();
    node.entrance.bring(node.event(1)).expect("it is taken");
    idle().await;
    drop(readers);
    for position in [2, 3] {
        node.entrance.bring(node.event(position)).expect("there is room");
        assert_eq!(node.signals.capacity(), 0, "the next one may be wanted by as many again");
        idle().await;
    }
    assert_eq!(node.tail.head(), Position(3));
}

/// More signals than are dealt with in one go, all the time.
#[tokio::test(start_paused = true)]
async fn a_flood_of_signals_keeps_no_hole_from_being_read() {
    let node = Node::with(options(8), 200_000);
    node.beat(0, Some(0)).await;
    node.commit(3);
    node.bring(1).await;
    node.bring(3).await;
    idle().await;
    let repeated = node.event(1);
    for _ in 0..2 * GRACE.as_millis() {
        while node.signals.capacity() > 0 {
            node.signals.try_send(repeated.clone()).expect("there is room");
        }
        advance(TICK).await;
        assert!(node.signals.capacity() < 200_000, "the follower never comes to an end with them");
    }
    assert_eq!(node.tail.head(), Position(3));
}

#[tokio::test(start_paused = true)]
async fn live_on_a_node_that_has_not_found_its_log_begins_where_that_is_found() {
    let node = Node::new(8);
    node.commit(5);
    let mut events = node.store.subscribe(EventFilter::everything(), Start::Live);
    assert!(pending(&mut events).await);
    node.beat(5, Some(5)).await;
    idle().await;
    // Its own reader's append, before it polls for the first time since: not missed.
    node.commit(1);
    node.bring(6).await;
    idle().await;
    assert_eq!(event(&mut events).await.position, Position(6));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_to_be_caught_up_before_the_log_is_found() {
    let node = Node::new(8);
    node.commit(5);
    let mut events = node.store.subscribe(EventFilter::everything(), Start::Beginning).with_caught_up();
    assert!(pending(&mut events).await);
    node.beat(5, Some(5)).await;
    for position in 1..=5 {
        assert_eq!(event(&mut events).await.position, Position(position));
    }
    assert!(matches!(events.next().await, Some(Ok(Delivery::CaughtUp(Position(5))))));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_waits_for_its_log_ends_with_the_tail() {
    let node = Node::new(8);
    let mut events = node.store.subscribe(EventFilter::everything(), Start::Live);
    assert!(pending(&mut events).await);
    node.tail.close();
    assert!(events.next().await.is_none());
}

/// Nothing of what the tail had was cut off, but of what was on its way.
#[tokio::test(start_paused = true)]
async fn a_page_that_was_on_its_way_when_its_epoch_ended_is_not_taken() {
    let node = Node::found(8).await;
    let mut events = node.store.subscribe(EventFilter::everything(), Start::Beginning);
    node.commit(10);
    node.far.set_answers(Answers { slow: 50 * TICK..=50 * TICK, ..Answers::PROMPT });
    node.beat(10, None).await;
    // The log has looked, and its answer is on its way: with 1 to 10.
    sleep(60 * TICK).await;
    node.far.promote(Position(4));
    let others = (100..103).map(numbered).collect();
    node.far.commit(&Append::to(aggregate("A", "0"), ExpectedVersion::Any, others));
    node.beat(7, None).await;
    let log = node.far.events();
    for expected in &log {
        assert_eq!(event(&mut events).await, *expected);
    }
    assert_eq!((log.len(), node.tail.head()), (7, Position(7)));
}

/// Nothing that was yielded was cut off, but of what was read ahead.
#[tokio::test(start_paused = true)]
async fn a_page_that_was_read_ahead_when_its_epoch_ended_is_not_taken() {
    let node = Node::found(8).await;
    // More than the ring holds, so that the log is read.
    for _ in 0..4 {
        node.commit(5000);
    }
    node.beat(20_000, None).await;
    node.until(20_000).await;
    let mut events = node.store.subscribe(EventFilter::everything(), Start::Beginning);
    let before = node.far.asked().len();
    for position in 1..=300 {
        assert_eq!(event(&mut events).await.position, Position(position));
    }
    idle().await;
    assert_eq!(events.reads_of_log(), 1, "the page that is gone through");
    assert_eq!(node.far.asked().len() - before, 3, "and the two after it are there already");
    node.far.promote(Position(600));
    let others = (100_000..101_000).map(numbered).collect();
    node.far.commit(&Append::to(aggregate("A", "0"), ExpectedVersion::Any, others));
    node.beat(1600, None).await;
    idle().await;
    let log = node.far.events();
    for expected in &log[300..] {
        assert_eq!(event(&mut events).await, *expected);
    }
    assert_eq!(log.len(), 1600);
}

#[tokio::test(start_paused = true)]
async fn an_end_stays_one_whatever_becomes_of_the_log() {
    let node = Node::found(8).await;
    let mut events = node.store.subscribe(EventFilter::everything(), Start::Beginning);
    node.tail.close();
    assert!(events.next().await.is_none());
    node.far.promote(Position::START);
    node.commit(1);
    node.beat(1, None).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.tail.head(), Position(1));
    assert!(events.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn after_a_reset_it_is_said_again_when_all_has_come() {
    let node = Node::found(8).await;
    node.commit(2);
    node.beat(2, None).await;
    node.until(2).await;
    let mut events = node.store.subscribe(EventFilter::everything(), Start::Beginning).with_caught_up();
    for position in 1..=2 {
        assert_eq!(event(&mut events).await.position, Position(position));
    }
    assert!(matches!(events.next().await, Some(Ok(Delivery::CaughtUp(Position(2))))));
    node.far.promote(Position::START);
    node.commit(1);
    node.beat(1, None).await;
    idle().await;
    assert_eq!(node.tail.epoch(), Epoch(2));
    let cut_off = ResetReason::BeyondEnd { epoch: Epoch(1), position: Position(2), end: Position(0) };
    assert_eq!(events.epoch(), Epoch(1), "of which all is that it has yielded");
    assert_eq!(events.next().await.expect("open").expect("readable"), Delivery::Reset(cut_off));
    assert_eq!(events.epoch(), Epoch(2));
    assert_eq!(event(&mut events).await.position, Position(1));
    assert!(matches!(events.next().await, Some(Ok(Delivery::CaughtUp(Position(1))))));
}

/// It would be asked without end, and without a pause.
#[tokio::test(start_paused = true)]
async fn a_log_that_ends_before_what_its_tail_has_is_an_error_to_its_readers() {
    let node = Node::new(8);
    node.commit(5);
    node.beat(10, Some(10)).await;
    let mut events = node.store.subscribe(EventFilter::everything(), Start::Beginning);
    for position in 1..=5 {
        assert_eq!(event(&mut events).await.position, Position(position));
    }
    let said = events.next().await.expect("open").expect_err("6 to 10 are nowhere").to_string();
    assert!(said.contains("ends at 5"), "{said}");
    node.commit(5);
    assert_eq!(event(&mut events).await.position, Position(6), "and it is asked again");
}

async fn event(events: &mut Subscription) -> Arc<StoredEvent> {
    let next = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
    match next.expect("something comes") {
        Some(Ok(Delivery::Event(event))) => event,
        other => panic!("an event was to come, and not {other:?}"),
    }
}

async fn pending(events: &mut Subscription) -> bool {
    let mut next = Box::pin(events.next());
    poll_fn(|context| Poll::Ready(next.as_mut().poll(context).is_pending())).await
}
