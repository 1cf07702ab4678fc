//! Raw subscriptions while the mode of the bus changes: they hear nothing that wasn't committed, in ascending
//! positions, and end when their side carries no more.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use fastrand::Rng;
use futures_util::FutureExt;
use ironbus::bus::{BroadcastBus, DualEventBus, EventBus, EventBusMode, Heard, Side};
use ironbus::event::{Epoch, Position, StoredEvent};
use ironbus::key::EventFilter;
use ironbus::node::{Node, NodeOptions};
use ironbus::store::{Append, ExpectedVersion};
use ironbus::tail::{FollowOptions, Following, RingLimits, Signal, Tail, follow};
use ironbus_testkit::far::{Answers, FarStore};
use ironbus_testkit::faulty::for_seeds;
use ironbus_testkit::second_bus::{NoLink, SecondBus};
use ironbus_testkit::{aggregate, numbered, read_all, within};
use tokio::sync::{mpsc, watch};

/// What one listener heard on one side, until that ended.
type Stay = Vec<Arc<StoredEvent>>;

/// Listens until it has heard the event at the position that `end` says; subscribes again when its side ends.
async fn listen(
    bus: Arc<DualEventBus>,
    filter: EventFilter,
    mut end: watch::Receiver<Option<Position>>,
) -> Vec<Stay> {
    let mut stays = Vec::new();
    loop {
        let mut listening = bus.subscribe(filter.clone());
        let mut heard = Stay::new();
        loop {
            if let (Some(end), Some(last)) = (*end.borrow_and_update(), heard.last())
                && last.position >= end
            {
                stays.push(heard);
                return stays;
            }
            tokio::select! {
                next = listening.next() => match next {
                    Some(Heard::Event(event)) => heard.push(event),
                    Some(Heard::Missed(missed)) => assert!(missed > 0),
                    None => break,
                },
                changed = end.changed() => changed.expect("the end is told before the teller goes"),
            }
        }
        stays.push(heard);
    }
}

async fn switches(seed: u64) {
    let rng = &mut Rng::with_seed(seed);
    let data = tempfile::tempdir().expect("temporary files can be made");
    let capacity = [4, 64, 1024][rng.usize(..3)];
    let options = NodeOptions { bus_capacity: capacity, ..NodeOptions::new(data.path()) };
    let node = Node::open(options).await.expect("a log in a temporary directory can be opened");
    let far = SecondBus::with_capacity(capacity);
    node.join(Arc::clone(&far) as _, Arc::<NoLink>::default());
    let (tell, end) = watch::channel(None);
    let listeners: Vec<_> = ["events/**", "events/A/**", "events/A/even/*"]
        .into_iter()
        .map(|pattern| {
            let filter = EventFilter::public(pattern.parse().expect("a valid pattern"));
            (filter.clone(), tokio::spawn(listen(Arc::clone(node.bus()), filter, end.clone())))
        })
        .collect();
    let append = async |n: u64| {
        let to = aggregate("A", if n.is_multiple_of(2) { "even" } else { "odd" });
        let append = Append::to(to, ExpectedVersion::Any, vec![numbered(n)]);
        node.store().append(append).await.expect("nothing is in the way").head
    };
    for n in 1..=100 {
        append(n).await;
        if rng.u8(..4) == 0 {
            let mode = [EventBusMode::Broadcast, EventBusMode::Dual, EventBusMode::Zenoh][rng.usize(..3)];
            node.bus().set_mode(mode).expect("Zenoh is attached");
        }
        far.fail(rng.u8(..10) == 0);
    }
    far.fail(false);
    // What is committed while the sides change may be carried by none; but what follows is heard.
    tell.send(Some(append(102).await)).expect("the listeners listen");
    let mut n = 102;
    while !listeners.iter().all(|(_, listener)| listener.is_finished()) {
        assert!(n < 20_000, "some listener hears nothing any more: {:?}", node.bus());
        n += 2;
        append(n).await;
    }
    let log = read_all(&*node.store()).await.expect("the log can be read");
    for (filter, listener) in listeners {
        let stays = listener.await.expect("no listener panics");
        for heard in stays {
            assert!(heard.windows(2).all(|pair| pair[0].position < pair[1].position), "ascending");
            for event in heard {
                assert!(filter.matches(&event), "unasked: {event:?}");
                assert_eq!(log.get(event.position.0 as usize - 1), Some(&event), "invented");
            }
        }
    }
    assert_eq!(node.shutdown(Duration::from_secs(60)).await, [""; 0]);
}

#[test]
fn whatever_the_mode_is_switched_to_nothing_is_invented_and_who_subscribes_again_hears_on() {
    for_seeds(40, |seed| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build();
        runtime.expect("a runtime can be built").block_on(switches(seed));
    });
}

/// Otherwise it would wait for good on a side that carries nothing.
#[test]
fn a_subscription_made_while_its_side_stops_ends_too() {
    let bus = Arc::new(DualEventBus::new_zenoh(SecondBus::with_capacity(16)));
    let (subscribing, switching) = (Arc::clone(&bus), Arc::clone(&bus));
    const TIMES: usize = 20_000;
    let start = Arc::new(Barrier::new(2));
    let started = Arc::clone(&start);
    let switches = std::thread::spawn(move || {
        for _ in 0..TIMES {
            switching.set_mode(EventBusMode::Zenoh).expect("attached");
            started.wait();
            switching.set_mode(EventBusMode::Broadcast).expect("always there");
            started.wait();
        }
    });
    for _ in 0..TIMES {
        start.wait();
        let mut listening = subscribing.subscribe(EventFilter::everything());
        start.wait();
        if listening.side() == Side::Zenoh {
            assert_eq!(listening.next().now_or_never(), Some(None), "its side carries no more");
        }
    }
    switches.join().expect("it doesn't panic");
}

/// Positions begin anew there, so it would take them for ones that it has heard.
#[tokio::test(start_paused = true)]
async fn a_subscription_ends_where_the_log_goes_over_to_an_epoch_without_what_it_heard() {
    let far = FarStore::new(1, Answers::PROMPT);
    let tail = Arc::new(Tail::new(Epoch(0), Position::START, RingLimits::default()));
    let store = Arc::new(far.seen_from(&tail));
    let (signals, heard) = mpsc::channel(16);
    let (knows, _known) = watch::channel(Following::default());
    tokio::spawn(follow(heard, store.clone(), Arc::clone(&tail), knows, FollowOptions::default()));
    let bus = Arc::new(DualEventBus::new_broadcast(BroadcastBus::default()));
    let _node = Node::edge(store, tail, Arc::clone(&bus));
    let beat = async || {
        signals.send(Signal::Heartbeat(far.heartbeat(None))).await.expect("the follower listens");
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let commit = |numbers: std::ops::Range<u64>| {
        let events = numbers.map(numbered).collect();
        far.commit(&Append::to(aggregate("A", "0"), ExpectedVersion::Any, events));
    };
    let position = |heard: Option<Heard>| match heard {
        Some(Heard::Event(event)) => event.position.0,
        other => panic!("an event was to be heard, and not {other:?}"),
    };
    beat().await;
    let mut listening = bus.subscribe(EventFilter::everything());
    commit(1..6);
    beat().await;
    for expected in 1..6 {
        assert_eq!(position(listening.next().await), expected);
    }
    far.promote(Position(2));
    beat().await;
    assert_eq!(within("the end of the subscription", listening.next()).await, None);
    assert_eq!(listening.repeated(), 0);
    let mut again = bus.subscribe(EventFilter::everything());
    commit(6..8);
    beat().await;
    for expected in 3..5 {
        assert_eq!(position(within("what is new", again.next()).await), expected);
    }
}
