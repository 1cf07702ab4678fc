//! Followers: tasks that tell a closure what an event invalidates.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll, select_all};
use tokio::task::JoinHandle;

use super::live::{Gap, Live, News, PAUSE};
use crate::event::StoredEvent;
use crate::key::EventFilter;
use crate::store::EventStore;

/// A task that follows a log for as long as this is held; dropping it ends the task.
#[derive(Debug)]
pub struct Follower {
    name: &'static str,
    task: JoinHandle<()>,
}

impl Follower {
    pub(super) fn spawn(name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { name, task: tokio::spawn(task) }
    }

    /// What it was called when it was started.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the task has ended, which it does by itself only when the store is closed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends the task. When this returns its closure isn't running and won't be called again.
    ///
    /// # Panics
    ///
    /// With the closure's own panic, if that is what ended the task.
    pub async fn shutdown(mut self) {
        self.task.abort();
        if let Err(error) = (&mut self.task).await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What has to be forgotten.
#[derive(Clone, Debug, PartialEq)]
pub enum Invalidated {
    /// What depends on this event.
    By(Arc<StoredEvent>),
    /// Everything: something may have been missed, or the log has lost events or is another one, or it is
    /// closed and no more will be told.
    Everything,
}

/// Calls `tell` for every event from now on that one of the filters lets pass: once, however many filters
/// that are. Where one filter alone is concerned the events come in order.
///
/// After a reset, or where the log can't be read, `tell` is called with [`Invalidated::Everything`], rather
/// too often than too rarely, and then with what comes after it. It is called so for a last time when the
/// store closes. It must not block.
///
/// # Panics
///
/// Outside of a Tokio runtime.
pub fn on_invalidation(
    name: &'static str,
    store: Arc<dyn EventStore>,
    filters: impl IntoIterator<Item = impl Into<EventFilter>>,
    tell: impl FnMut(Invalidated) + Send + 'static,
) -> Follower {
    let filters: Vec<EventFilter> = filters.into_iter().map(Into::into).collect();
    // Subscribed before this returns: what is appended afterwards is told.
    let events = Events::subscribe(&*store, &filters);
    Follower::spawn(name, follow(name, store, filters, events, tell))
}

async fn follow(
    name: &'static str,
    store: Arc<dyn EventStore>,
    filters: Vec<EventFilter>,
    mut events: Events,
    mut tell: impl FnMut(Invalidated),
) {
    let mut heard = false;
    while let Some((which, next)) = events.0.next().await {
        match next {
            // An event that several filters let pass comes from each of them; the first one's is told.
            Ok(News::Event(event)) if filters[..which].iter().any(|filter| filter.matches(&event)) => {}
            Ok(News::Event(event)) => {
                heard = true;
                tell(Invalidated::By(event));
            }
            Ok(News::CaughtUp(_)) => heard = true,
            Err(gap) => {
                tracing::warn!(follower = name, %gap, "something was missed: everything is invalid");
                // Subscribed before everything is forgotten: what comes in between is told twice, never
                // zero times.
                events = Events::subscribe(&*store, &filters);
                tell(Invalidated::Everything);
                if !std::mem::take(&mut heard) {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        // A subscription that has much to say never waits, and others want their turn.
        tokio::task::coop::consume_budget().await;
    }
    tell(Invalidated::Everything);
}

/// A live subscription for each filter; what they tell comes with the filter's number.
struct Events(SelectAll<BoxStream<'static, (usize, Result<News, Gap>)>>);

impl Events {
    fn subscribe(store: &dyn EventStore, filters: &[EventFilter]) -> Self {
        Self(select_all(filters.iter().enumerate().map(|(which, filter)| {
            Live::subscribe(store, filter.clone()).map(move |next| (which, next)).boxed()
        })))
    }
}
