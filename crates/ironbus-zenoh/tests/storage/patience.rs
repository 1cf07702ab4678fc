//! Whoever asks is answered in time, whatever the log and the other nodes do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use ironbus::event::{Epoch, Position, Sequence};
use ironbus::store::{AppendError, EventStore, Journal, NewStep, Phase, ReadError};
use ironbus::{EventFilter, Json};
use ironbus_testkit::{numbered, within};
use ironbus_zenoh::storage::memory::{Asked, Fault};
use ironbus_zenoh::storage::{MemoryLog, Slot, StorageOptions};

use crate::support::{Intercepted, any, dozing, exact, node, node_over, ok};

#[tokio::test]
async fn a_node_that_others_are_always_ahead_of_says_so_and_nobody_behind_it_waits() {
    let log = Arc::new(MemoryLog::default());
    let busy = node(&log).await;
    let (others, ahead) = (AtomicU64::new(1000), Arc::new(AtomicBool::new(true)));
    // Ahead of each put of the late one the busy one appends.
    let rival = (busy.clone(), Arc::clone(&ahead));
    let seen = Intercepted::new(&log, move |asked| {
        let (busy, ahead) = rival.clone();
        let n = others.fetch_add(1, Ordering::Relaxed);
        async move {
            if matches!(asked, Asked::Put(_)) && ahead.load(Ordering::Relaxed) {
                ok(&busy, any([numbered(n)])).await;
            }
        }
    });
    let late = node_over(seen, dozing()).await;
    let late_append = within("the append is answered", late.append(any([numbered(1)]))).await;
    let refused = late_append.expect_err("somebody was always quicker");
    assert!(
        matches!(&refused, AppendError::Unavailable { reason } if reason.contains("quicker")),
        "{refused}"
    );
    let sealed = within("the seal is answered", late.seal_epoch(Epoch(1), "")).await;
    assert!(matches!(sealed, Err(AppendError::Unavailable { .. })), "{sealed:?}");
    let head = within("the head is told", late.head()).await.expect("it can be reached");
    assert!(head.position > Position(1), "many have come: {head:?}");
    ahead.store(false, Ordering::Relaxed);
    ok(&late, any([numbered(1)])).await;
    within("it closes", late.close()).await;
}

/// A node that is late by a page of slots doesn't try each of them.
#[tokio::test]
async fn a_node_that_was_late_reads_on_before_it_tries_again() {
    let log = Arc::new(MemoryLog::default());
    let (puts, counted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counting = Arc::clone(&puts);
    let seen = Intercepted::new(&log, move |asked| {
        if matches!(asked, Asked::Put(_)) {
            counting.fetch_add(1, Ordering::Relaxed);
        }
        async {}
    });
    let behind = node_over(seen, dozing()).await;
    let ahead = node(&log).await;
    for n in 1..=50 {
        ok(&ahead, any([numbered(n)])).await;
    }
    counted.store(puts.load(Ordering::Relaxed), Ordering::Relaxed);
    assert_eq!(ok(&behind, any([numbered(51)])).await.head, Position(51));
    assert_eq!(
        puts.load(Ordering::Relaxed) - counted.load(Ordering::Relaxed),
        2,
        "one that was late, one that wasn't"
    );
}

#[tokio::test]
async fn a_log_that_hangs_is_not_waited_for() {
    let log = Arc::new(MemoryLog::default());
    let hanging = Arc::new(AtomicBool::new(false));
    let hang = Arc::clone(&hanging);
    let seen = Intercepted::new(&log, move |_| {
        let hang = Arc::clone(&hang);
        async move {
            if hang.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        }
    });
    let store = node_over(seen, dozing()).await;
    ok(&store, any([numbered(1)])).await;
    hanging.store(true, Ordering::Relaxed);
    let unknown = within("the append is answered", store.append(any([numbered(2)]))).await;
    assert!(matches!(unknown, Err(AppendError::Unknown(_))), "{unknown:?}");
    // A refusal would have to be seen to be true.
    let away = within("the refusal is answered", store.append(exact(7, numbered(3)))).await;
    assert!(matches!(away, Err(AppendError::Unavailable { .. })), "{away:?}");
    let away = within("the head is answered", store.head()).await;
    assert!(matches!(away, Err(ReadError::Unavailable { .. })), "{away:?}");
    let everything = EventFilter::everything();
    let away = within("the read is answered", store.read(Position(0), &everything, 10)).await;
    assert!(matches!(away, Err(ReadError::Unavailable { .. })), "{away:?}");
    hanging.store(false, Ordering::Relaxed);
    assert_eq!(ok(&store, any([numbered(2)])).await.head, Position(2));
    hanging.store(true, Ordering::Relaxed);
    within("it closes", store.close()).await;
}

#[tokio::test]
async fn a_retry_of_what_is_stored_is_answered_although_the_rest_of_its_group_cannot_be() {
    let log = Arc::new(MemoryLog::default());
    let store = node(&log).await;
    let first = ok(&store, any([numbered(1)])).await;
    log.break_with(|_| Fault::Dropped);
    // Sent together, so that they are one group; the second would have to be seen to be refused.
    let group = [any([numbered(1)]), exact(0, numbered(2))].map(|append| store.append(append));
    let answers = within("both are answered", join_all(group)).await;
    let [Ok(stored), Err(AppendError::Unavailable { .. })] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(stored, &first);
}

#[tokio::test]
async fn a_seal_is_of_the_epoch_that_was_meant_and_of_no_later_one() {
    let log = Arc::new(MemoryLog::default());
    let (one, two) = (node(&log).await, node(&log).await);
    ok(&one, any([numbered(1)])).await;
    two.raise_epoch(Epoch(2), "an operator").await.expect("nothing is in the way");
    let refused = one.seal_epoch(Epoch(1), "").await.expect_err("that has ended");
    assert!(matches!(refused, AppendError::Superseded { .. }), "{refused}");
    assert_eq!(ok(&two, any([numbered(2)])).await.head, Position(2));
    one.seal_epoch(Epoch(2), "").await.expect("nothing is in the way");
}

#[tokio::test]
async fn a_look_costs_one_read_and_one_more_for_what_it_finds() {
    let log = Arc::new(MemoryLog::default());
    let reads = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&reads);
    let seen = Intercepted::new(&log, move |asked| {
        if matches!(asked, Asked::Read(_)) {
            counting.fetch_add(1, Ordering::Relaxed);
        }
        // None is answered before all that are asked at once are asked.
        tokio::task::yield_now()
    });
    let (writer, follower) = (node(&log).await, node_over(seen, dozing()).await);
    reads.store(0, Ordering::Relaxed);
    follower.catch_up().await.expect("it can be reached");
    assert_eq!(reads.swap(0, Ordering::Relaxed), 1);
    ok(&writer, any([numbered(1)])).await;
    follower.catch_up().await.expect("it can be reached");
    let few = reads.swap(0, Ordering::Relaxed);
    assert!(few <= 3, "{few} reads for one slot");
    for n in 2..100 {
        ok(&writer, any([numbered(n)])).await;
    }
    reads.store(0, Ordering::Relaxed);
    follower.catch_up().await.expect("it can be reached");
    let many = reads.swap(0, Ordering::Relaxed);
    assert!((98..=98 + 17).contains(&many), "{many} reads for 98 slots");
}

#[tokio::test]
async fn a_slot_that_many_want_at_once_is_read_once() {
    let log = Arc::new(MemoryLog::default());
    let (reads, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Semaphore::new(0)));
    let (counting, waiting) = (Arc::clone(&reads), Arc::clone(&gate));
    let seen = Intercepted::new(&log, move |asked| {
        let (counting, waiting) = (Arc::clone(&counting), Arc::clone(&waiting));
        async move {
            if asked == Asked::Read(Slot(1)) {
                counting.fetch_add(1, Ordering::Relaxed);
                waiting.acquire().await.expect("it is never closed").forget();
            }
        }
    });
    gate.add_permits(1);
    let patience = Duration::from_secs(60);
    let store = node_over(seen, StorageOptions { patience, ..dozing() }).await;
    ok(&store, any([numbered(1), numbered(2)])).await;
    reads.store(0, Ordering::Relaxed);
    let everything = EventFilter::everything();
    let wanted = (0..20).map(|_| store.read(Position(0), &everything, 10));
    let release = async {
        // All others have been polled by now: this one comes last.
        gate.add_permits(100);
    };
    let (pages, ()) = within("all are answered", async { tokio::join!(join_all(wanted), release) }).await;
    assert!(pages.into_iter().all(|page| page.expect("it can be read").events.len() == 2));
    assert_eq!(reads.load(Ordering::Relaxed), 1);
    gate.forget_permits(100);
    // One who gives up leaves the others to it, and nothing behind.
    let mut abandoned = Box::pin(store.read(Position(0), &everything, 10));
    assert!((&mut abandoned).now_or_never().is_none(), "it waits for the log");
    drop(abandoned);
    gate.add_permits(100);
    let again = within("it is answered", store.load(&crate::support::todo(), Sequence(0), 10)).await;
    assert_eq!(again.expect("it can be read").events.len(), 2);
}

/// A put of which nothing is heard, which a look finds, and then the log is away.
fn lose_all_but_a_look(log: &MemoryLog) {
    let asked = AtomicUsize::new(0);
    log.break_with(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Fault::ReplyLost,
        1 => Fault::None,
        _ => Fault::Dropped,
    });
}

#[tokio::test]
async fn what_was_found_before_the_log_went_away_is_not_told_as_never_written() {
    let log = Arc::new(MemoryLog::default());
    let store = node(&log).await;
    lose_all_but_a_look(&log);
    assert_eq!(ok(&store, any([numbered(1)])).await.head, Position(1));
    lose_all_but_a_look(&log);
    let (by, reason, figures) = ("ann".into(), "to see".into(), Json::empty_object());
    let step = NewStep { from: Phase::Broadcast, to: Phase::Dual, by, reason, figures };
    assert_eq!(store.record(step).await.expect("it was found").step, 1);
    lose_all_but_a_look(&log);
    let sealed = store.seal_epoch(Epoch(1), "").await;
    assert!(matches!(sealed, Ok(_) | Err(AppendError::Unknown(_))), "{sealed:?}");
    log.mend();
    assert_eq!(log.filled(), 4);
}
