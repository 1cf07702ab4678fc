//! The contract of event stores, on an edge node: once where Zenoh brings the events, once where the log
//! alone does.

use async_trait::async_trait;
use ironbus::bus::EventBusMode;
use ironbus::tail::RingLimits;
use ironbus_testkit::contract::{Opened, Subject};
use ironbus_zenoh::EdgeOptions;

use crate::support::{Place, until};

struct Edge(EventBusMode);

#[async_trait]
impl Subject for Edge {
    async fn open(&self, ring: usize) -> Opened {
        let place = Place::new();
        let ring = RingLimits { events: ring, ..RingLimits::default() };
        let (store, _) = place.store(self.0).await;
        let (edge, _) = place.edge_with(EdgeOptions { ring, ..EdgeOptions::new("edge") }).await;
        until("the edge finds its log", || edge.log_access().is_ready() && edge.tail().has_log()).await;
        let closing = edge.clone();
        Opened {
            store: edge.store(),
            close: Box::pin(async move {
                closing.shutdown(std::time::Duration::from_secs(5)).await;
            }),
            keep: Box::new((store, edge, place)),
        }
    }
}

mod by_zenoh {
    use super::*;
    ironbus_testkit::contract_tests!(Edge(EventBusMode::Zenoh));
}

mod by_the_log {
    use super::*;
    ironbus_testkit::contract_tests!(Edge(EventBusMode::Broadcast));
}
