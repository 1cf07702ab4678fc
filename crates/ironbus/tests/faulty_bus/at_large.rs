//! In real time, with a thread for each who takes part.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use ironbus::bus::EventBusMode;
use ironbus::event::{Cursor, Epoch, Position, StoredEvent};
use ironbus::key::EventFilter;
use ironbus::store::{Append, EventStore, ExpectedVersion};
use ironbus::subscription::{Delivery, Start, Subscription};
use ironbus::tail::{Entrance, Follow, FollowOptions, Following, Heartbeat, RingLimits, Signal, Tail};
use ironbus_testkit::check::check_subscription;
use ironbus_testkit::far::{Answers, FarStore, Reached};
use ironbus_testkit::faulty::{Faults, FaultyBus, for_seeds};
use ironbus_testkit::temp::TempStore;
use ironbus_testkit::{aggregate, numbered, read_all, within};
use tokio::sync::{mpsc, watch};

use crate::stepped::{Edge, World};
use crate::{check_of_one_history, filter};

/// Runs on several threads.
fn in_real_time(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build();
    runtime.expect("a runtime can be built").block_on(work);
}

/// A reader on a thread of its own, which now and then drops its subscription and resumes from its cursor.
/// Gives back what it got since it last began, once it has come to what `end` says is the end.
async fn read_at_large(
    store: Reached,
    far: FarStore,
    filter: EventFilter,
    mut rng: Rng,
    mut end: watch::Receiver<Option<Cursor>>,
) -> Vec<Arc<StoredEvent>> {
    let mut got: Vec<Arc<StoredEvent>> = Vec::new();
    let mut events = store.subscribe(filter.clone(), Start::Beginning).with_caught_up();
    loop {
        let last = *end.borrow_and_update();
        if last.is_some_and(|last| events.epoch() == last.epoch && events.cursor() >= last.position) {
            return got;
        }
        let next = tokio::select! {
            biased;
            next = events.next() => next.expect("the tail stays open"),
            _ = end.changed() => continue,
            // Nothing wakes a reader for whom nothing matches; looking again, it is at the end.
            () = tokio::time::sleep(Duration::from_millis(1)), if last.is_some() => continue,
        };
        match next {
            Ok(Delivery::Event(event)) => got.push(event),
            Ok(Delivery::Reset(_)) => {
                assert_eq!(check_of_one_history(&filter, Position::START, &got, &far), Ok(()));
                got.clear();
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
        if rng.u8(..40) == 0 && events.epoch().0 > 0 {
            let cursor = Cursor { epoch: events.epoch(), position: events.cursor() };
            events = store.subscribe(filter.clone(), Start::Resume(cursor)).with_caught_up();
        }
    }
}

/// The same with a thread for each of these: the follower, the store node, readers.
async fn at_large(seed: u64) {
    let rng = &mut Rng::with_seed(seed);
    let far = FarStore::new(rng.u64(..), Answers::PROMPT);
    let edge = Edge::new(rng, &far);
    let (tell, end) = watch::channel(None);
    let mut world = World { far: far.clone(), carried: Some(Position::START), edges: vec![edge], next: 0 };
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (filter, rng) = (filter(rng), Rng::with_seed(rng.u64(..)));
            let store = world.edges[0].store.clone();
            let reading = read_at_large(store, far.clone(), filter.clone(), rng, end.clone());
            (filter, tokio::spawn(reading))
        })
        .collect();
    for _ in 0..rng.usize(20..60) {
        match rng.u8(..10) {
            0..5 => world.commit(rng),
            5..7 => world.publish(),
            7..9 => world.beat(),
            _ => world.promote(rng),
        }
        world.edges[0].bus.step();
        if rng.bool() {
            tokio::task::yield_now().await;
        }
    }
    let edge = &world.edges[0];
    let heartbeat = far.heartbeat(world.carried);
    edge.bus.queue().send(Signal::Heartbeat(heartbeat.clone())).await.expect("the follower listens");
    let mut known = edge.known.clone();
    let heard =
        known.wait_for(|known| known.heartbeat.as_ref().is_some_and(|(heard, _)| *heard == heartbeat));
    drop(within("the last heartbeat", heard).await.expect("the follower goes on"));
    let last = Cursor { epoch: far.lineage().epoch(), position: far.head() };
    tell.send(Some(last)).expect("the readers listen");
    for (filter, reader) in readers {
        let got = within("a reader at the end", reader).await.expect("no reader panics");
        let checked = check_subscription(&filter, Position::START, far.head(), &got, &far.events());
        assert_eq!(checked, Ok(()), "{filter:?}");
    }
}

#[test]
fn readers_on_other_threads_see_one_history_too() {
    for_seeds(150, |seed| in_real_time(at_large(seed)));
}

/// What a store node on SQLite says of itself.
async fn heartbeat(store: &dyn EventStore, carried: Position) -> Heartbeat {
    let head = store.head().await.expect("the head can be read");
    Heartbeat {
        window_ms: 30_000,
        window_events: 100,
        store_id: head.store_id,
        epochs: head.lineage.starts().to_vec(),
        head: head.position,
        carried: Some(carried),
        mode: EventBusMode::Dual,
        node: "store".into(),
        instance: uuid::Uuid::nil(),
    }
}

/// A real log, its node's subscription to everything in place of the publisher, and a node that follows it
/// over a bus of the usual faults.
async fn over_a_real_log(seed: u64) {
    let rng = &mut Rng::with_seed(seed);
    let temp = TempStore::new();
    let store = temp.open().await;
    let mut published = store.subscribe(EventFilter::everything(), Start::Live);
    let (queue, signals) = mpsc::channel(64);
    let limits = RingLimits { events: rng.usize(1..40), bytes: usize::MAX };
    let tail = Arc::new(Tail::new(Epoch(0), Position::START, limits));
    let options = FollowOptions {
        grace: Duration::from_millis(2),
        lag: Duration::from_millis(10),
        room: RingLimits { events: rng.usize(1..64), ..limits },
        page: rng.usize(1..64),
        // There are four readers: an event by itself, or the next by the queue.
        crowd: rng.usize(..8),
        ..FollowOptions::default()
    };
    let (knows, _known) = watch::channel(Following::default());
    let follow = Follow::new(Arc::clone(&tail), knows, options);
    let entrance = Entrance::new(Arc::clone(&follow), queue);
    tokio::spawn(follow.run(signals, Arc::new(store.clone())));
    let subscribe = || {
        let (store, tail) = (Arc::new(store.clone()), Arc::clone(&tail));
        Subscription::new(store, tail, EventFilter::everything(), Start::Beginning)
    };
    let readers: Vec<_> = (0..4).map(|_| subscribe()).collect();
    let mut bus = FaultyBus::new(rng.u64(..), Faults::USUAL, entrance);
    let last = Position(200);
    for n in 1..=last.0 {
        let append = Append::to(aggregate("A", "2"), ExpectedVersion::Any, vec![numbered(n)]);
        store.append(append).await.expect("nothing is in the way");
        let event = published.next_event().await.expect("open").expect("readable");
        let carried = event.position;
        bus.carry(&Signal::Event(Epoch(1), event));
        if n % 10 == 0 {
            bus.carry(&Signal::Heartbeat(heartbeat(&store, carried).await));
        }
        bus.step();
    }
    let heartbeat = Signal::Heartbeat(heartbeat(&store, last).await);
    bus.queue().send(heartbeat).await.expect("the follower listens");
    let log = read_all(&store).await.expect("the log can be read");
    for mut events in readers {
        let mut got = Vec::new();
        while got.len() < log.len() {
            let next = within("a reader of a real log", events.next_event()).await;
            got.push(next.expect("open").expect("readable"));
        }
        assert_eq!(got, log);
    }
}

#[test]
fn a_real_log_over_such_a_bus_is_seen_as_it_is() {
    for_seeds(8, |seed| in_real_time(over_a_real_log(seed)));
}
