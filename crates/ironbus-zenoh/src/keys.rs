//! Event keys and patterns as Zenoh key expressions, and the keys of the service between nodes.
//!
//! Invariant: the text stays the same. A key or pattern of ironbus is canonical in Zenoh's sense, and
//! Zenoh matches them as ironbus does.
//!
//! Beside the documented `events/**`, nodes talk under `ironbus/{store_id}/**`: heartbeats, the
//! reports of edge nodes, and the service of the store node, whose keys hold the epoch, so that a node
//! of an older epoch isn't even reached.

use ironbus::event::{Epoch, StoreId};
use ironbus::key::InvalidPattern;
use ironbus::{EventKey, KeyPattern};
use uuid::Uuid;
use zenoh::key_expr::{OwnedKeyExpr, keyexpr};

/// The pattern as a key expression, for a subscriber or a query.
///
/// ```
/// let pattern: ironbus::KeyPattern = "events/Todo/**".parse()?;
/// assert_eq!(ironbus_zenoh::keys::of_pattern(&pattern).as_str(), "events/Todo/**");
/// # Ok::<_, ironbus::key::InvalidPattern>(())
/// ```
#[must_use]
pub fn of_pattern(pattern: &KeyPattern) -> OwnedKeyExpr {
    OwnedKeyExpr::try_from(pattern.as_str()).expect("a pattern is a canonical key expression")
}

/// The key as a key expression without a wildcard, for a put or a reply.
#[must_use]
pub fn of_event(key: &EventKey) -> OwnedKeyExpr {
    OwnedKeyExpr::try_from(key.as_str()).expect("an event key is a canonical key expression")
}

/// The same without taking the text over: for a put, once for every event.
pub(crate) fn borrowed(key: &EventKey) -> &keyexpr {
    keyexpr::new(key.as_str()).expect("an event key is a canonical key expression")
}

/// The events that a key expression of somebody else's asks for.
///
/// # Errors
///
/// [`InvalidPattern`] when it can match no event, with the reason.
pub fn pattern_of(expression: &keyexpr) -> Result<KeyPattern, InvalidPattern> {
    expression.as_str().parse()
}

/// Every event of every log: what a node's one subscriber listens to.
#[must_use]
pub fn all_events() -> OwnedKeyExpr {
    of_pattern(&KeyPattern::everything())
}

/// The heartbeat of a store; of any store, where none is given.
#[must_use]
pub fn heartbeat(store_id: Option<StoreId>) -> OwnedKeyExpr {
    let store = store_id.map_or("*".to_owned(), |store_id| store_id.0.to_string());
    own(format!("ironbus/{store}/heartbeat"))
}

/// The report of one edge node; of any, where none is given.
#[must_use]
pub fn report(store_id: StoreId, instance: Option<Uuid>) -> OwnedKeyExpr {
    let instance = instance.map_or("*".to_owned(), |instance| instance.to_string());
    own(format!("ironbus/{}/node/{instance}", store_id.0))
}

/// What a store node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Appends a batch.
    Append,
    /// Reads the whole log.
    Read,
    /// Reads one aggregate.
    Load,
    /// Tells where the log ends.
    Head,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Append, Self::Read, Self::Load, Self::Head];

    fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Read => "read",
            Self::Load => "load",
            Self::Head => "head",
        }
    }
}

/// The key of a service of the store node in an epoch.
#[must_use]
pub fn service(store_id: StoreId, epoch: Epoch, service: Service) -> OwnedKeyExpr {
    own(format!("ironbus/{}/{}/{}", store_id.0, epoch.0, service.name()))
}

/// The key at which one of several nodes that write to a shared log appends for the others.
#[must_use]
pub fn writer(store_id: StoreId, writer: Uuid) -> OwnedKeyExpr {
    own(format!("ironbus/{}/writer/{writer}", store_id.0))
}

fn own(key: String) -> OwnedKeyExpr {
    OwnedKeyExpr::try_from(key).expect("made of identifiers and numbers, so it is canonical")
}
