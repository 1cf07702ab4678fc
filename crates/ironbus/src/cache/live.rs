//! A live subscription for whoever keeps values: beside events it tells when what is kept may be wrong.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use crate::event::{Position, StoredEvent};
use crate::key::EventFilter;
use crate::store::{EventStore, ReadError, ResetReason};
use crate::subscription::{Delivery, Start, Subscription};

/// Every matching event from now on, until there is a [`Gap`]; ends when the store closes.
pub(super) struct Live {
    events: Subscription,
    rewinds: usize,
}

/// What is told of the log. The first news say where it begins.
pub(super) enum News {
    /// Everything up to this position was told.
    #[cfg_attr(not(feature = "moka"), expect(dead_code, reason = "closures don't ask where they are"))]
    CaughtUp(Position),
    /// The next event that matches.
    Event(Arc<StoredEvent>),
}

/// Why everything that is kept may be wrong. Subscribe anew, then forget it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Gap {
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    #[error(transparent)]
    Reset(#[from] ResetReason),
    /// What was lost may be in a value, although it wasn't told of here: whoever computed it may have been
    /// ahead.
    #[error("the log has lost its last events")]
    Rewound,
}

/// How long to wait before the next try after a gap, if there was no news since the last one.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

impl Live {
    pub(super) fn subscribe(store: &dyn EventStore, filter: EventFilter) -> Self {
        let events = store.subscribe(filter, Start::Live).with_caught_up();
        Self { rewinds: events.rewinds(), events }
    }
}

impl Stream for Live {
    type Item = Result<News, Gap>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.events).poll_next(context);
        if this.events.rewinds() != this.rewinds {
            return Poll::Ready(Some(Err(Gap::Rewound)));
        }
        polled.map(|next| {
            next.map(|delivery| match delivery? {
                Delivery::Event(event) => Ok(News::Event(event)),
                Delivery::CaughtUp(position) | Delivery::Watermark(position) => Ok(News::CaughtUp(position)),
                Delivery::Reset(reason) => Err(reason.into()),
            })
        })
    }
}
