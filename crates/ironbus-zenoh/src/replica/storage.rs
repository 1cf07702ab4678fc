//! Which storages there are: the admin space of every router says what its storage manager keeps.

use std::time::Duration;

use ironbus::EventKey;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use zenoh::key_expr::OwnedKeyExpr;
use zenoh::query::{ConsolidationMode, QueryTarget};

use super::ReplicaError;
use crate::keys;
use crate::wire::from_json;

/// Where a router tells of its storages: `@/{router}/{mode}/status/plugins/{manager}/storages/{name}`.
const TOLD_AT: &str = "@/*/*/status/plugins/*/storages/*";

/// How long routers have to tell of their storages.
const TELL: Duration = Duration::from_secs(2);

/// How often it is asked anew while a connection isn't there yet.
const AGAIN: Duration = Duration::from_millis(200);

/// A storage of a Zenoh storage manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Its name in the router's configuration.
    pub name: String,
    /// The Zenoh id of the router.
    pub router: String,
    /// What it keeps.
    pub keys: OwnedKeyExpr,
    /// Where it keeps it, for example `rocksdb` or `memory`.
    pub volume: String,
}

impl std::fmt::Display for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ({}, {}) of router {}", self.name, self.volume, self.keys, self.router)
    }
}

/// What a router says of a storage, as far as it matters here.
#[derive(Deserialize)]
struct Told {
    key_expr: String,
    volume: Value,
}

impl Storage {
    /// The storage of this name or router, once it is there; a connection may not be yet.
    pub(super) async fn find(
        session: &zenoh::Session,
        name: Option<&str>,
        patience: Duration,
    ) -> Result<Self, ReplicaError> {
        let deadline = Instant::now() + patience;
        loop {
            let there = Self::all(session).await?;
            match choose(there, name) {
                Err(ReplicaError::NoStorage | ReplicaError::NoSuchStorage { .. })
                    if Instant::now() < deadline =>
                {
                    tokio::time::sleep(AGAIN).await;
                }
                chosen => return chosen,
            }
        }
    }

    /// All storages with events that are reached.
    pub(super) async fn all(session: &zenoh::Session) -> Result<Vec<Self>, ReplicaError> {
        let replies = session
            .get(TOLD_AT)
            .target(QueryTarget::All)
            .consolidation(ConsolidationMode::None)
            .timeout(TELL)
            .with(zenoh::handlers::FifoChannel::new(256))
            .await?;
        let mut there = Vec::new();
        while let Ok(reply) = replies.recv_async().await {
            let Ok(sample) = reply.into_result() else { continue };
            there.extend(Self::told(sample.key_expr().as_str(), &sample.payload().to_bytes()));
        }
        Ok(there)
    }

    /// What the admin space says at one key; `None` where it isn't a storage that can hold events.
    fn told(key: &str, document: &[u8]) -> Option<Self> {
        let chunks: Vec<&str> = key.split('/').collect();
        let ["@", router, _, "status", "plugins", _, "storages", name] = *chunks else { return None };
        let told: Told = from_json(document).ok()?;
        let volume = told.volume.get("id").unwrap_or(&told.volume).as_str().unwrap_or("?").to_owned();
        let keys = OwnedKeyExpr::try_from(told.key_expr).ok()?;
        keys.intersects(&keys::all_events()).then(|| Self {
            name: name.to_owned(),
            router: router.to_owned(),
            keys,
            volume,
        })
    }

    /// Whether it is to hold the event of this key.
    #[must_use]
    pub fn keeps(&self, key: &EventKey) -> bool {
        self.keys.includes(keys::borrowed(key))
    }

    /// Whether it is to hold the whole log.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        self.keys.includes(&keys::all_events())
    }
}

fn choose(mut there: Vec<Storage>, name: Option<&str>) -> Result<Storage, ReplicaError> {
    let list = |there: &[Storage]| there.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if there.is_empty() {
        return Err(ReplicaError::NoStorage);
    }
    let all = list(&there);
    if let Some(name) = name {
        there.retain(|storage| storage.name == name || storage.router == name);
    }
    match (there.pop(), there.is_empty(), name) {
        (Some(storage), true, _) => Ok(storage),
        (None, _, name) => {
            Err(ReplicaError::NoSuchStorage { name: name.unwrap_or_default().to_owned(), there: all })
        }
        (Some(_), false, _) => Err(ReplicaError::Several { there: all }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(name: &str, router: &str) -> Storage {
        let keys = keys::all_events();
        Storage { name: name.into(), router: router.into(), keys, volume: "memory".into() }
    }

    #[test]
    fn a_storage_is_what_the_admin_space_says() {
        let at = "@/5f/router/status/plugins/storage_manager/storages/events";
        let rocksdb = br#"{"key_expr":"events/**","volume":{"id":"rocksdb","dir":"d"}}"#;
        let told = Storage::told(at, rocksdb).expect("a storage");
        assert_eq!(
            (told.name.as_str(), told.router.as_str(), told.volume.as_str()),
            ("events", "5f", "rocksdb")
        );
        assert!(told.keeps_all());
        let part =
            Storage::told(at, br#"{"key_expr":"events/Todo/**","volume":"memory"}"#).expect("a storage");
        assert_eq!((part.volume.as_str(), part.keeps_all()), ("memory", false));
        assert_eq!(Storage::told(at, br#"{"key_expr":"demo/**","volume":"memory"}"#), None);
        assert_eq!(Storage::told("@/5f/router/status/plugins/storage_manager/volumes/memory", rocksdb), None);
    }

    #[test]
    fn one_of_several_is_chosen_by_its_name_or_its_router() {
        let there = vec![storage("a", "1"), storage("a", "2"), storage("b", "3")];
        let chosen = |name| choose(there.clone(), name);
        assert_eq!(chosen(Some("b")).expect("one"), storage("b", "3"));
        assert_eq!(chosen(Some("2")).expect("one"), storage("a", "2"));
        assert!(matches!(chosen(Some("a")), Err(ReplicaError::Several { .. })));
        assert!(matches!(chosen(None), Err(ReplicaError::Several { .. })));
        assert!(matches!(chosen(Some("c")), Err(ReplicaError::NoSuchStorage { .. })));
        assert!(matches!(choose(Vec::new(), None), Err(ReplicaError::NoStorage)));
        assert_eq!(choose(vec![storage("a", "1")], None).expect("one"), storage("a", "1"));
    }
}
