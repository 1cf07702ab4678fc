//! The catch-up subscription: every matching event after a cursor, exactly once, in order.
//!
//! Its whole state is a cursor and a filter. It registers with the tail before it reads the log, so that
//! what is committed in between is noted for it; then it reads the log page by page until the ring
//! reaches back to its cursor, goes over to the ring, and from there lives on what the tail notes. When it
//! is too slow for the ring it reads the log again. So it holds at most one page of the log in memory and
//! slows nobody.
//!
//! Invariant: `cursor` never goes back, every matching event at or before `cursor` has been delivered
//! (or stands in `ready`), and none after it has.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::time::{Instant, Sleep};

use crate::event::{Cursor, Epoch, Position, StoredEvent};
use crate::key::EventFilter;
use crate::store::{EventStore, Page, ReadError, ResetReason};
use crate::tail::{Looked, Slot, Tail, Waiting};

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first event of the log.
    Beginning,
    /// With the first event that is committed from now on.
    Live,
    /// After a position of this log, as it is now. Beyond its head the subscription says
    /// [`Delivery::Reset`] and begins anew.
    After(Position),
    /// After a cursor that was kept earlier. If it isn't of this log's history the subscription says
    /// [`Delivery::Reset`] and begins anew.
    Resume(Cursor),
}

/// What a subscription yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    /// A matching event.
    Event(Arc<StoredEvent>),
    /// Everything up to this position has been delivered: from now on events are live. Said again after
    /// the subscription had fallen behind so far that it had to read the log. Only when asked for.
    CaughtUp(Position),
    /// Everything up to this position has been looked at, although nothing matched lately; a checkpoint
    /// may advance. Only when asked for.
    Watermark(Position),
    /// The cursor isn't of this log's history: forget what was built from it. Everything follows from
    /// the beginning. Always said.
    Reset(ResetReason),
}

/// Events that match a filter, from a start on, without end. A [`Stream`].
///
/// It ends (`None`) when the store is closed. An error of the log is yielded, and the next poll tries
/// again from the same cursor.
pub struct Subscription {
    store: Arc<dyn EventStore>,
    tail: Arc<Tail>,
    slot: Arc<Slot>,
    filter: EventFilter,
    cursor: Position,
    mode: Mode,
    ready: VecDeque<Arc<StoredEvent>>,
    hints: VecDeque<Position>,
    caught_up: Option<CaughtUp>,
    watermarks: Option<Watermarks>,
    reads_of_log: u64,
}

enum Mode {
    /// Asks the store whether the cursor may be resumed; without an epoch, that in force is meant.
    Resuming(Option<Epoch>, Option<Reading<ResumeCheck>>),
    /// Reads the log from the cursor.
    Log(Option<Reading<Page>>),
    /// Looks at every event of the ring after the cursor.
    Ring,
    /// Waits for what the tail notes.
    Live,
    Ended,
}

type ResumeCheck = Result<(), ResetReason>;
type Reading<T> = Pin<Box<dyn Future<Output = Result<T, ReadError>> + Send>>;

/// Whether the subscription is at the end; kept only when `CaughtUp` was asked for.
#[derive(PartialEq, Eq)]
enum CaughtUp {
    Said,
    ToSay,
}

struct Watermarks {
    every: Duration,
    told: Position,
    timer: Pin<Box<Sleep>>,
}

/// How many events of the log one page holds, and so how many wait in memory at the most.
const PAGE: usize = 256;

/// How many events of the ring are looked at before others get their turn.
const LOOK: usize = 512;

impl Subscription {
    /// A subscription over a store and the tail that follows the same log.
    #[must_use]
    pub fn new(store: Arc<dyn EventStore>, tail: Arc<Tail>, filter: EventFilter, start: Start) -> Self {
        let (slot, head) = tail.register(filter.clone());
        let (cursor, mode) = match start {
            Start::Live => (head, Mode::Live),
            Start::Beginning => (Position::START, Mode::Ring),
            Start::After(position) if position <= head => (position, Mode::Ring),
            Start::After(position) => (position, Mode::Resuming(None, None)),
            Start::Resume(cursor) => (cursor.position, Mode::Resuming(Some(cursor.epoch), None)),
        };
        Self {
            store,
            tail,
            slot,
            filter,
            cursor,
            mode,
            ready: VecDeque::new(),
            hints: VecDeque::new(),
            caught_up: None,
            watermarks: None,
            reads_of_log: 0,
        }
    }

    /// The same subscription, which also yields [`Delivery::CaughtUp`].
    #[must_use]
    pub fn with_caught_up(mut self) -> Self {
        self.caught_up = Some(CaughtUp::ToSay);
        self
    }

    /// The same subscription, which also yields [`Delivery::Watermark`], at most once in `every` and
    /// only when it has looked further than it last told.
    #[must_use]
    pub fn with_watermarks(mut self, every: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(every));
        self.watermarks = Some(Watermarks { every, told: self.cursor, timer });
        self
    }

    /// The position up to which everything has been yielded.
    #[must_use]
    pub fn cursor(&self) -> Position {
        self.ready.front().map_or(self.cursor, |next| Position(next.position.0 - 1))
    }

    /// How many pages of the log were read so far; it stays the same while the ring is enough.
    #[must_use]
    pub fn reads_of_log(&self) -> u64 {
        self.reads_of_log
    }

    /// The next delivery; `None` when the store is closed.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when the log can't be read; the next call tries again from the same cursor.
    pub async fn next(&mut self) -> Option<Result<Delivery, ReadError>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// The next event, passing over everything else; `None` when the store is closed.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when the log can't be read; the next call tries again from the same cursor.
    pub async fn next_event(&mut self) -> Option<Result<Arc<StoredEvent>, ReadError>> {
        loop {
            match self.next().await? {
                Ok(Delivery::Event(event)) => return Some(Ok(event)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Delivery, ReadError>>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if let Some(watermarks) = &mut self.watermarks {
                    watermarks.told = event.position;
                }
                return Poll::Ready(Some(Ok(Delivery::Event(event))));
            }
            let step = match self.mode {
                Mode::Resuming(..) => self.poll_resume(context),
                Mode::Log(_) => self.poll_log(context),
                Mode::Ring => self.look_at_ring(),
                Mode::Live => self.poll_live(context),
                Mode::Ended => return Poll::Ready(None),
            };
            match step {
                Step::Again => {}
                Step::Yield(delivery) => return Poll::Ready(Some(delivery)),
                Step::Wait => return Poll::Pending,
            }
        }
    }

    fn poll_resume(&mut self, context: &mut Context<'_>) -> Step {
        let Mode::Resuming(epoch, asking) = &mut self.mode else { return Step::Again };
        let (epoch, position) = (*epoch, self.cursor);
        let reading = asking.get_or_insert_with(|| {
            let store = Arc::clone(&self.store);
            Box::pin(async move {
                let head = store.head().await?;
                let epoch = epoch.unwrap_or_else(|| head.lineage.epoch());
                Ok(head.lineage.check(Cursor { epoch, position }, head.position))
            })
        });
        match reading.as_mut().poll(context) {
            Poll::Pending => Step::Wait,
            Poll::Ready(Err(error)) => {
                *asking = None;
                self.failed(error)
            }
            Poll::Ready(Ok(Ok(()))) => {
                self.mode = Mode::Ring;
                Step::Again
            }
            Poll::Ready(Ok(Err(reason))) => {
                self.cursor = Position::START;
                self.mode = Mode::Ring;
                if let Some(watermarks) = &mut self.watermarks {
                    watermarks.told = Position::START;
                }
                Step::Yield(Ok(Delivery::Reset(reason)))
            }
        }
    }

    fn poll_log(&mut self, context: &mut Context<'_>) -> Step {
        let Mode::Log(page) = &mut self.mode else { return Step::Again };
        let reads = &mut self.reads_of_log;
        let reading = page.get_or_insert_with(|| {
            *reads += 1;
            let (store, after, filter) = (Arc::clone(&self.store), self.cursor, self.filter.clone());
            Box::pin(async move { store.read(after, &filter, PAGE).await })
        });
        match reading.as_mut().poll(context) {
            Poll::Pending => Step::Wait,
            Poll::Ready(Err(error)) => {
                *page = None;
                self.failed(error)
            }
            Poll::Ready(Ok(page)) => {
                self.cursor = self.cursor.max(page.through);
                self.ready.extend(page.events);
                self.mode = Mode::Ring;
                Step::Again
            }
        }
    }

    /// Yields an error of the log; a closed store is no error but the end.
    fn failed(&mut self, error: ReadError) -> Step {
        if matches!(error, ReadError::Closed) {
            self.mode = Mode::Ended;
            return Step::Again;
        }
        Step::Yield(Err(error))
    }

    fn look_at_ring(&mut self) -> Step {
        let ready = &mut self.ready;
        match self.tail.look(self.cursor, LOOK, &self.filter, |event| ready.push_back(event)) {
            Looked::Gone => self.fall_back_to_log(),
            Looked::Through(through) => {
                if through == self.cursor {
                    self.mode = Mode::Live;
                }
                self.cursor = self.cursor.max(through);
            }
        }
        Step::Again
    }

    fn fall_back_to_log(&mut self) {
        self.mode = Mode::Log(None);
        self.hints.clear();
        if let Some(caught_up) = &mut self.caught_up {
            *caught_up = CaughtUp::ToSay;
        }
    }

    fn poll_live(&mut self, context: &mut Context<'_>) -> Step {
        while let Some(position) = self.hints.pop_front() {
            if position <= self.cursor {
                continue;
            }
            let Some(event) = self.tail.get(position) else {
                self.fall_back_to_log();
                return Step::Again;
            };
            // Between the cursor and a hint nothing matches: the tail notes every match in order.
            self.cursor = position;
            self.ready.push_back(event);
            if self.ready.len() >= LOOK {
                break;
            }
        }
        if !self.ready.is_empty() {
            return Step::Again;
        }
        // The head is read before the slot: what the slot doesn't know by then doesn't match.
        let head = self.tail.head();
        match self.slot.take(context.waker()) {
            Waiting::Events { hints, look_from } => {
                self.hints = hints;
                if let Some(from) = look_from {
                    // All hints come before it, and nothing between them matches.
                    self.take_hints_then_look(from);
                }
                Step::Again
            }
            Waiting::Closed => {
                self.mode = Mode::Ended;
                Step::Again
            }
            Waiting::Nothing => {
                self.cursor = self.cursor.max(head);
                self.idle(context)
            }
        }
    }

    /// More events wait than the slot noted one by one: after the noted ones, looks at the ring itself.
    fn take_hints_then_look(&mut self, from: Position) {
        while let Some(position) = self.hints.pop_front() {
            if position <= self.cursor {
                continue;
            }
            let Some(event) = self.tail.get(position) else {
                self.fall_back_to_log();
                return;
            };
            self.cursor = position;
            self.ready.push_back(event);
        }
        self.cursor = self.cursor.max(Position(from.0 - 1));
        self.mode = Mode::Ring;
    }

    /// Nothing waits: time to say where the subscription stands, if that was asked for.
    fn idle(&mut self, context: &mut Context<'_>) -> Step {
        if self.caught_up == Some(CaughtUp::ToSay) {
            self.caught_up = Some(CaughtUp::Said);
            return Step::Yield(Ok(Delivery::CaughtUp(self.cursor)));
        }
        if let Some(watermarks) = &mut self.watermarks {
            while watermarks.timer.as_mut().poll(context).is_ready() {
                watermarks.timer.as_mut().reset(Instant::now() + watermarks.every);
                if self.cursor > watermarks.told {
                    watermarks.told = self.cursor;
                    return Step::Yield(Ok(Delivery::Watermark(self.cursor)));
                }
            }
        }
        Step::Wait
    }
}

enum Step {
    Again,
    Yield(Result<Delivery, ReadError>),
    Wait,
}

impl Stream for Subscription {
    type Item = Result<Delivery, ReadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(context)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.tail.unregister(&self.slot);
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("pattern", &self.filter.pattern)
            .field("cursor", &self.cursor())
            .finish_non_exhaustive()
    }
}
