//! Subscriptions under random appends, patterns, lags and reconnects: every matching event exactly once,
//! in order.
//!
//! Once stepped: one thread, a store whose commits, publications and slow reads the test chooses, and
//! readers that are polled only when they were woken, so that a lost wake-up is found as well. And once
//! at large, on SQLite with many threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::Stream;
use futures_util::future::join_all;
use ironbus::event::{Cursor, Epoch, Position, SessionId, StoredEvent};
use ironbus::key::{Entitlement, EventFilter};
use ironbus::store::{Append, EventStore, ExpectedVersion, SqliteEventStore, SqliteOptions};
use ironbus::subscription::{Delivery, Start, Subscription};
use ironbus_testkit::check::{check_log, check_subscription};
use ironbus_testkit::stepped::SteppedStore;
use ironbus_testkit::temp::TempStore;
use ironbus_testkit::{aggregate, numbered, read_all, within};
use proptest::prelude::*;

const PATTERNS: [&str; 9] = [
    "events/**",
    "events/A/**",
    "events/$*/@1/**",
    "events/A/%401/**",
    "events/B/2/**",
    "events/session/s/**",
    "events/*/2/*",
    "**/1",
    "events/$*/0/**",
];

fn filter() -> impl Strategy<Value = EventFilter> {
    let entitlement = prop_oneof![
        Just(Entitlement::Public),
        Just(Entitlement::session(SessionId::new("s").expect("valid"))),
        Just(Entitlement::Everything),
    ];
    let patterns =
        prop::sample::select(&PATTERNS[..]).prop_filter_map("a valid pattern", |text| text.parse().ok());
    (patterns, entitlement).prop_map(|(pattern, of)| EventFilter::public(pattern).entitled(of))
}

/// An append without its events' numbers: per event the aggregate and whether it is for the session.
type Shape = Vec<(usize, bool)>;

fn shape() -> impl Strategy<Value = Shape> {
    let event = (0..6_usize, prop::bool::weighted(0.2));
    prop_oneof![
        4 => prop::collection::vec(event.clone(), 1..4),
        1 => prop::collection::vec(event.clone(), 4..60),
        // More of one kind in one batch than a slot notes one by one.
        1 => (event, 30..80_usize).prop_map(|(event, times)| vec![event; times]),
    ]
}

fn to_append(shape: &Shape, next: &mut u64) -> Append {
    let of = [("A", "0"), ("A", "@1"), ("A", "2"), ("B", "0"), ("B", "1"), ("B", "2")];
    shape.iter().fold(Append::default(), |append, (to, scoped)| {
        *next += 1;
        let event = numbered(*next);
        let event = if *scoped { event.for_session(SessionId::new("s").expect("valid")) } else { event };
        let (kind, id) = of[*to];
        append.and(aggregate(kind, id), ExpectedVersion::Any, vec![event])
    })
}

/// Where a reader begins: a share of the log (in parts of 256), or live.
#[derive(Clone, Copy, Debug)]
enum From {
    Beginning,
    Live,
    After(u8),
    Resume(u8),
    Beyond,
}

fn from() -> impl Strategy<Value = From> {
    prop_oneof![
        Just(From::Beginning),
        Just(From::Live),
        any::<u8>().prop_map(From::After),
        any::<u8>().prop_map(From::Resume),
        Just(From::Beyond),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    /// Commit; the tail isn't told yet.
    Commit(Shape),
    /// Tell the tail of what was committed.
    Publish,
    /// A further reader, which also asks for what else can be said, or not.
    Subscribe(EventFilter, From, bool),
    /// Poll one reader so often, as long as it has been woken.
    Poll(prop::sample::Index, usize),
    /// Drop one reader and resume from its cursor.
    Reconnect(prop::sample::Index),
    /// Reads yield so often before and after they look, and pages are so short.
    SlowReads(usize, usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => shape().prop_map(Step::Commit),
        4 => Just(Step::Publish),
        2 => (filter(), from(), any::<bool>()).prop_map(|(filter, from, all)| Step::Subscribe(filter, from, all)),
        12 => (any::<prop::sample::Index>(), 1..40_usize).prop_map(|(who, times)| Step::Poll(who, times)),
        2 => any::<prop::sample::Index>().prop_map(Step::Reconnect),
        1 => (0..4_usize, 0..4_usize, 1..20_usize).prop_map(|(b, a, page)| Step::SlowReads(b, a, page)),
    ]
}

/// Remembers that it was woken.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One reader and all that it was given.
struct Reader {
    filter: EventFilter,
    subscription: Subscription,
    /// Everything after this position is due.
    after: Position,
    got: Vec<Arc<StoredEvent>>,
    woken: Arc<Woken>,
    told: Position,
}

impl Reader {
    fn new(store: &dyn EventStore, filter: EventFilter, start: Start, after: Position, all: bool) -> Self {
        let subscription = store.subscribe(filter.clone(), start);
        let subscription = if all { subscription.with_caught_up() } else { subscription };
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        Self { filter, subscription, after, got: Vec::new(), woken, told: Position::START }
    }

    /// Polls once if it was woken; says whether anything came.
    fn poll(&mut self) -> Result<bool, TestCaseError> {
        if !self.woken.0.swap(false, Ordering::SeqCst) {
            return Ok(false);
        }
        let waker = Waker::from(Arc::clone(&self.woken));
        let before = self.subscription.cursor();
        let polled = std::pin::Pin::new(&mut self.subscription).poll_next(&mut Context::from_waker(&waker));
        let Poll::Ready(delivery) = polled else {
            prop_assert!(self.subscription.cursor() >= before, "a cursor never goes back");
            return Ok(false);
        };
        self.woken.0.store(true, Ordering::SeqCst);
        match delivery.expect("the store stays open").expect("the log can be read") {
            Delivery::Event(event) => {
                prop_assert!(event.position > self.told, "nothing comes at or before what was told");
                prop_assert!(self.subscription.cursor() >= event.position);
                self.got.push(event);
            }
            Delivery::CaughtUp(position) | Delivery::Watermark(position) => {
                prop_assert!(position >= self.told);
                self.told = position;
                let last = self.got.last().map_or(Position::START, |event| event.position);
                prop_assert!(position >= last);
            }
            Delivery::Reset(_) => {
                prop_assert!(self.got.is_empty(), "a reset comes before anything else");
                self.after = Position::START;
            }
        }
        Ok(true)
    }

    fn check(&self, through: Position, log: &[Arc<StoredEvent>]) -> Result<(), TestCaseError> {
        let checked = check_subscription(&self.filter, self.after, through, &self.got, log);
        prop_assert_eq!(checked, Ok(()), "{:?} after {}", self.filter, self.after);
        Ok(())
    }

    /// A position up to which all has been delivered is one that a reader may resume from.
    fn reconnect(&mut self, store: &dyn EventStore) {
        let position = self.subscription.cursor();
        let start = Start::Resume(Cursor { epoch: Epoch(1), position });
        self.subscription = store.subscribe(self.filter.clone(), start);
        self.woken.0.store(true, Ordering::SeqCst);
    }
}

fn subscribe(store: &dyn EventStore, head: Position, filter: &EventFilter, from: From, all: bool) -> Reader {
    let share = |share: u8| Position(head.0 * u64::from(share) / 255);
    let cursor = |position| Start::Resume(Cursor { epoch: Epoch(1), position });
    let (start, after) = match from {
        From::Beginning => (Start::Beginning, Position::START),
        From::Live => (Start::Live, head),
        From::After(part) => (Start::After(share(part)), share(part)),
        From::Resume(part) => (cursor(share(part)), share(part)),
        // Beyond whatever the log will hold, so that it is certain to be reset.
        From::Beyond => (cursor(Position(1_000_000)), Position(1_000_000)),
    };
    Reader::new(store, filter.clone(), start, after, all)
}

fn step_through(ring: usize, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let store = SteppedStore::new(ring);
    let mut readers: Vec<Reader> = Vec::new();
    let mut next = 0;
    for step in steps {
        let count = readers.len();
        match step {
            Step::Commit(shape) => store.commit(&to_append(&shape, &mut next)),
            Step::Publish => store.publish(),
            Step::Subscribe(filter, from, all) => {
                readers.push(subscribe(&store, store.tail().head(), &filter, from, all));
            }
            Step::Poll(who, times) if count > 0 => {
                let reader = &mut readers[who.index(count)];
                for _ in 0..times {
                    reader.poll()?;
                }
                // What a reader's cursor has passed has been delivered, at every moment.
                reader.check(reader.subscription.cursor(), &store.events())?;
            }
            Step::Reconnect(who) if count > 0 => {
                let reader = &mut readers[who.index(count)];
                // A reset that wasn't said yet would be lost with the subscription that was to say it.
                if reader.after.0 < 1_000_000 {
                    reader.reconnect(&store);
                }
            }
            Step::Poll(..) | Step::Reconnect(_) => {}
            Step::SlowReads(before, after, page) => store.slow_reads(before, after, page),
        }
    }
    store.publish();
    let log = store.events();
    prop_assert_eq!(check_log(&log), Ok(()));
    for reader in &mut readers {
        // Only while it is woken: whoever waits in vain here has been forgotten.
        while reader.woken.0.load(Ordering::SeqCst) {
            reader.poll()?;
        }
        reader.check(Position(log.len() as u64), &log)?;
        // What didn't match woke nobody, so a cursor passes it only when its reader looks again.
        reader.woken.0.store(true, Ordering::SeqCst);
        while reader.poll()? {}
        prop_assert_eq!(reader.subscription.cursor(), Position(log.len() as u64));
        reader.check(Position(log.len() as u64), &log)?;
    }
    let registered = store.tail().subscriptions();
    prop_assert_eq!(registered, readers.len());
    drop(readers);
    prop_assert_eq!(store.tail().subscriptions(), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn stepped_readers_get_every_match_once_in_order(
        ring in 1..40_usize,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        step_through(ring, steps)?;
    }
}

/// What one reader at large does: start, poll so often, reconnect, again and again.
#[derive(Clone, Debug)]
struct Plan {
    filter: EventFilter,
    from: From,
    polls: Vec<usize>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let from = prop_oneof![Just(From::Beginning), Just(From::Live), any::<u8>().prop_map(From::Resume)];
    (filter(), from, prop::collection::vec(0..60_usize, 0..8)).prop_map(|(filter, from, polls)| Plan {
        filter,
        from,
        polls,
    })
}

/// Follows `plan`, then reads on to `end`; says where it began, what it got, and up to where.
async fn follow(
    store: Arc<dyn EventStore>,
    plan: Plan,
    mut end: tokio::sync::watch::Receiver<Option<Position>>,
) -> (Position, Vec<Arc<StoredEvent>>, EventFilter) {
    let head = store.head().await.expect("the head can be read").position;
    let reader = subscribe(&*store, head, &plan.filter, plan.from, true);
    // Between the look at the head and the subscription more may have come: live begins behind that.
    let after = if matches!(plan.from, From::Live) { reader.subscription.cursor() } else { reader.after };
    let (mut subscription, mut got) = (reader.subscription, Vec::new());
    for polls in plan.polls {
        for _ in 0..polls {
            // It doesn't wait for what may never come: a reader of little would stop here for good.
            let mut next = Box::pin(subscription.next());
            match futures_util::poll!(&mut next) {
                Poll::Ready(Some(Ok(Delivery::Event(event)))) => got.push(event),
                Poll::Ready(Some(Ok(Delivery::CaughtUp(_)))) => {}
                Poll::Ready(other) => panic!("{other:?}"),
                Poll::Pending => tokio::task::yield_now().await,
            }
        }
        let position = subscription.cursor();
        subscription = store
            .subscribe(plan.filter.clone(), Start::Resume(Cursor { epoch: Epoch(1), position }))
            .with_caught_up();
    }
    // The end is told once the last append is acknowledged.
    let last = loop {
        tokio::select! {
            changed = end.changed() => {
                changed.expect("the end is told before the teller goes");
                if let Some(last) = *end.borrow_and_update() {
                    break last;
                }
            }
            delivery = subscription.next() => match delivery {
                Some(Ok(Delivery::Event(event))) => got.push(event),
                Some(Ok(Delivery::CaughtUp(_))) => {}
                other => panic!("{other:?}"),
            },
        }
    };
    // Nothing wakes a reader for whom nothing matches: that it waits at the end is the end.
    let drain = std::future::poll_fn(|context| {
        loop {
            match std::pin::Pin::new(&mut subscription).poll_next(context) {
                Poll::Ready(Some(Ok(Delivery::Event(event)))) => got.push(event),
                Poll::Ready(Some(Ok(Delivery::CaughtUp(_)))) => {}
                Poll::Ready(other) => panic!("{other:?}"),
                Poll::Pending if subscription.cursor() >= last => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    drain.await;
    (after, got, plan.filter)
}

async fn at_large(ring: usize, plans: Vec<Plan>, shapes: Vec<Shape>) -> Result<(), TestCaseError> {
    let temp = TempStore::new().with_ring(ring);
    let store: Arc<dyn EventStore> = Arc::new(temp.open().await);
    let (tell, end) = tokio::sync::watch::channel(None);
    let half = plans.len() / 2;
    let start = |plan: &Plan| tokio::spawn(follow(Arc::clone(&store), plan.clone(), end.clone()));
    let mut readers: Vec<_> = plans[..half].iter().map(start).collect();
    let mut next = 0;
    let appends: Vec<_> = shapes.iter().map(|shape| to_append(shape, &mut next)).collect();
    for (index, group) in appends.chunks(4).enumerate() {
        if index == appends.len() / 8 {
            readers.extend(plans[half..].iter().map(start));
        }
        // Four at a time, so that there are groups of several appends.
        for appended in join_all(group.iter().cloned().map(|append| store.append(append))).await {
            appended.expect("nothing is in the way");
        }
    }
    let log = read_all(&*store).await.expect("the log can be read");
    prop_assert_eq!(check_log(&log), Ok(()));
    let head = Position(log.len() as u64);
    tell.send(Some(head)).expect("the readers listen");
    for reader in readers {
        let (after, got, filter) = reader.await.expect("no reader panics");
        prop_assert_eq!(
            check_subscription(&filter, after, head, &got, &log),
            Ok(()),
            "{:?} after {}",
            filter,
            after
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn many_readers_of_a_real_log_get_every_match_once_in_order(
        ring in 1..9_usize,
        plans in prop::collection::vec(plan(), 2..24),
        shapes in prop::collection::vec(shape(), 8..48),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build();
        let runtime = runtime.expect("a runtime can be built");
        runtime.block_on(within("readers at large", at_large(ring, plans, shapes)))?;
    }
}

/// A commit is in the file before its tail hears of it: here up to a twentieth of a second, because another
/// handle writes.
#[tokio::test]
async fn a_reader_may_resume_after_whatever_it_has_read_also_before_the_tail_has_it() {
    let temp = TempStore::new();
    let writer = temp.open().await;
    let store = SqliteEventStore::open_read_only(SqliteOptions::new(temp.path())).await.expect("it is there");
    let mut ahead = 0;
    for n in 1..=20 {
        let append = Append::to(aggregate("A", "0"), ExpectedVersion::Any, vec![numbered(n)]);
        writer.append(append).await.expect("nothing is in the way");
        let page = store.read(Position::START, &EventFilter::everything(), 1000).await.expect("readable");
        assert_eq!(page.through, Position(n));
        ahead += u64::from(store.tail().head() < page.through);
        let resumed = Start::Resume(Cursor { epoch: Epoch(1), position: page.through });
        for start in [resumed, Start::After(page.through)] {
            let mut events = store.subscribe(EventFilter::everything(), start).with_caught_up();
            let next = within("what comes first", events.next()).await;
            let first = next.expect("the store is open").expect("readable");
            assert_eq!(first, Delivery::CaughtUp(page.through));
        }
    }
    assert!(ahead > 0, "no reader was ahead of the tail, so nothing was tested");
}

/// Live readers that ask only when much has been noted for them: in one run, in runs apart, and in more runs than a
/// slot keeps.
#[tokio::test]
async fn a_live_reader_that_comes_late_gets_all_that_was_noted() {
    const EVENTS: u64 = 3000;
    let store = SteppedStore::new(usize::try_from(EVENTS).expect("small"));
    let patterns = ["events/**", "events/A/0/**", "events/B/**", "events/A/1/**"];
    let mut readers = Vec::new();
    for pattern in patterns {
        let filter = EventFilter::public(pattern.parse().expect("a pattern"));
        let mut events = store.subscribe(filter.clone(), Start::Live).with_caught_up();
        let first = within("caught up", events.next()).await.expect("open").expect("readable");
        assert_eq!(first, Delivery::CaughtUp(Position::START));
        readers.push((filter, events));
    }
    for n in 1..=EVENTS {
        // 0 to 2,000: every second one is of A 0; then long stretches of B with one of A 1 between them.
        let to = match (n, n % 2, n % 100) {
            (..=2000, 0, _) => aggregate("A", "0"),
            (2001.., _, 0) => aggregate("A", "1"),
            _ => aggregate("B", "0"),
        };
        store.commit(&Append::to(to, ExpectedVersion::Any, vec![numbered(n)]));
    }
    store.publish();
    for (filter, mut events) in readers {
        let expected: Vec<_> = store.events().into_iter().filter(|event| filter.matches(event)).collect();
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            let next = within("an event", events.next_event()).await.expect("open").expect("readable");
            seen.push(next);
        }
        assert_eq!(seen, expected, "{:?}", filter.pattern);
        assert_eq!(events.reads_of_log(), 0, "the ring had them all");
    }
}

/// Where the page after the next one begins is guessed while everything matches; where no longer everything does, the
/// guess is wrong.
#[tokio::test]
async fn pages_that_were_read_ahead_from_a_wrong_place_are_not_taken() {
    const EVENTS: u64 = 12_000;
    let store = SteppedStore::new(1);
    for n in 1..=EVENTS {
        // Stretches where all match, where every second one does, and where few do.
        let matches = match n / 2000 % 3 {
            0 => true,
            1 => n.is_multiple_of(2),
            _ => n.is_multiple_of(700),
        };
        let to = if matches { aggregate("A", "0") } else { aggregate("B", "0") };
        store.commit(&Append::to(to, ExpectedVersion::Any, vec![numbered(n)]));
    }
    store.publish();
    let filter = EventFilter::public("events/A/**".parse().expect("a pattern"));
    let mut events = store.subscribe(filter.clone(), Start::Beginning);
    let expected: Vec<_> = store.events().into_iter().filter(|event| filter.matches(event)).collect();
    for expected in &expected {
        let next = within("an event", events.next_event()).await.expect("open").expect("readable");
        assert_eq!(next, *expected);
    }
    assert!(events.reads_of_log() > expected.len() as u64 / 512, "they came from the log, page by page");
}

/// A page may end before it holds as much as was asked for, where events are large.
#[tokio::test]
async fn a_page_after_one_that_was_cut_short_is_not_the_one_that_was_read_ahead() {
    const EVENTS: u64 = 5000;
    let store = SteppedStore::new(1);
    for n in 1..=EVENTS {
        store.commit(&Append::to(aggregate("A", "0"), ExpectedVersion::Any, vec![numbered(n)]));
    }
    store.publish();
    let mut events = store.subscribe(EventFilter::everything(), Start::Beginning);
    for (expected, position) in store.events().into_iter().zip(1..) {
        let next = within("an event", events.next_event()).await.expect("open").expect("readable");
        assert_eq!(next, expected);
        // Before the next pages are asked for, and after.
        match position {
            200 => store.slow_reads(0, 0, 100),
            700 => store.slow_reads(0, 0, usize::MAX),
            _ => {}
        }
    }
}
