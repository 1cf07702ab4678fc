//! What every peer does.

use async_trait::async_trait;

/// What goes wrong ends the benchmark, in words.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How many events are stored at once where the log is filled.
pub const ROUND: u64 = 5000;

/// A store that runs.
#[async_trait]
pub trait Peer: Send + Sync {
    /// What an acknowledged append survives, and what is checked, in a few words.
    fn survives(&self) -> &'static str;

    /// Appends one event to an aggregate of which the client knows that it has `version` events, the last of which got
    /// the place `after`. Gives the place of this one.
    async fn append(
        &self,
        client: usize,
        aggregate: &str,
        version: u64,
        after: u64,
        payload: &str,
    ) -> Result<u64, Failure>;

    /// Stores [`ROUND`] events, ten to each aggregate; the first of these has the number `first` for its name.
    async fn fill(&self, first: u64, payload: &str) -> Result<(), Failure>;

    /// Loads an aggregate; gives how many events it has.
    async fn load(&self, aggregate: &str) -> Result<u64, Failure>;

    /// Reads that many events, or all, in the order of the log; gives how many came.
    async fn replay(&self, count: u64) -> Result<u64, Failure>;
}
