//! A subscription whose events are the application's own.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use super::{DecodeError, DomainEvent, TypedEvent, decode};
use crate::event::{InvalidName, Position};
use crate::key::{EventFilter, KeyPattern};
use crate::store::{EventStore, ReadError, ResetReason};
use crate::subscription::{Delivery, Start, Subscription};

/// A [`Subscription`] whose events are read as `E`. A [`Stream`].
///
/// An event that can't be read ends it: the error is yielded once, then `None`, and
/// [`Self::cursor`] stays before that event. So nobody passes over it by mistake.
#[derive(Debug)]
pub struct TypedSubscription<E> {
    inner: Subscription,
    failed_at: Option<Position>,
    events: PhantomData<fn() -> E>,
}

/// What a [`TypedSubscription`] yields.
#[derive(Clone, Debug)]
pub enum TypedDelivery<E> {
    /// A matching event.
    Event(TypedEvent<E>),
    /// See [`Delivery::CaughtUp`].
    CaughtUp(Position),
    /// See [`Delivery::Watermark`].
    Watermark(Position),
    /// See [`Delivery::Reset`].
    Reset(ResetReason),
}

/// Why a typed subscription can't go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypedReadError {
    /// The log can't be read; the next poll tries again.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// An event can't be read as the application's type; the subscription has ended before it.
    #[error(transparent)]
    Event(#[from] DecodeError),
}

impl<E: DomainEvent> TypedSubscription<E> {
    /// Every event of the kind of aggregate that `E` is of, without those of a session scope.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] when [`DomainEvent::AGGREGATE_TYPE`] isn't a name that an aggregate may have.
    pub fn of_all(store: &dyn EventStore, start: Start) -> Result<Self, InvalidName> {
        let pattern = KeyPattern::aggregate_type(E::AGGREGATE_TYPE)?;
        Ok(Self::new(store.subscribe(EventFilter::public(pattern), start)))
    }

    /// The events of a subscription, which must match nothing but events of `E`'s kind of aggregate.
    #[must_use]
    pub fn new(inner: Subscription) -> Self {
        Self { inner, failed_at: None, events: PhantomData }
    }

    /// The same subscription, which also yields [`TypedDelivery::CaughtUp`].
    #[must_use]
    pub fn with_caught_up(self) -> Self {
        Self { inner: self.inner.with_caught_up(), ..self }
    }

    /// The same subscription, which also yields [`TypedDelivery::Watermark`]; see
    /// [`Subscription::with_watermarks`].
    #[must_use]
    pub fn with_watermarks(self, every: Duration) -> Self {
        Self { inner: self.inner.with_watermarks(every), ..self }
    }

    /// The position up to which everything has been yielded and could be read.
    #[must_use]
    pub fn cursor(&self) -> Position {
        self.failed_at.map_or_else(|| self.inner.cursor(), |position| Position(position.0 - 1))
    }

    /// The next delivery; `None` when the store is closed, or after an event that can't be read.
    ///
    /// # Errors
    ///
    /// [`TypedReadError`] when the log can't be read, or an event can't be read as `E`.
    pub async fn next(&mut self) -> Option<Result<TypedDelivery<E>, TypedReadError>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// The next event, passing over everything else. Whoever keeps a state uses [`Self::next`],
    /// because a [`TypedDelivery::Reset`] says to forget it.
    ///
    /// # Errors
    ///
    /// [`TypedReadError`] when the log can't be read, or an event can't be read as `E`.
    pub async fn next_event(&mut self) -> Option<Result<TypedEvent<E>, TypedReadError>> {
        loop {
            match self.next().await? {
                Ok(TypedDelivery::Event(event)) => return Some(Ok(event)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl<E: DomainEvent> Stream for TypedSubscription<E> {
    type Item = Result<TypedDelivery<E>, TypedReadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.failed_at.is_some() {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(Pin::new(&mut this.inner).poll_next(context));
        Poll::Ready(next.map(|delivery| {
            Ok(match delivery? {
                Delivery::Event(stored) => {
                    let event = decode(&stored).inspect_err(|_| this.failed_at = Some(stored.position))?;
                    TypedDelivery::Event(TypedEvent { event, stored: Arc::clone(&stored) })
                }
                Delivery::CaughtUp(position) => TypedDelivery::CaughtUp(position),
                Delivery::Watermark(position) => TypedDelivery::Watermark(position),
                Delivery::Reset(reason) => TypedDelivery::Reset(reason),
            })
        }))
    }
}
