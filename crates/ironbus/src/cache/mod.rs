//! Caches that the log keeps true: an event invalidates what depends on it, once, on every node.
//!
//! A cache is a follower of the catch-up [`Subscription`](crate::subscription::Subscription), so it misses
//! no event and sees each in order, whatever the bus does. Each of its entries says on which events it
//! depends, by filters such as `events/Todo/**` or `events/Todo/uuid-123/**`.
//!
//! - [`on_invalidation`] calls a closure; enough for whoever only wants to drop things.
//! - `CachedViews` (with the feature `moka`) is a bounded cache of computed values.
//! - [`Dependencies`] has its rules, for a cache of one's own.
//!
//! Invariants:
//! - a value that is older than an invalidation which its cache has processed is never served, and never put
//!   in, whichever of the two comes first;
//! - a hole, a reset, or the end of following invalidates everything rather than nothing;
//! - the cost of an event grows with the entries that it invalidates, not with all of them.
//!
//! What a cache serves may be as old as its follower is behind the log. Who must see an own append waits for
//! its position first (`CachedViews::wait_for`).
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::{Arc, Mutex};
//!
//! use ironbus::cache::{Invalidated, on_invalidation};
//! use ironbus::{EventStore, KeyPattern, SqliteEventStore, SqliteOptions};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("ironbus.db");
//! let store = SqliteEventStore::open(SqliteOptions::new(path)).await?;
//! let titles: Arc<Mutex<HashMap<String, String>>> = Arc::default();
//!
//! let cached = Arc::clone(&titles);
//! let todos: KeyPattern = "events/Todo/**".parse()?;
//! let follower = on_invalidation("titles", Arc::new(store.clone()), [todos], move |invalidated| {
//!     let mut cached = cached.lock().expect("nobody panics with it");
//!     match invalidated {
//!         Invalidated::By(event) => drop(cached.remove(event.aggregate.aggregate_id())),
//!         Invalidated::Everything => cached.clear(),
//!     }
//! });
//! # follower.shutdown().await;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

mod dependencies;
#[cfg(feature = "moka")]
mod flights;
mod follower;
mod live;
#[cfg(feature = "moka")]
mod views;

pub use dependencies::{Dependencies, Dependent, Refused, Stale};
pub use follower::{Follower, Invalidated, on_invalidation};
#[cfg(feature = "moka")]
pub use views::{CachedViews, View};
