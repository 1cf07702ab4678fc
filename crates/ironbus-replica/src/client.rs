//! A client that knows only Zenoh, for what tests do to a storage behind the log's back.

use std::collections::BTreeMap;
use std::time::Duration;

use zenoh::Session;
use zenoh::query::{ConsolidationMode, QueryTarget};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// A client of a router.
pub struct Client {
    session: Session,
}

impl Client {
    /// Connects to a router, which must be there.
    ///
    /// # Errors
    ///
    /// What Zenoh said.
    pub async fn connect(endpoint: &str) -> Result<Self, zenoh::Error> {
        let mut config = zenoh::Config::default();
        config.insert_json5("mode", "'client'")?;
        config.insert_json5("connect/endpoints", &format!("['{endpoint}']"))?;
        config.insert_json5("connect/timeout_ms", "-1")?;
        config.insert_json5("connect/exit_on_failure", "false")?;
        config.insert_json5("scouting/multicast/enabled", "false")?;
        Ok(Self { session: zenoh::open(config).await? })
    }

    /// What storages hold: their answers have the time at which something was stored, those of a store node have
    /// none.
    ///
    /// # Errors
    ///
    /// What Zenoh said.
    pub async fn held(&self, keys: &str) -> Result<BTreeMap<String, Vec<u8>>, zenoh::Error> {
        let replies = self
            .session
            .get(keys)
            .target(QueryTarget::All)
            .consolidation(ConsolidationMode::None)
            .timeout(ANSWER)
            .await?;
        let mut held = BTreeMap::new();
        while let Ok(reply) = replies.recv_async().await {
            if let Ok(sample) = reply.into_result()
                && sample.timestamp().is_some()
            {
                held.insert(sample.key_expr().to_string(), sample.payload().to_bytes().into_owned());
            }
        }
        Ok(held)
    }

    /// Puts a text at a key.
    ///
    /// # Errors
    ///
    /// What Zenoh said.
    pub async fn put(&self, key: &str, text: String) -> Result<(), zenoh::Error> {
        self.session.put(key.to_owned(), text).await
    }

    /// Deletes a key.
    ///
    /// # Errors
    ///
    /// What Zenoh said.
    pub async fn delete(&self, key: &str) -> Result<(), zenoh::Error> {
        self.session.delete(key.to_owned()).await
    }
}
