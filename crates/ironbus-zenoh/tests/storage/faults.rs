//! Several nodes on one log, whose replies get lost and whose puts come late.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use ironbus::event::{EventId, Position, Sequence};
use ironbus::store::{AppendError, EventStore, Recorded};
use ironbus_testkit::check::{check_acknowledged, check_batches, check_log};
use ironbus_testkit::{numbered, numbered_id, read_all, within};
use ironbus_zenoh::storage::memory::{Asked, Fault};
use ironbus_zenoh::storage::{CommitLog, MemoryLog, Slot};

use crate::support::{any, dozing, exact, node, node_with, ok};

/// Puts go wrong in every way, as a seed has it.
fn break_puts(log: &MemoryLog, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    log.break_with(move |asked| match (asked, random.u8(..10)) {
        (Asked::Put(_), 0) => Fault::ReplyLost,
        (Asked::Put(_), 1) => Fault::Late,
        (Asked::Put(_), 2) => Fault::Dropped,
        (Asked::Read(_), 3) => Fault::Late,
        _ => Fault::None,
    });
}

/// Appends until it is told what became of it, always with the same event ids.
async fn insist(store: &dyn EventStore, numbers: [u64; 2]) -> Vec<Recorded> {
    loop {
        match store.append(any(numbers.map(numbered))).await {
            Ok(appended) => return appended.events,
            Err(AppendError::Unknown(_) | AppendError::Unavailable { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_whose_puts_go_wrong_make_one_history() {
    const APPENDS: u64 = 40;
    let mut late_in_all = 0;
    for seed in 0..6 {
        let log = Arc::new(MemoryLog::default());
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(node(&log).await);
        }
        break_puts(&log, seed);
        let late = Arc::new(AtomicUsize::new(0));
        let tasks = nodes
            .iter()
            .enumerate()
            .flat_map(|(at, store)| (0..4_u64).map(move |client| (at as u64 * 4 + client, store.clone())));
        let tasks = tasks.map(|(client, store)| {
            let (log, late) = (Arc::clone(&log), Arc::clone(&late));
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0..APPENDS {
                    let first = (client * APPENDS + n) * 2;
                    acknowledged.extend(insist(&store, [first, first + 1]).await);
                    if n % 5 == client % 5 {
                        late.fetch_add(log.deliver_late(), Ordering::Relaxed);
                    }
                }
                acknowledged
            })
        });
        let answers = within("every append is answered", join_all(tasks)).await;
        let acknowledged: Vec<_> = answers.into_iter().flat_map(|task| task.expect("no panic")).collect();
        log.mend();
        log.deliver_late();
        for store in &nodes {
            store.catch_up().await.expect("the log is there");
            let history = read_all(store).await.expect("it can be read");
            check_log(&history).expect("one history");
            assert_eq!(check_acknowledged(&acknowledged, &history), Ok(()), "seed {seed}");
            assert_eq!(history.len(), acknowledged.len(), "nothing stands twice, seed {seed}");
            let batches: Vec<Vec<EventId>> =
                (0..12 * APPENDS).map(|n| vec![numbered_id(2 * n), numbered_id(2 * n + 1)]).collect();
            assert_eq!(check_batches(batches.iter().map(Vec::as_slice), &history), Ok(()), "seed {seed}");
        }
        assert_eq!(log.beyond(Slot(log.filled() as u64 - 1)).await.expect("it is there"), None, "no hole");
        let late = late.load(Ordering::Relaxed);
        late_in_all += late;
        println!("seed {seed}: {} slots, {late} late puts won theirs", log.filled());
    }
    assert!(late_in_all > 0, "no late put ever won its slot, so nothing of that was tried");
}

#[tokio::test]
async fn a_node_that_is_behind_refuses_nothing_on_what_it_knows() {
    let log = Arc::new(MemoryLog::default());
    let (ahead, behind) = (node(&log).await, node(&log).await);
    ok(&ahead, any([numbered(1)])).await;
    // What it knows would make a conflict of this one ...
    let appended = ok(&behind, exact(1, numbered(2))).await;
    assert_eq!(appended.head, Position(2));
    ok(&ahead, any([numbered(3)])).await;
    // ... and would admit this one.
    let refused = behind.append(exact(2, numbered(4))).await.expect_err("it has moved on");
    assert!(matches!(refused, AppendError::Conflict { actual: Sequence(3), .. }), "{refused}");
    let retried = ok(&behind, exact(0, numbered(1))).await;
    assert_eq!(retried.head, Position(1), "a retry elsewhere gets the first result");
}

#[tokio::test]
async fn the_head_is_that_of_the_log_and_reads_say_how_far_they_know() {
    let log = Arc::new(MemoryLog::default());
    let (ahead, behind) = (node(&log).await, node(&log).await);
    ok(&ahead, any([numbered(1), numbered(2)])).await;
    let everything = ironbus::EventFilter::everything();
    let page = behind.read(Position(0), &everything, 10).await.expect("it can be read");
    assert_eq!((page.events.len(), page.head), (0, Position(0)));
    assert_eq!(behind.head().await.expect("it can be reached").position, Position(2));
    let page = behind.read(Position(0), &everything, 10).await.expect("it can be read");
    assert_eq!((page.events.len(), page.head), (2, Position(2)));
}

#[tokio::test]
async fn what_others_commit_reaches_subscriptions_by_the_pace_or_by_a_hint() {
    use ironbus::{EventFilter, Start};
    let log = Arc::new(MemoryLog::default());
    let (writer, hinted) = (node(&log).await, node(&log).await);
    let pace = ironbus_zenoh::storage::StorageOptions::default().pace;
    let paced = node_with(&log, ironbus_zenoh::storage::StorageOptions { pace, ..dozing() }).await;
    let mut readers = [&paced, &hinted].map(|store| store.subscribe(EventFilter::everything(), Start::Live));
    ok(&writer, any([numbered(1)])).await;
    hinted.hint();
    for reader in &mut readers {
        let event = within("the event comes", reader.next_event()).await.expect("open").expect("readable");
        assert_eq!((event.position, event.event_id), (Position(1), numbered_id(1)));
    }
}

#[tokio::test]
async fn a_put_whose_reply_is_lost_is_found_and_acknowledged() {
    let log = Arc::new(MemoryLog::default());
    let store = node(&log).await;
    let mut first = true;
    log.break_with(move |asked| match asked {
        Asked::Put(_) if std::mem::take(&mut first) => Fault::ReplyLost,
        _ => Fault::None,
    });
    let appended = ok(&store, exact(0, numbered(1))).await;
    assert_eq!((appended.head, log.filled()), (Position(1), 2));
}

#[tokio::test]
async fn an_event_without_an_id_is_stored_once_although_its_reply_is_lost() {
    let log = Arc::new(MemoryLog::default());
    let store = node(&log).await;
    let mut first = true;
    log.break_with(move |asked| match asked {
        Asked::Put(_) if std::mem::take(&mut first) => Fault::ReplyLost,
        _ => Fault::None,
    });
    let appended = ok(&store, any([ironbus_testkit::unnamed(1)])).await;
    let held = read_all(&store).await.expect("it can be read");
    assert_eq!(held.iter().map(|event| event.event_id).collect::<Vec<_>>(), [appended.events[0].event_id]);
}

#[tokio::test]
async fn a_log_that_does_not_answer_leaves_an_append_unknown_and_its_retry_finds_out() {
    let log = Arc::new(MemoryLog::default());
    let store = node(&log).await;
    log.break_with(|asked| if matches!(asked, Asked::Put(_)) { Fault::Late } else { Fault::None });
    let unknown = store.append(exact(0, numbered(1))).await.expect_err("nobody answers");
    assert!(matches!(unknown, AppendError::Unknown(_)), "{unknown}");
    log.mend();
    assert_eq!(log.deliver_late(), 1, "of many tries one comes through");
    let appended = ok(&store, exact(0, numbered(1))).await;
    assert_eq!((appended.head, log.filled()), (Position(1), 2));
}

#[tokio::test]
async fn a_log_that_cannot_be_reached_refuses_what_it_cannot_decide() {
    let log = Arc::new(MemoryLog::default());
    let store = node(&log).await;
    ok(&store, any([numbered(1)])).await;
    log.break_with(|_| Fault::Dropped);
    // A refusal would have to be seen to be true.
    let away = store.append(exact(0, numbered(2))).await.expect_err("nobody answers");
    assert!(matches!(away, AppendError::Unavailable { .. }), "{away}");
    let away = store.head().await.expect_err("nobody answers");
    assert!(matches!(away, ironbus::ReadError::Unavailable { .. }), "{away}");
    // A retry of what is stored needs nobody.
    assert_eq!(ok(&store, any([numbered(1)])).await.head, Position(1));
}
