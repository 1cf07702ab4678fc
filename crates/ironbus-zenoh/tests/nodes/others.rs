//! Who else is on the network: others who listen to events, and a second store node of the same log.

use ironbus::bus::EventBusMode;
use ironbus::node::Link as _;
use ironbus::store::sqlite::raise_epoch;
use ironbus::{AppendError, LogAccess, Node, NodeOptions};
use ironbus_zenoh::{StoreNode, StoreNodeOptions, ZenohOptions};

use crate::support::{Place, end, one, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_who_listen_to_events_are_counted_and_nodes_of_ours_are_not() {
    let place = Place::new();
    let (store, joined) = place.store(EventBusMode::Dual).await;
    let (edge, _) = place.edge("edge").await;
    until("the edge finds its log", || edge.log_access().is_ready()).await;
    let stranger = ZenohOptions::peer(&[], &[&place.endpoint()]).open().await.expect("it opens");
    let listening = stranger.declare_subscriber("events/Todo/**").await.expect("declared");
    until("the stranger is counted", || joined.foreign_subscribers() == 1).await;
    drop(listening);
    stranger.close().await.expect("closed");
    // Without the stranger the edge is left, which subscribes to all events too.
    until("nobody else is left", || joined.foreign_subscribers() == 0).await;
    end(&edge).await;
    end(&store).await;
}

/// A second process's copy of a log, which joins the store node of `place`.
async fn copy_of(place: &Place, copy: &Place) -> (Node, std::sync::Arc<StoreNode>) {
    let node = Node::open(NodeOptions::new(copy.path())).await.expect("the copy opens");
    let session = ZenohOptions::peer(&[], &[&place.endpoint()]).open().await.expect("it opens");
    let joined = StoreNode::join(&node, session, StoreNodeOptions { name: "copy".into() }).await;
    (node, joined.expect("it joins"))
}

fn is_superseded(node: &Node, says: &str) -> bool {
    matches!(node.log_access(), LogAccess::Superseded { reason } if reason.contains(says))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_store_nodes_of_one_log_the_lower_epoch_stops_and_with_equal_ones_both_do() {
    let (place, copy) = (Place::new(), Place::new());
    let (store, _) = place.store(EventBusMode::Broadcast).await;
    store.store().append(one(1, 1)).await.expect("appended");
    end(&store).await;
    let (from, to) = (place.path().join(NodeOptions::LOG_FILE), copy.path().join(NodeOptions::LOG_FILE));
    std::fs::copy(from, &to).expect("the log is copied");

    let (store, _) = place.store(EventBusMode::Broadcast).await;
    let (second, _) = copy_of(&place, &copy).await;
    until("both have stopped", || [&store, &second].iter().all(|node| is_superseded(node, "same epoch")))
        .await;
    for node in [&store, &second] {
        let refused = node.store().append(one(1, 2)).await.expect_err("neither accepts");
        assert!(matches!(refused, AppendError::Superseded { .. }), "{refused}");
    }
    end(&second).await;
    end(&store).await;

    raise_epoch(&to).expect("promoted");
    let (store, _) = place.store(EventBusMode::Broadcast).await;
    let (second, _) = copy_of(&place, &copy).await;
    until("the older epoch has stopped", || is_superseded(&store, "in epoch 2, this one in epoch 1")).await;
    assert_eq!(second.log_access(), LogAccess::Own, "the promoted one goes on");
    second.store().append(one(1, 2)).await.expect("the promoted one accepts");
    store.store().append(one(1, 2)).await.expect_err("the older one doesn't");
    end(&second).await;
    end(&store).await;
}
