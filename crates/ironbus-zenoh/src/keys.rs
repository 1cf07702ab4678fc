//! Event keys and patterns as Zenoh key expressions.
//!
//! Invariant: the text stays the same. A key or pattern of ironbus is canonical in Zenoh's sense, and
//! Zenoh matches them as ironbus does.

use ironbus::key::InvalidPattern;
use ironbus::{EventKey, KeyPattern};
use zenoh_keyexpr::{OwnedKeyExpr, keyexpr};

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

/// The events that a key expression of somebody else's asks for.
///
/// # Errors
///
/// [`InvalidPattern`] when it can match no event, with the reason.
pub fn pattern_of(expression: &keyexpr) -> Result<KeyPattern, InvalidPattern> {
    expression.as_str().parse()
}
