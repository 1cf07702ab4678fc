//! The contract of event stores, on SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use ironbus_testkit::contract::{Opened, Subject};
use ironbus_testkit::temp::TempStore;

struct Sqlite;

#[async_trait]
impl Subject for Sqlite {
    async fn open(&self, ring: usize) -> Opened {
        let temp = TempStore::new().with_ring(ring);
        let store = temp.open().await;
        let closing = store.clone();
        Opened {
            store: Arc::new(store),
            close: Box::pin(async move { closing.close().await }),
            keep: Box::new(temp),
        }
    }
}

ironbus_testkit::contract_tests!(Sqlite);
