//! Reaches the other nodes that write to a shared log, so that one may append for all.

use std::time::Duration;

use async_trait::async_trait;
use ironbus::event::StoreId;
use ironbus::store::{Append, AppendError, Appended, OtherWriters};
use uuid::Uuid;
use zenoh::qos::CongestionControl;
use zenoh::query::{ConsolidationMode, QueryTarget};

use crate::keys;
use crate::wire::{AppendRequest, Refusal, from_json, to_json};

/// How long another node may take for an append; then this one makes it.
const ANSWER: Duration = Duration::from_secs(2);

pub(crate) struct Writers {
    pub(crate) session: zenoh::Session,
    pub(crate) store_id: StoreId,
}

#[async_trait]
impl OtherWriters for Writers {
    async fn append_at(&self, writer: Uuid, append: &Append) -> Option<Result<Appended, AppendError>> {
        let replies = self
            .session
            .get(keys::writer(self.store_id, writer))
            .payload(to_json(&AppendRequest::of(append)))
            .target(QueryTarget::BestMatching)
            .consolidation(ConsolidationMode::None)
            .congestion_control(CongestionControl::Block)
            .express(true)
            .timeout(ANSWER)
            .await
            .ok()?;
        match replies.recv_async().await.ok()?.into_result() {
            Ok(sample) => from_json(&sample.payload().to_bytes()).ok().map(Ok),
            // Zenoh tells a time-out as a text of its own.
            Err(error) => from_json::<Refusal>(&error.payload().to_bytes())
                .ok()
                .map(|refusal| Err(refusal.of_append().unwrap_or(AppendError::Closed))),
        }
    }
}
