//! Edge nodes that come, go, and lose their store node.

use std::time::Duration;

use ironbus::bus::{EventBusMode, Heard};
use ironbus::event::{Epoch, Position};
use ironbus::node::{LogAccess, NodeOptions};
use ironbus::store::ResetReason;
use ironbus::store::sqlite::raise_epoch;
use ironbus::{AppendError, Delivery, EventBus as _, EventFilter, Node, Start};

use crate::support::{Place, end, one, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_starts_first_waits_says_for_whom_and_then_sees_everything() {
    let place = Place::new();
    let (edge, _) = place.edge("edge").await;
    assert_eq!(edge.log_access(), LogAccess::Waiting { whom: "a store node".into() });
    let refused = edge.store().append(one(1, 1)).await.expect_err("there is no log yet");
    assert!(
        matches!(&refused, AppendError::Unavailable { reason } if reason.contains("waiting for a store node"))
    );
    let mut all = edge.store().subscribe(EventFilter::everything(), Start::Beginning);
    let mut live = edge.store().subscribe(EventFilter::everything(), Start::Live);

    let (store, _) = place.store(EventBusMode::Zenoh).await;
    store.store().append(one(1, 1)).await.expect("appended");
    until("the edge finds its log", || edge.log_access().is_ready()).await;
    loop {
        match all.next().await.expect("open") {
            Ok(Delivery::Event(event)) => {
                assert_eq!(event.position.0, 1);
                break;
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    // The live one begins where the log ended when the edge found it: at 0 or at 1.
    edge.store().append(one(1, 2)).await.expect("appended through the edge");
    loop {
        match live.next().await.expect("open") {
            Ok(Delivery::Event(event)) if event.position.0 == 2 => break,
            Ok(Delivery::Event(event)) => assert_eq!(event.position.0, 1),
            Ok(other) => panic!("{other:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    end(&edge).await;
    end(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_of_an_edge_go_on_through_every_mode_and_a_restart_of_the_store() {
    let place = Place::new();
    let (mut store, _) = place.store(EventBusMode::Broadcast).await;
    let (edge, joined) = place.edge("edge").await;
    until("the edge finds its log", || edge.log_access().is_ready()).await;
    let mut all = edge.store().subscribe(EventFilter::everything(), Start::Beginning);
    let mut expected = 0;
    for round in 0..2 {
        for mode in [EventBusMode::Dual, EventBusMode::Zenoh, EventBusMode::Dual, EventBusMode::Broadcast] {
            store.bus().set_mode(mode).expect("it has Zenoh");
            until("the edge follows the mode", || edge.bus().mode() == mode).await;
            for number in 0..50 {
                let through = if number % 2 == 0 { &store } else { &edge };
                through.store().append(one(number % 5, number)).await.expect("appended");
            }
            for _ in 0..50 {
                expected += 1;
                let event = all.next_event().await.expect("open").expect("readable");
                assert_eq!(event.position.0, expected);
            }
        }
        end(&store).await;
        until("the edge notices", || !edge.log_access().is_ready()).await;
        assert!(matches!(edge.log_access(), LogAccess::Away { through, .. } if through.0 == expected));
        let asked = tokio::time::Instant::now();
        edge.store().append(one(1, round)).await.expect_err("the store node is away");
        assert!(asked.elapsed() < Duration::from_secs(6), "it is refused within a bounded time");
        (store, _) = place.store(EventBusMode::Broadcast).await;
        until("the edge finds it again", || edge.log_access().is_ready()).await;
    }
    let merged = joined.following().merged;
    assert!(merged.by_bus > 0 && merged.by_log > 0, "{merged:?}");
    end(&edge).await;
    end(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_subscriptions_hear_zenoh_on_the_store_and_on_an_edge() {
    let place = Place::new();
    let (store, _) = place.store(EventBusMode::Dual).await;
    let (edge, _) = place.edge("edge").await;
    until("the edge follows the mode", || edge.bus().mode() == EventBusMode::Dual).await;
    let mut here = store.bus().subscribe(EventFilter::everything());
    let mut there = edge.bus().subscribe(EventFilter::everything());
    assert_eq!((here.mode(), there.mode()), (EventBusMode::Zenoh, EventBusMode::Zenoh));
    // The edge's subscriber may still be on its way to the publisher: hear one first.
    let mut number = 0;
    let first = loop {
        number += 1;
        store.store().append(one(1, number)).await.expect("appended");
        if let Ok(heard) = tokio::time::timeout(Duration::from_millis(200), there.next()).await {
            break heard;
        }
    };
    assert!(matches!(first, Some(Heard::Event(event)) if event.position.0 <= number as u64));
    assert!(matches!(here.next().await, Some(Heard::Event(_))));
    end(&edge).await;
    end(&store).await;
}

/// A backup is put in the log's place: what was appended after it is gone, and other events have its positions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_goes_over_to_a_restored_log_and_tells_its_readers() {
    let place = Place::new();
    let (log, backup) = (place.path().join(NodeOptions::LOG_FILE), place.path().join("backup.db"));
    let append = async |node: &Node, count: usize| {
        for number in 0..count {
            node.store().append(one(1, number)).await.expect("appended");
        }
    };
    let (store, _) = place.store(EventBusMode::Zenoh).await;
    append(&store, 6).await;
    end(&store).await;
    std::fs::copy(&log, &backup).expect("the log can be copied");

    let (store, _) = place.store(EventBusMode::Zenoh).await;
    let (edge, _) = place.edge("edge").await;
    until("the edge follows the mode", || edge.bus().mode() == EventBusMode::Zenoh).await;
    let mut all = edge.store().subscribe(EventFilter::everything(), Start::Beginning);
    let mut kept = edge.store().subscribe(EventFilter::everything(), Start::Beginning);
    let mut raw = edge.bus().subscribe(EventFilter::everything());
    append(&store, 4).await;
    let mut before = Vec::new();
    for _ in 0..10 {
        before.push(all.next_event().await.expect("open").expect("readable"));
    }
    for _ in 0..6 {
        kept.next_event().await.expect("open").expect("readable");
    }
    end(&store).await;
    std::fs::copy(&backup, &log).expect("the log can be put back");
    raise_epoch(&log).expect("nobody has it open");

    let (store, _) = place.store(EventBusMode::Zenoh).await;
    until("the edge hears of the epoch", || edge.tail().epoch() == Epoch(2)).await;
    append(&store, 5).await;
    let cut_off = ResetReason::BeyondEnd { epoch: Epoch(1), position: Position(10), end: Position(6) };
    assert_eq!(all.next().await.expect("open").expect("readable"), Delivery::Reset(cut_off));
    for position in 1..=11 {
        let event = all.next_event().await.expect("open").expect("readable");
        assert_eq!(event.position, Position(position));
        assert_eq!(before.contains(&event), position <= 6, "position {position}");
    }
    for position in 7..=11 {
        let event = kept.next_event().await.expect("open").expect("readable");
        assert_eq!((event.position, before.contains(&event)), (Position(position), false));
    }
    // What it had heard before its end is of the old history; then it ends, and another hears of the new.
    while let Some(heard) = raw.next().await {
        let Heard::Event(event) = heard else { panic!("it missed none: {heard:?}") };
        assert!(before.contains(&event), "{event:?}");
    }
    let mut again = edge.bus().subscribe(EventFilter::everything());
    append(&store, 1).await;
    assert!(matches!(again.next().await, Some(Heard::Event(event)) if event.position > Position(6)));
    end(&edge).await;
    end(&store).await;
}
