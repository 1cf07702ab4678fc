//! Upcasting: what was stored in an older shape is read in the current one.
//!
//! The log never changes; a chain of small steps, each from one version to the next, is applied on
//! reading. Invariant: there is no way around the chain. A version without a next step is an error.

use serde_json::Value;

/// What one step yields: the payload in its next shape, or why it can't be brought there.
pub type UpcastResult = Result<Value, Box<dyn std::error::Error + Send + Sync>>;

/// One step: takes a payload of one event type from one schema version to the next.
#[derive(Clone, Copy, Debug)]
pub struct Upcaster {
    event_type: &'static str,
    from: u32,
    apply: fn(Value) -> UpcastResult,
}

impl Upcaster {
    /// The step that takes a payload of `event_type` from version `from` to `from + 1`.
    #[must_use]
    pub const fn new(event_type: &'static str, from: u32, apply: fn(Value) -> UpcastResult) -> Self {
        Self { event_type, from, apply }
    }

    pub(super) fn apply(&self, payload: Value) -> UpcastResult {
        (self.apply)(payload)
    }
}

/// The version that a type's events have today.
pub(super) fn current_version(upcasters: &[Upcaster], event_type: &str) -> u32 {
    let steps = upcasters.iter().filter(|step| step.event_type == event_type);
    steps.map(|step| step.from + 1).max().unwrap_or(1)
}

/// The step from `version` to the next.
pub(super) fn step<'a>(upcasters: &'a [Upcaster], event_type: &str, version: u32) -> Option<&'a Upcaster> {
    upcasters.iter().find(|step| step.event_type == event_type && step.from == version)
}
