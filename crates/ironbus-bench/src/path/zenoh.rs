//! An event over Zenoh, both ends in this process: what a put and its receipt take is Zenoh's and is counted too.

use std::path::Path;
use std::time::Duration;

use ironbus::bus::{EventBusMode, Heard};
use ironbus::{EventBus, EventFilter, Node, NodeOptions, Start};
use ironbus_cli::bench::over_zenoh::prepared;
use ironbus_zenoh::{EdgeNode, EdgeOptions, StoreNode, StoreNodeOptions, ZenohBus, ZenohOptions};

use super::MOST;

/// From the bus to a raw subscription of the same session, one after the other.
pub(super) async fn within(place: &Path, count: usize) {
    let events = prepared(place, MOST).await.expect("prepared");
    let session = ZenohOptions::embedded().open().await.expect("opens");
    let bus = ZenohBus::new(session).await.expect("starts");
    let mut raw = bus.subscribe(EventFilter::everything());
    for event in &events[..count] {
        bus.publish_all(std::slice::from_ref(event)).expect("carried");
        assert!(matches!(raw.next().await, Some(Heard::Event(_))), "none is missed");
    }
}

/// From a store node's bus to a catch-up subscription of an edge node, by TCP, one after the other.
pub(super) async fn between(place: &Path, count: usize) {
    let events = prepared(place, MOST).await.expect("prepared");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    let endpoint = format!("tcp/{port}");
    let session = ZenohOptions::peer(&[&endpoint], &[]).open().await.expect("opens");
    // Its log stays empty: what is sent comes from elsewhere, so that no store is counted.
    let node = Node::open(NodeOptions::new(place.join("empty"))).await.expect("opens");
    let store =
        StoreNode::join(&node, session, StoreNodeOptions { name: "bench".into() }).await.expect("joins");
    node.bus().set_mode(EventBusMode::Zenoh).expect("there is Zenoh");
    let session = ZenohOptions::peer(&[], &[&endpoint]).open().await.expect("opens");
    let (edge, joined) = EdgeNode::start(session, EdgeOptions::new("bench")).await.expect("starts");
    joined.found().await;
    let mut live = edge.store().subscribe(EventFilter::everything(), Start::Beginning);
    for event in &events[..count] {
        store.bus().publish_all(std::slice::from_ref(event)).expect("carried");
        live.next_event().await.expect("open").expect("readable");
    }
    drop(live);
    edge.shutdown(Duration::from_secs(5)).await;
    node.shutdown(Duration::from_secs(5)).await;
}
