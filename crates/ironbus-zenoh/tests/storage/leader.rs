//! One node appends for another that is late behind it, and nothing rests on that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use ironbus::event::{Epoch, Position};
use ironbus::store::{Append, AppendError, Appended, EventStore, Log, OtherWriters};
use ironbus_testkit::check::{check_acknowledged, check_log};
use ironbus_testkit::{numbered, read_all, within};
use ironbus_zenoh::storage::memory::Asked;
use ironbus_zenoh::storage::{MemoryLog, ZenohStorageEventStore};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::support::{Intercepted, any, dozing, exact, node, node_over, ok};

/// What becomes of an append on its way to the leader and back.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Arrives,
    LostOnTheWay,
    AnswerLost,
}

/// Reaches one leader, and loses what it is told to; then all arrives.
struct Way {
    leader: ZenohStorageEventStore,
    fates: Mutex<VecDeque<Fate>>,
    asked: AtomicUsize,
}

impl Way {
    fn to(leader: &ZenohStorageEventStore, fates: impl IntoIterator<Item = Fate>) -> Arc<Self> {
        let fates = Mutex::new(fates.into_iter().collect());
        Arc::new(Self { leader: leader.clone(), fates, asked: AtomicUsize::new(0) })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl OtherWriters for Way {
    async fn append_at(&self, writer: Uuid, append: &Append) -> Option<Result<Appended, AppendError>> {
        assert_eq!(Some(writer), Log::writer(&self.leader), "it was quicker");
        self.asked.fetch_add(1, Ordering::SeqCst);
        let fate = self.fates.lock().pop_front().unwrap_or(Fate::Arrives);
        if matches!(fate, Fate::LostOnTheWay) {
            return None;
        }
        let answer = self.leader.append_here(append.clone()).await;
        matches!(fate, Fate::Arrives).then_some(answer)
    }
}

/// A leader, and a node that comes to be late behind it with its next append.
struct Two {
    log: Arc<MemoryLog>,
    leader: ZenohStorageEventStore,
    late: ZenohStorageEventStore,
    way: Arc<Way>,
    /// How often the late one put something into a slot.
    puts: Arc<AtomicUsize>,
}

impl Two {
    async fn with(fates: impl IntoIterator<Item = Fate>) -> Self {
        let log = Arc::new(MemoryLog::default());
        let leader = node(&log).await;
        let puts = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&puts);
        let seen = Intercepted::new(&log, move |asked| {
            counting.fetch_add(usize::from(matches!(asked, Asked::Put(_))), Ordering::SeqCst);
            async {}
        });
        let late = node_over(seen, dozing()).await;
        let way = Way::to(&leader, fates);
        Log::reach_others_by(&late, Arc::clone(&way) as _);
        ok(&leader, any([numbered(1)])).await;
        Self { log, leader, late, way, puts }
    }

    fn puts(&self) -> usize {
        self.puts.load(Ordering::SeqCst)
    }
}

// The clock stands still: a lease ends when a test says so.
#[tokio::test(start_paused = true)]
async fn a_node_that_was_late_has_the_leader_append_and_races_it_no_longer() {
    let two = Two::with([]).await;
    let mut acknowledged = Vec::new();
    for n in 2..=50 {
        acknowledged.push(within("an answer", two.late.append(any([numbered(n)]))).await.expect("appended"));
        assert!(
            two.late.tail().head() >= acknowledged[acknowledged.len() - 1].head,
            "it is read where it was made"
        );
    }
    assert_eq!((two.puts(), two.way.asked()), (1, 49), "it was late once, and then sent all");
    let log = read_all(&two.leader).await.expect("readable");
    check_log(&log).expect("contiguous");
    check_acknowledged(acknowledged.iter().flat_map(|appended| &appended.events), &log)
        .expect("all is there");
    assert_eq!(log.len(), 50);
    // A leader of which nothing has been heard for a while is none.
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
    ok(&two.late, any([numbered(51)])).await;
    assert_eq!((two.puts(), two.way.asked()), (2, 49));
}

#[tokio::test(start_paused = true)]
async fn what_the_leader_does_not_answer_is_appended_here_once_and_it_is_not_asked_again_for_a_while() {
    for fate in [Fate::LostOnTheWay, Fate::AnswerLost] {
        let two = Two::with([fate]).await;
        let appended = ok(&two.late, any([numbered(2)])).await;
        assert_eq!(appended.head, Position(2), "{fate:?}");
        assert_eq!(ok(&two.leader, any([numbered(2)])).await, appended, "{fate:?}: a retry anywhere");
        ok(&two.leader, any([numbered(3)])).await;
        ok(&two.late, any([numbered(4)])).await;
        assert_eq!(two.way.asked(), 1, "{fate:?}");
        assert_eq!(two.late.catch_up().await.expect("readable"), Position(4), "{fate:?}: each once");
    }
}

#[tokio::test(start_paused = true)]
async fn the_leader_s_refusal_is_the_answer() {
    let two = Two::with([]).await;
    ok(&two.late, any([numbered(2)])).await;
    let refused = two.late.append(exact(1, numbered(3))).await;
    assert!(matches!(refused, Err(AppendError::Conflict { .. })), "{refused:?}");
    assert_eq!((two.puts(), two.way.asked()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn what_may_yet_be_appended_by_the_leader_is_unknown_also_where_it_is_refused_here() {
    let two = Two::with([Fate::Arrives, Fate::LostOnTheWay]).await;
    ok(&two.late, any([numbered(2)])).await;
    // Two versions ahead: on its way to the leader it may arrive when that is so.
    let unknown = two.late.append(exact(4, numbered(3))).await;
    assert!(matches!(unknown, Err(AppendError::Unknown(_))), "{unknown:?}");
    let refused = two.late.append(exact(4, numbered(3))).await;
    assert!(
        matches!(refused, Err(AppendError::Conflict { .. })),
        "nobody else was asked this time: {refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_accepts_nothing_more_decides_nothing() {
    let two = Two::with([]).await;
    ok(&two.late, any([numbered(2)])).await;
    two.leader.close().await;
    ok(&two.late, any([numbered(3)])).await;
    assert_eq!(two.way.asked(), 2);
    two.late.seal_epoch(Epoch(1), "it went elsewhere").await.expect("sealed");
    let refused = two.late.append(any([numbered(4)])).await;
    assert!(matches!(&refused, Err(AppendError::Superseded { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn two_that_take_each_other_for_the_leader_send_nothing_in_a_circle() {
    let two = Two::with([]).await;
    ok(&two.late, any([numbered(2)])).await;
    let back = Way::to(&two.late, []);
    Log::reach_others_by(&two.leader, Arc::clone(&back) as _);
    // The leader comes to be late itself.
    let here = two.late.append_here(any([numbered(3)])).await.expect("appended");
    ok(&two.leader, any([numbered(4)])).await;
    assert_eq!((here.head, back.asked()), (Position(3), 1));
    ok(&two.late, any([numbered(5)])).await;
    assert_eq!((two.way.asked(), back.asked()), (2, 1));
    let fresh = node(&two.log).await;
    check_log(&read_all(&fresh).await.expect("readable")).expect("contiguous");
    assert_eq!(fresh.head().await.expect("readable").position, Position(5));
}
