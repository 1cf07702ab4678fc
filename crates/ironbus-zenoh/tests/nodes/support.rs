//! A store node and edge nodes in one process, each with a session of its own over a real socket.

use std::sync::Arc;
use std::time::Duration;

use ironbus::bus::EventBusMode;
use ironbus::tail::RingLimits;
use ironbus::{Aggregate, Append, ExpectedVersion, Json, NewEvent, Node, NodeOptions};
use ironbus_zenoh::{EdgeNode, EdgeOptions, StoreNode, StoreNodeOptions, ZenohOptions};

/// A directory with a log and a socket.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("temporary files can be made"))
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unixsock-stream/{}", self.0.path().join("bus.sock").display())
    }

    pub(crate) async fn store(&self, mode: EventBusMode) -> (Node, Arc<StoreNode>) {
        self.store_with_ring(mode, RingLimits::default()).await
    }

    pub(crate) async fn store_with_ring(
        &self,
        mode: EventBusMode,
        ring: RingLimits,
    ) -> (Node, Arc<StoreNode>) {
        let options = NodeOptions { ring, ..NodeOptions::new(self.path()) };
        let node = Node::open(options).await.expect("the log opens");
        let session = ZenohOptions::peer(&[&self.endpoint()], &[]).open().await.expect("it listens");
        let options = StoreNodeOptions { name: "store".into() };
        let joined = StoreNode::join(&node, session, options).await.expect("it joins");
        node.bus().set_mode(mode).expect("it has Zenoh");
        (node, joined)
    }

    pub(crate) async fn edge(&self, name: &str) -> (Node, Arc<EdgeNode>) {
        self.edge_with(EdgeOptions::new(name)).await
    }

    pub(crate) async fn edge_with(&self, options: EdgeOptions) -> (Node, Arc<EdgeNode>) {
        let session = ZenohOptions::peer(&[], &[&self.endpoint()]).open().await.expect("it opens");
        EdgeNode::start(session, options).await.expect("it starts")
    }
}

/// Waits until `done`, or fails the test.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An append of one event to the aggregate of this number.
pub(crate) fn one(aggregate: usize, number: usize) -> Append {
    let aggregate = Aggregate::new("Todo", format!("id {aggregate}")).expect("valid");
    let payload = Json::parse(format!("{{\"n\":{number}}}")).expect("valid");
    Append::to(aggregate, ExpectedVersion::Any, vec![NewEvent::new("Added", payload)])
}

pub(crate) async fn end(node: &Node) {
    let unfinished = node.shutdown(Duration::from_secs(5)).await;
    assert!(unfinished.is_empty(), "these tasks didn't end: {unfinished:?}");
}
