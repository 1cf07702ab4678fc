//! The journal of the migration in a log of slots.

use std::sync::Arc;

use ironbus::Json;
use ironbus::event::{Epoch, Position};
use ironbus::store::{Journal, JournalError, JournalPage, NewStep, Phase};
use ironbus_testkit::numbered;
use ironbus_zenoh::storage::memory::{Asked, Fault};
use ironbus_zenoh::storage::{CommitLog, MemoryLog, StorageOptions};

use crate::support::{any, dozing, node, node_with, ok};

fn step(from: Phase, to: Phase) -> NewStep {
    let figures = Json::parse("{ \"b\": 1.50, \"a\": [] }").expect("valid JSON");
    NewStep { from, to, by: "ann".into(), reason: "to see".into(), figures }
}

#[tokio::test]
async fn steps_are_kept_in_one_order_with_appends_and_read_on_every_node() {
    let log = Arc::new(MemoryLog::default());
    let one = node_with(&log, StorageOptions { snapshot_every: 2, ..dozing() }).await;
    let (two, behind) = (node(&log).await, node(&log).await);
    assert_eq!(one.journal(10).await.expect("readable"), JournalPage::default());
    ok(&one, any([numbered(1)])).await;
    let first = one.record(step(Phase::Broadcast, Phase::Dual)).await.expect("recorded");
    assert_eq!((first.step, first.after), (1, Position(1)));
    // It has not looked since, and is told what is true all the same.
    let moved = two.record(step(Phase::Broadcast, Phase::Dual)).await.expect_err("another was faster");
    assert!(
        matches!(moved, JournalError::Moved { expected: Phase::Broadcast, actual: Phase::Dual }),
        "{moved}"
    );
    let second = two.record(step(Phase::Dual, Phase::Zenoh)).await.expect("recorded");
    let expected = JournalPage { phase: Phase::Zenoh, taken: 2, steps: vec![first.clone(), second.clone()] };
    assert_eq!(one.journal(10).await.expect("readable"), expected);
    assert_eq!(one.journal(1).await.expect("readable").steps, std::slice::from_ref(&second));
    ok(&one, any([numbered(2)])).await;
    one.close().await;
    assert!(!log.snapshots().await.expect("there").is_empty(), "the next start is from one");
    let restarted = node(&log).await;
    assert_eq!(restarted.journal(10).await.expect("readable"), expected);
    assert_eq!(ok(&restarted, any([numbered(3)])).await.head, Position(3), "a step takes no position");
    // What it knows would refuse the step that is due now.
    assert_eq!(behind.record(step(Phase::Zenoh, Phase::Dual)).await.expect("recorded").step, 3);
}

#[tokio::test]
async fn a_step_whose_reply_is_lost_is_recorded_once_and_told() {
    let log = Arc::new(MemoryLog::default());
    let store = node(&log).await;
    let mut first = true;
    log.break_with(move |asked| match asked {
        Asked::Put(_) if std::mem::take(&mut first) => Fault::ReplyLost,
        _ => Fault::None,
    });
    let recorded = store.record(step(Phase::Broadcast, Phase::Dual)).await.expect("it is found");
    assert_eq!(store.journal(10).await.expect("readable").steps, [recorded]);
    assert_eq!(log.filled(), 2);
}

#[tokio::test]
async fn a_sealed_log_takes_no_step_and_a_step_that_nobody_answers_is_unknown() {
    let log = Arc::new(MemoryLog::default());
    let store = node(&log).await;
    log.break_with(|asked| if matches!(asked, Asked::Put(_)) { Fault::Dropped } else { Fault::None });
    let unknown = store.record(step(Phase::Broadcast, Phase::Dual)).await.expect_err("nobody answers");
    assert!(matches!(unknown, JournalError::Unknown(_)), "{unknown}");
    log.mend();
    store.seal_epoch(Epoch(1), "it went over").await.expect("nothing is in the way");
    let refused = store.record(step(Phase::Broadcast, Phase::Dual)).await.expect_err("it is sealed");
    assert!(matches!(&refused, JournalError::Superseded { reason } if reason == "it went over"), "{refused}");
}
