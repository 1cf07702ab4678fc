//! The catch-up subscription: every matching event after a cursor, exactly once, in order.
//!
//! Its whole state is a cursor and a filter. It registers with the tail before it reads the log, so that
//! what is committed in between is noted for it; then it reads the log page by page until the ring
//! reaches back to its cursor, goes over to the ring, and from there lives on what the tail notes. When it
//! is too slow for the ring it reads the log again; once half of a page has been gone through, the next ones are fetched,
//! two at a time where everything matches lately. So it holds at most two and a half pages of the log in memory and slows
//! nobody.
//!
//! Invariant: `cursor` never goes back (but by a reset, which is told), every matching event at or before
//! `cursor` has been delivered (or stands in `ready`), and none after it has.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use crate::event::{Cursor, Epoch, Position, StoredEvent};
use crate::key::EventFilter;
use crate::store::{EventStore, Page, ReadError, ResetReason};
use crate::tail::{Looked, Registered, Rewound, Run, Runs, Slot, Tail, Waiting};

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first event of the log.
    Beginning,
    /// With the first event that is committed from now on. On a node that hasn't found its log yet: with the
    /// first one after where the log ends when the node finds it.
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
    /// a reset, and after the subscription had fallen behind so far that it had to read the log. Only when
    /// asked for.
    CaughtUp(Position),
    /// Everything up to this position has been looked at, although nothing matched lately; a checkpoint
    /// may advance. Only when asked for.
    Watermark(Position),
    /// The cursor isn't of this log's history: forget what was built from it. Everything follows from
    /// the beginning. Always said.
    Reset(ResetReason),
}

impl Delivery {
    /// The event, if it is one.
    #[must_use]
    pub fn into_event(self) -> Option<Arc<StoredEvent>> {
        match self {
            Self::Event(event) => Some(event),
            _ => None,
        }
    }
}

/// Events that match a filter, from a start on, without end. A [`Stream`].
///
/// It ends (`None`) when the store is closed. An error of the log is yielded, and the next poll tries
/// again from the same cursor.
pub struct Subscription {
    store: Arc<dyn EventStore>,
    tail: Arc<Tail>,
    slot: Arc<Slot>,
    cursor: Position,
    /// The epoch that the cursor is of.
    epoch: Epoch,
    /// The rewinds of the tail that this subscription has taken note of.
    rewinds: usize,
    mode: Mode,
    /// Only while the log is read.
    ahead: Option<Box<ReadAhead>>,
    ready: VecDeque<Arc<StoredEvent>>,
    /// What the tail noted and isn't in `ready` yet, and from where on to look at the ring after that.
    runs: Runs,
    look_from: Option<Position>,
    caught_up: Option<CaughtUp>,
    watermarks: Option<Box<Watermarks>>,
    reads_of_log: u64,
}

enum Mode {
    /// Waits until the tail has found its log: nothing can be said of it before.
    Finding(Start),
    /// Asks the store whether the cursor, which is of this epoch, may be resumed.
    Resuming(Epoch, Option<Reading<ResumeCheck>>),
    /// Reads the log from the cursor.
    Log(Option<Ahead>),
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

/// What is read of the log before it is needed.
#[derive(Default)]
struct ReadAhead {
    /// The pages after the one that is being gone through, in order. Where the second begins is a guess.
    pages: Vec<Ahead>,
    /// How many of them are worth reading, at most [`AHEAD`].
    worth: usize,
}

/// A page that is read, and after which position.
struct Ahead {
    after: Position,
    page: Reading<Page>,
}

struct Watermarks {
    every: Duration,
    told: Position,
    timer: Pin<Box<Sleep>>,
}

/// How many events of the log one page holds.
const PAGE: usize = 512;

/// How many pages are read ahead, each on a connection of its own.
const AHEAD: usize = 2;

/// For how many events a subscription that waits keeps room.
const KEPT: usize = 16;

/// How many events of the ring are looked at before others get their turn.
const LOOK: usize = 512;

/// The cursor and the mode that a start means in a log that ends at `head`.
fn begin(start: Start, head: Cursor) -> (Position, Mode) {
    match start {
        Start::Beginning => (Position::START, Mode::Ring),
        Start::Live => (head.position, Mode::Live),
        Start::After(position) if position <= head.position => (position, Mode::Ring),
        Start::After(position) => (position, Mode::Resuming(head.epoch, None)),
        Start::Resume(cursor) => (cursor.position, Mode::Resuming(cursor.epoch, None)),
    }
}

impl Subscription {
    /// A subscription over a store and the tail that follows the same log.
    #[must_use]
    pub fn new(store: Arc<dyn EventStore>, tail: Arc<Tail>, filter: EventFilter, start: Start) -> Self {
        let Registered { slot, found, head, rewinds } = tail.register(filter);
        let (cursor, mode) = begin(start, head);
        let mode = if found { mode } else { Mode::Finding(start) };
        Self {
            store,
            tail,
            slot,
            cursor,
            epoch: head.epoch,
            rewinds,
            mode,
            ahead: None,
            ready: VecDeque::new(),
            runs: Runs::new(),
            look_from: None,
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
        self.watermarks = Some(Box::new(Watermarks { every, told: self.cursor, timer }));
        self
    }

    /// The position up to which everything has been yielded.
    #[must_use]
    pub fn cursor(&self) -> Position {
        self.ready.front().map_or(self.cursor, |next| Position(next.position.0 - 1))
    }

    /// The epoch of the log that what was yielded last, and the cursor, are of. The log may have gone over to
    /// a later one since. 0 while the node hasn't found its log.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How many pages of the log were read so far; it stays the same while the ring is enough.
    #[must_use]
    pub fn reads_of_log(&self) -> u64 {
        self.reads_of_log
    }

    /// How often the log was rewound so far, whether or not that took back what was yielded.
    pub(crate) fn rewinds(&self) -> usize {
        self.rewinds
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

    /// The next deliveries: waits for the first, and takes at most `most` of those that are ready with
    /// it; `None` when the store is closed.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when the log can't be read; the next call tries again from the same cursor.
    pub async fn next_batch(&mut self, most: usize) -> Option<Result<Vec<Delivery>, ReadError>> {
        let mut batch = match self.next().await? {
            Ok(first) => vec![first],
            Err(error) => return Some(Err(error)),
        };
        let ready = std::future::poll_fn(|context| {
            while batch.len() < most {
                match self.poll(context) {
                    Poll::Ready(Some(Ok(delivery))) => batch.push(delivery),
                    // Nothing is lost: an error is met anew at the next call, and an end stays one.
                    Poll::Ready(Some(Err(_)) | None) | Poll::Pending => break,
                }
            }
            Poll::Ready(())
        });
        ready.await;
        Some(Ok(batch))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Delivery, ReadError>>> {
        // What is looked at from here on may already be of a later epoch, without this having noticed.
        let told = self.cursor();
        loop {
            if self.rewinds != self.tail.rewinds()
                && let Some(reset) = self.rewind(told)
            {
                return Poll::Ready(Some(Ok(reset)));
            }
            if let Some(event) = self.ready.pop_front() {
                self.read_ahead();
                if let Some(watermarks) = &mut self.watermarks {
                    watermarks.told = event.position;
                }
                return Poll::Ready(Some(Ok(Delivery::Event(event))));
            }
            let step = match self.mode {
                Mode::Finding(start) => self.poll_found(start, context),
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

    fn poll_found(&mut self, start: Start, context: &mut Context<'_>) -> Step {
        let Some(began) = self.tail.began() else {
            return match self.slot.take(context.waker()) {
                Waiting::Nothing => Step::Wait,
                Waiting::Closed => {
                    self.mode = Mode::Ended;
                    Step::Again
                }
                Waiting::Rewound | Waiting::Events { .. } => Step::Again,
            };
        };
        (self.cursor, self.mode) = begin(start, began);
        self.epoch = began.epoch;
        Step::Again
    }

    fn poll_resume(&mut self, context: &mut Context<'_>) -> Step {
        let Mode::Resuming(epoch, asking) = &mut self.mode else { return Step::Again };
        let (epoch, position) = (*epoch, self.cursor);
        let reading = asking.get_or_insert_with(|| {
            let store = Arc::clone(&self.store);
            on_its_own(async move {
                let head = store.head().await?;
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
                self.begin_anew();
                Step::Yield(Ok(Delivery::Reset(reason)))
            }
        }
    }

    fn poll_log(&mut self, context: &mut Context<'_>) -> Step {
        let Mode::Log(page) = &mut self.mode else { return Step::Again };
        let cursor = self.cursor;
        let reading = page.get_or_insert_with(|| {
            let ahead = self.ahead.as_mut().and_then(|ahead| ahead.take(cursor));
            ahead.unwrap_or_else(|| Ahead::begin(&self.store, self.slot.filter(), cursor))
        });
        match reading.page.as_mut().poll(context) {
            Poll::Pending => Step::Wait,
            Poll::Ready(Err(error)) => {
                *page = None;
                self.failed(error)
            }
            // The tail has more, so to ask again would be to ask without end.
            Poll::Ready(Ok(page)) if page.through <= self.cursor => {
                self.mode = Mode::Ring;
                let reason = format!("it ends at {}, and more has been told of it", page.head);
                Step::Yield(Err(ReadError::Unavailable { reason }))
            }
            Poll::Ready(Ok(page)) => {
                self.reads_of_log += 1;
                self.cursor = page.through;
                self.ahead.get_or_insert_default().worth = Ahead::worth(&page, cursor);
                self.ready.extend(page.events);
                self.mode = Mode::Ring;
                Step::Again
            }
        }
    }

    /// Begins to read the next pages once half of this one has been gone through: a reader that doesn't go on needs none.
    fn read_ahead(&mut self) {
        let Some(ahead) = &mut self.ahead else { return };
        if self.ready.len() != PAGE / 2 {
            return;
        }
        if ahead.pages.first().is_some_and(|first| first.after != self.cursor) {
            ahead.pages.clear();
        }
        for number in ahead.pages.len()..ahead.worth {
            let after = Position(self.cursor.0 + (number * PAGE) as u64);
            ahead.pages.push(Ahead::begin(&self.store, self.slot.filter(), after));
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

    /// The log went over to a later epoch: forgets what was read ahead and wasn't kept. Where the reader
    /// knows that its cursor has been beyond that (`told`), begins anew.
    fn rewind(&mut self, told: Position) -> Option<Delivery> {
        // Where it begins comes first; and an end stays one.
        if matches!(self.mode, Mode::Finding(_) | Mode::Ended) {
            return None;
        }
        let Rewound { rewinds, epoch, kept, now } = self.tail.rewound_since(self.rewinds);
        (self.rewinds, self.epoch) = (rewinds, now);
        self.forget_noted();
        self.ahead = None;
        if let Mode::Resuming(_, asking) = &mut self.mode {
            // The answer may be on its way from the epoch that has ended: the new one is asked.
            *asking = None;
            return None;
        }
        self.mode = Mode::Ring;
        if told <= kept {
            self.ready.retain(|event| event.position <= kept);
            self.cursor = self.cursor.min(kept);
            return None;
        }
        self.ready.clear();
        self.begin_anew();
        Some(Delivery::Reset(ResetReason::BeyondEnd { epoch, position: told, end: kept }))
    }

    fn begin_anew(&mut self) {
        self.cursor = Position::START;
        self.mode = Mode::Ring;
        self.catch_up_again();
        if let Some(watermarks) = &mut self.watermarks {
            watermarks.told = Position::START;
        }
    }

    fn look_at_ring(&mut self) -> Step {
        let ready = &mut self.ready;
        match self.tail.look(self.cursor, LOOK, self.slot.filter(), |event| ready.push_back(event)) {
            Looked::Gone => self.fall_back_to_log(),
            Looked::Through(through) => {
                self.ahead = None;
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
        self.forget_noted();
        self.catch_up_again();
    }

    fn forget_noted(&mut self) {
        self.runs.clear();
        self.look_from = None;
    }

    fn catch_up_again(&mut self) {
        if let Some(caught_up) = &mut self.caught_up {
            *caught_up = CaughtUp::ToSay;
        }
    }

    fn poll_live(&mut self, context: &mut Context<'_>) -> Step {
        while let Some(run) = self.runs.first() {
            let (first, last) = (run.first.max(self.cursor.next()), run.last);
            if first > last {
                self.runs.remove(0);
                continue;
            }
            let room = (LOOK - self.ready.len()) as u64;
            let some = Run { first, last: last.min(Position(first.0 + room - 1)) };
            if !self.tail.collect(some, &mut self.ready) {
                self.fall_back_to_log();
                return Step::Again;
            }
            // Between the cursor and a run nothing matches: the tail notes every match in order.
            self.cursor = some.last;
            if self.ready.len() >= LOOK {
                break;
            }
        }
        if !self.ready.is_empty() {
            return Step::Again;
        }
        if let Some(from) = self.look_from.take() {
            // More waits than was noted run by run: all runs come before it, and nothing between them matches.
            self.cursor = self.cursor.max(Position(from.0 - 1));
            self.mode = Mode::Ring;
            return Step::Again;
        }
        // The head is read before the slot: what the slot doesn't know by then doesn't match.
        let head = self.tail.head();
        match self.slot.take(context.waker()) {
            Waiting::Events { runs, look_from } => {
                (self.runs, self.look_from) = (runs, look_from);
                Step::Again
            }
            // Seen when the next round compares the rewinds.
            Waiting::Rewound => Step::Again,
            Waiting::Closed => {
                self.mode = Mode::Ended;
                Step::Again
            }
            Waiting::Nothing => {
                self.cursor = self.cursor.max(head);
                if self.ready.capacity() > KEPT {
                    self.ready = VecDeque::new();
                }
                self.idle(context)
            }
        }
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

impl ReadAhead {
    /// The page after `after`, where that is what was read next; where not, all of it is of no use.
    fn take(&mut self, after: Position) -> Option<Ahead> {
        if self.pages.first()?.after == after {
            return Some(self.pages.remove(0));
        }
        self.pages.clear();
        None
    }
}

impl Ahead {
    /// How many pages to read ahead of the ones after this one, which began after `after`.
    fn worth(page: &Page, after: Position) -> usize {
        if page.events.len() < PAGE {
            return 0;
        }
        let whole = (page.head.0.saturating_sub(page.through.0) / PAGE as u64).min(AHEAD as u64) as usize;
        // Where the page after the next one begins is known only if all matches.
        if page.through.0 - after.0 == PAGE as u64 { whole } else { whole.min(1) }
    }

    fn begin(store: &Arc<dyn EventStore>, filter: &EventFilter, after: Position) -> Self {
        let (store, filter) = (Arc::clone(store), filter.clone());
        let page = on_its_own(async move { store.read(after, &filter, PAGE).await });
        Self { after, page }
    }
}

/// Lets a reading go on although nobody polls it: a reader that is stopped half-way would keep what others need for
/// theirs, a connection to the file, say. Without a runtime it is polled like any other.
fn on_its_own<T: Send + 'static>(
    reading: impl Future<Output = Result<T, ReadError>> + Send + 'static,
) -> Reading<T> {
    match Handle::try_current() {
        Ok(runtime) => Box::pin(OnItsOwn(runtime.spawn(reading))),
        Err(_) => Box::pin(reading),
    }
}

/// A reading in a task of its own, which ends when nobody waits for it any more.
struct OnItsOwn<T>(JoinHandle<Result<T, ReadError>>);

impl<T> Future for OnItsOwn<T> {
    type Output = Result<T, ReadError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let done = Pin::new(&mut self.0).poll(context);
        done.map(|done| done.unwrap_or_else(|error| Err(ReadError::Storage(error.into()))))
    }
}

impl<T> Drop for OnItsOwn<T> {
    fn drop(&mut self) {
        self.0.abort();
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
            .field("pattern", &self.slot.filter().pattern)
            .field("cursor", &self.cursor())
            .finish_non_exhaustive()
    }
}
