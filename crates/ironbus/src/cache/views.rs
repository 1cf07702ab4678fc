//! A bounded cache of computed values, on moka.
//!
//! The rules are those of [`Dependencies`]; here is what they need: a lock around them, a task that follows
//! the log, and moka for the values.
//!
//! Invariants:
//! - moka is never called under the lock, because its eviction listener takes it;
//! - so the lock and moka may disagree for a moment, and the mark of a value decides: it is looked at before
//!   the value is served, and again after it was put in, so that what became stale in between doesn't stay.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use futures_util::StreamExt;
use moka::ops::compute::Op;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::flights::{Flights, Turn};
use super::live::{Gap, Live, News, PAUSE};
use super::{Dependencies, Dependent, Follower, Refused, Stale};
use crate::event::{Cursor, Epoch, Position, StoredEvent};
use crate::key::EventFilter;
use crate::store::{EventStore, ReadError};

/// A value with what a cache must know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct View<V> {
    /// The value.
    pub value: V,
    /// Up to where the log (or what was built of it) was in it, at the least.
    pub computed_at: Cursor,
    /// The events that change it.
    pub depends_on: Vec<EventFilter>,
}

impl<V> View<V> {
    /// A value, which isn't kept before it is said what it depends on.
    #[must_use]
    pub fn new(value: V, computed_at: Cursor) -> Self {
        Self { value, computed_at, depends_on: Vec::new() }
    }

    /// The same value, which the events change that this filter lets pass. A filter of a session's events
    /// needs the entitlement to them, else the value isn't kept.
    #[must_use]
    pub fn depends_on(mut self, filter: impl Into<EventFilter>) -> Self {
        self.depends_on.push(filter.into());
        self
    }
}

/// A bounded cache of values that are computed from a log, kept true by following it. A handle: cheap to
/// clone, and its task ends with the last one.
///
/// It holds at most so many values; moka chooses which leave when there are more. While the log can't be
/// followed nothing is kept and every value is computed anew.
///
/// Who may see a value is for the application to decide: a value made of a session's events belongs under a
/// key of its own for each session.
///
/// ```
/// use std::sync::Arc;
///
/// use ironbus::cache::{CachedViews, View};
/// use ironbus::store::ReadError;
/// use ironbus::{Aggregate, EventStore, KeyPattern, Sequence, SqliteEventStore, SqliteOptions};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("ironbus.db");
/// let store = SqliteEventStore::open(SqliteOptions::new(path)).await?;
/// let versions = CachedViews::new("versions", Arc::new(store.clone()), 10_000);
///
/// let todo = Aggregate::new("Todo", "uuid-123")?;
/// let version = versions
///     .get_or_compute(&todo, async |at| {
///         let page = store.load(&todo, Sequence::START, 1).await?;
///         Ok::<_, ReadError>(View::new(page.version, at).depends_on(KeyPattern::aggregate(&todo)))
///     })
///     .await?;
/// assert_eq!(version, Sequence::START);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct CachedViews<K, V>(Arc<Inner<K, V>>)
where
    K: Hash + Eq;

struct Inner<K: Hash + Eq, V> {
    kept: Kept<K, V>,
    flights: Flights<K>,
    seen: watch::Receiver<Option<Position>>,
    follower: Follower,
}

/// The values and what they depend on, shared with the task.
#[derive(Clone)]
struct Kept<K, V> {
    dependencies: Arc<Mutex<Dependencies<K>>>,
    values: moka::sync::Cache<K, Held<K, V>>,
}

#[derive(Clone)]
struct Held<K, V> {
    value: V,
    dependent: Dependent<K>,
}

impl<K, V> CachedViews<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// A cache of at most so many values, which follows `store` in a task called `name`.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn new(name: &'static str, store: Arc<dyn EventStore>, capacity: u64) -> Self {
        let dependencies = Arc::new(Mutex::new(Dependencies::new()));
        let values = moka::sync::Cache::builder().name(name).max_capacity(capacity).eviction_listener({
            let dependencies = Arc::clone(&dependencies);
            move |_, held: Held<K, V>, _| dependencies.lock().remove(&held.dependent)
        });
        let kept = Kept { dependencies, values: values.build() };
        let (tell, seen) = watch::channel(None);
        let follower = Follower::spawn(name, follow(name, store, kept.clone(), tell));
        Self(Arc::new(Inner { kept, flights: Flights::default(), seen, follower }))
    }

    /// The value under `key`, if it is kept and current.
    #[must_use]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let held = self.0.kept.values.get(key)?;
        held.dependent.is_current().then_some(held.value)
    }

    /// Keeps a value, unless it is stale already or that can't be known. It may be computed from ahead of what
    /// the cache has seen; the events that it includes then don't invalidate it when they come.
    ///
    /// # Errors
    ///
    /// [`Refused`] with the reason; whatever was kept under the key before stays as it is.
    pub fn put(&self, key: K, view: View<V>) -> Result<(), Refused> {
        let View { value, computed_at, depends_on } = view;
        let kept = &self.0.kept;
        let dependent = kept.dependencies.lock().admit(key.clone(), depends_on, computed_at)?;
        kept.values.insert(key, Held { value, dependent: dependent.clone() });
        // An invalidation may have come before the value was there to be removed.
        if !dependent.is_current() {
            kept.remove_if_stale(dependent.key());
        }
        Ok(())
    }

    /// The value under `key`; computed where it isn't kept, and kept then if it may be.
    ///
    /// `compute` is given a position that everything it reads from the log includes: a view of what it reads
    /// there is computed at it. A view of what was built from the log (a projection's table, say) is computed
    /// at the position that this had reached when it was read.
    ///
    /// Of several who ask for a value at the same time one computes it, and the others wait. When the
    /// value then can't be kept, each of them computes its own.
    ///
    /// # Errors
    ///
    /// What `compute` says.
    pub async fn get_or_compute<Q, F, C, E>(&self, key: &Q, compute: F) -> Result<V, E>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce(Cursor) -> C,
        C: Future<Output = Result<View<V>, E>>,
    {
        let flight = loop {
            if let Some(value) = self.get(key) {
                return Ok(value);
            }
            match self.0.flights.turn(key) {
                Turn::Ours(flight) => break Some(flight),
                Turn::Theirs(mut computed) => {
                    let given_up = computed.changed().await.is_err();
                    if !given_up && self.get(key).is_none() {
                        break None;
                    }
                }
            }
        };
        // Whoever had the turn before may have put it in between our look and our turn.
        if let Some(value) = flight.as_ref().and_then(|_| self.get(key)) {
            return Ok(value);
        }
        let at = self.seen().unwrap_or(Cursor { epoch: Epoch(0), position: Position::START });
        let computed = compute(at).await;
        let value = computed.map(|view| {
            let value = view.value.clone();
            if let Err(refused) = self.put(key.to_owned(), view) {
                tracing::debug!(cache = self.0.follower.name(), %refused, "a computed value isn't kept");
            }
            value
        });
        if let Some(flight) = flight {
            flight.land();
        }
        value
    }

    /// Up to where events have invalidated what depends on them; `None` while the log isn't followed.
    #[must_use]
    pub fn seen(&self) -> Option<Cursor> {
        self.0.kept.dependencies.lock().seen()
    }

    /// Waits until every event up to `position` has invalidated what depends on it. Who appends, waits for
    /// the append's position and then gets a value, sees the own append in it.
    ///
    /// It returns as well when the store is closed: then nothing is kept any more.
    pub async fn wait_for(&self, position: Position) {
        let mut seen = self.0.seen.clone();
        // An error says that the task has ended.
        let _ = seen.wait_for(|seen| seen.is_some_and(|seen| seen >= position)).await;
    }

    /// How many values are kept.
    #[must_use]
    pub fn values(&self) -> u64 {
        self.0.kept.values.run_pending_tasks();
        self.0.kept.values.entry_count()
    }

    /// How many dependencies the kept values have in all.
    #[must_use]
    pub fn dependencies(&self) -> usize {
        self.0.kept.values.run_pending_tasks();
        self.0.kept.dependencies.lock().len()
    }
}

impl<K, V> Kept<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn apply(&self, event: &StoredEvent) {
        let stale = self.dependencies.lock().apply(event);
        match stale {
            Stale::Values(dependents) => {
                dependents.iter().for_each(|dependent| self.remove_if_stale(dependent.key()));
            }
            Stale::Everything => self.values.invalidate_all(),
        }
    }

    /// Removes what is stored under a key, but not a current value that has come in its place.
    fn remove_if_stale(&self, key: &K) {
        self.values.entry_by_ref(key).and_compute_with(|found| match found {
            Some(entry) if !entry.value().dependent.is_current() => Op::Remove,
            _ => Op::Nop,
        });
    }

    fn lose(&self) {
        self.dependencies.lock().lose();
        self.values.invalidate_all();
    }
}

/// What the task holds: however it ends, nothing is served that nothing would invalidate.
struct Followed<K, V>(Kept<K, V>)
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static;

impl<K, V> Drop for Followed<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        self.0.lose();
    }
}

/// Applies every event of the log until the store closes. After a gap forgets everything, and begins anew
/// with what is live.
async fn follow<K, V>(
    name: &'static str,
    store: Arc<dyn EventStore>,
    kept: Kept<K, V>,
    seen: watch::Sender<Option<Position>>,
) where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let followed = Followed(kept);
    let kept = &followed.0;
    loop {
        // Subscribed before the epoch is read: if the log goes back in between, that is told.
        let mut events = Live::subscribe(&*store, EventFilter::everything());
        let gap = match store.head().await {
            Ok(head) => apply_until_gap(&mut events, head.lineage.epoch(), kept, &seen).await,
            Err(error) => Some(error.into()),
        };
        let heard = seen.send_replace(None).is_some();
        kept.lose();
        match gap {
            None | Some(Gap::Unreadable(ReadError::Closed)) => return,
            Some(gap) => tracing::warn!(cache = name, %gap, "something was missed: everything is invalid"),
        }
        if !heard {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Applies events until there is a gap; `None` when the store is closed.
async fn apply_until_gap<K, V>(
    events: &mut Live,
    epoch: Epoch,
    kept: &Kept<K, V>,
    seen: &watch::Sender<Option<Position>>,
) -> Option<Gap>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let mut following = false;
    loop {
        let news = match events.next().await? {
            Ok(news) => news,
            Err(gap) => return Some(gap),
        };
        if !std::mem::replace(&mut following, true) {
            let position = match &news {
                News::CaughtUp(position) => *position,
                News::Event(event) => Position(event.position.0 - 1),
            };
            kept.dependencies.lock().follow(Cursor { epoch, position });
            seen.send_replace(Some(position));
        }
        if let News::Event(event) = news {
            kept.apply(&event);
            seen.send_replace(Some(event.position));
        }
        // A subscription that has much to say never waits, and others want their turn.
        tokio::task::coop::consume_budget().await;
    }
}

impl<K: Hash + Eq, V> Clone for CachedViews<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq, V> std::fmt::Debug for CachedViews<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedViews")
            .field("follower", &self.0.follower)
            .field("seen", &self.0.seen.borrow())
            .finish_non_exhaustive()
    }
}
