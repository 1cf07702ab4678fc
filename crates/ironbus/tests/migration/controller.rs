//! The controller: the whole way there and back, who is told what, and what it does when things fail.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use ironbus::EventBusMode;
use ironbus::Position;
use ironbus::bus::Side;
use ironbus::migration::{
    BusSwitch, Consequence, InvalidStep, Journal, JournalError, NodeReport, Obstacle, Phase, StartError,
    StepError, Trigger, roll_back_record,
};
use ironbus_testkit::temp::TempStore;

use crate::support::{Fate, MemoryJournal, Process, ask, ask_to, journal_of};

async fn started() -> (Arc<MemoryJournal>, Process) {
    let journal = Arc::<MemoryJournal>::default();
    let process = Process::start(Arc::clone(&journal) as _, true).await.expect("nothing is in the way");
    (journal, process)
}

fn edge(node: &str) -> NodeReport {
    let covered = Duration::from_secs(30);
    NodeReport { node: node.into(), covered, by_zenoh: 200, from_log: 0, latency: None, sse_clients: 150 }
}

#[tokio::test(start_paused = true)]
async fn a_log_goes_all_the_way_and_back_and_every_step_is_recorded() {
    let temp = TempStore::new();
    let store = temp.open().await;
    let process = Process::start(journal_of(&store), true).await.expect("nothing is in the way");
    let migration = &process.migration;
    assert!(process.is_settled(Phase::Broadcast) && !migration.is_comparing());

    let dual = migration.advance(ask("three nodes are planned")).await.expect("Zenoh is there");
    assert_eq!((dual.step, dual.from, dual.to), (1, Phase::Broadcast, Phase::Dual));
    assert!(process.is_settled(Phase::Dual) && migration.is_comparing());
    let Err(StepError::Refused { phase: Phase::Dual, obstacles }) = migration.advance(ask("now")).await
    else {
        panic!("without parity nobody goes on")
    };
    let kinds: Vec<_> = obstacles.iter().map(Obstacle::kind).collect();
    assert_eq!(kinds, ["compared_too_short", "compared_too_few"]);
    let planned = migration.plan().advance.expect("there is a next phase");
    assert_eq!((planned.to, planned.obstacles), (Phase::Zenoh, obstacles));

    process.reach_parity().await;
    assert!(migration.status().parity.as_ref().is_some_and(|parity| parity.is_parity()));
    let zenoh = migration.advance(ask("parity")).await.expect("parity");
    assert!(process.is_settled(Phase::Zenoh) && !migration.is_comparing());
    let figures: serde_json::Value = zenoh.figures.to().expect("JSON");
    assert_eq!(figures["parity"]["only_broadcast"], 0, "{figures}");
    assert!(figures["parity"]["both"].as_u64().is_some_and(|both| both >= 100), "{figures}");
    assert!(figures["triggers"].as_array().is_some_and(|all| all.len() == Trigger::ALL.len()), "{figures}");

    let refused = migration.advance(ask("further")).await;
    assert!(
        matches!(&refused, Err(StepError::Refused { obstacles, .. })
            if *obstacles == [Obstacle::Immovable]),
        "{refused:?}"
    );
    let back = migration.rollback(ask_to(Phase::Broadcast)).await.expect("going back needs nothing");
    assert_eq!((back.from, back.to), (Phase::Zenoh, Phase::Broadcast));
    assert!(process.is_settled(Phase::Broadcast));
    assert_eq!(migration.history(10).await.expect("readable"), [dual, zenoh, back.clone()]);
    assert_eq!(migration.history(1).await.expect("readable"), [back]);
    migration.close();
    process.ended().await;
    store.close().await;
    let found = temp.verify();
    assert!(found.is_sound() && found.steps == 3, "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_in_process_bus_alone_brought_is_in_the_way_until_it_has_left_the_window() {
    let (_, process) = started().await;
    let migration = &process.migration;
    migration.advance(ask("go")).await.expect("Zenoh is there");
    migration.heard(Side::Broadcast, Position(1), Duration::from_millis(1));
    process.counts.head.store(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(20)).await;
    process.reach_parity().await;
    migration.advance(ask("parity")).await.expect("what was lost has left the window");
    migration.rollback(ask("again")).await.expect("always");
    process.reach_parity().await;
    migration.heard(Side::Broadcast, Position(1000), Duration::from_millis(1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = migration.advance(ask("parity?")).await;
    assert!(
        matches!(&refused, Err(StepError::Refused { obstacles, .. })
            if obstacles.iter().any(|one| one.kind() == "only_broadcast")),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn of_concurrent_steps_one_is_taken_and_the_others_are_told() {
    let (journal, process) = started().await;
    let answers = join_all((0..8).map(|_| process.migration.advance(ask("at once")))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    let moved = |answer: &&Result<_, StepError>| {
        matches!(answer, Err(StepError::Moved { expected: Phase::Broadcast, actual: Phase::Dual }))
    };
    assert_eq!(answers.iter().filter(moved).count(), 7);
    assert_eq!(journal.page().taken, 1);
    // One after another, too: who says where the step should lead isn't taken a phase too far.
    let late = process.migration.advance(ask_to(Phase::Dual)).await;
    let not_next = Obstacle::NotNext { phase: Phase::Dual, next: Phase::Zenoh, to: Phase::Dual };
    assert!(
        matches!(&late, Err(StepError::Refused { obstacles, .. }) if *obstacles == [not_next]),
        "{late:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_asker_went_away_is_taken_all_the_same() {
    let (journal, process) = started().await;
    let mut asking = Box::pin(process.migration.advance(ask("impatient")));
    assert!(futures_util::poll!(&mut asking).is_pending());
    drop(asking);
    let mut watch = process.migration.watch();
    watch.wait_for(|status| status.phase == Phase::Dual).await.expect("it is told");
    assert!(process.is_settled(Phase::Dual) && journal.page().taken == 1);
}

#[tokio::test(start_paused = true)]
async fn edge_nodes_are_told_of_before_a_step_to_broadcast_and_counted_with_their_streams() {
    let (_, process) = started().await;
    let migration = &process.migration;
    migration.advance(ask("go")).await.expect("Zenoh is there");
    process.counts.sse_clients.store(60, Ordering::SeqCst);
    migration.node_report(edge("edge-1"));
    let planned = migration.plan().rollback;
    let told = Consequence::EdgeNodesHearByHeartbeat { nodes: vec!["edge-1".into()] };
    assert!(planned[0].to == Phase::Broadcast && planned[0].consequences == [told], "{planned:?}");
    let mut watch = migration.watch();
    let counted = watch.wait_for(|status| status.triggers[0].measured == Some(210.0)).await;
    let status = Arc::clone(&counted.expect("it is told"));
    assert!(status.triggers[0].exceeded_since.is_some());
    assert_eq!(status.advice.towards, Some(Phase::Zenoh));
    assert_eq!(status.edge_nodes, [edge("edge-1")]);
    // Silent for longer than a node may be: it isn't there any more.
    let gone = watch.wait_for(|status| status.edge_nodes.is_empty()).await;
    assert_eq!(gone.expect("it is told").triggers[0].measured, Some(60.0));
    migration.node_report(edge("edge-1"));
    migration.node_left("edge-1");
    assert_eq!(migration.plan().rollback[0].consequences, []);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_says_not_who_or_why_is_refused_before_anything_happens() {
    let (journal, process) = started().await;
    let refused = process.migration.advance(ask(" ")).await;
    assert!(
        matches!(refused, Err(StepError::Invalid(InvalidStep::Empty { field: "reason" }))),
        "{refused:?}"
    );
    assert!(process.is_settled(Phase::Broadcast) && journal.page().taken == 0);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_cannot_go_forward_takes_the_step_back_and_the_record_says_so() {
    let (journal, process) = started().await;
    *process.bus.fate.lock() = Fate::Fails;
    let refused = process.migration.advance(ask("go")).await;
    assert!(
        matches!(refused, Err(StepError::Switch { to: Phase::Dual, phase: Phase::Broadcast, .. })),
        "{refused:?}"
    );
    assert!(process.is_settled(Phase::Broadcast) && !process.migration.is_comparing());
    let page = journal.page();
    let back = page.steps.last().expect("recorded");
    assert_eq!((page.taken, back.to, back.by.as_str()), (2, Phase::Broadcast, "ironbus"));
    assert!(back.reason.contains("no session"), "{}", back.reason);
    process.migration.advance(ask("again")).await.expect("the bus works again");
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_cannot_go_back_follows_as_soon_as_it_can() {
    let (_, process) = started().await;
    process.migration.advance(ask("go")).await.expect("Zenoh is there");
    *process.bus.fate.lock() = Fate::Fails;
    let behind = process.migration.rollback(ask("trouble")).await;
    assert!(
        matches!(behind, Err(StepError::Switch { to: Phase::Broadcast, phase: Phase::Broadcast, .. })),
        "{behind:?}"
    );
    assert_eq!(process.bus.mode(), EventBusMode::Dual);
    let mut watch = process.migration.watch();
    watch.wait_for(|status| status.bus == EventBusMode::Broadcast).await.expect("it is told");
    assert!(process.is_settled(Phase::Broadcast));
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_record_keeps_the_step_from_being_taken() {
    let (journal, process) = started().await;
    *journal.fate.lock() = Fate::Fails;
    let refused = process.migration.advance(ask("go")).await;
    assert!(matches!(refused, Err(StepError::Journal(JournalError::StorageFull))), "{refused:?}");
    assert!(process.is_settled(Phase::Broadcast));
}

#[tokio::test(start_paused = true)]
async fn where_the_journal_cannot_tell_it_is_asked_and_the_bus_follows_what_it_says() {
    let (journal, process) = started().await;
    *journal.fate.lock() = Fate::UndoneUnknown;
    let refused = process.migration.advance(ask("go")).await;
    assert!(matches!(refused, Err(StepError::Journal(JournalError::Unknown(_)))), "{refused:?}");
    assert!(process.is_settled(Phase::Broadcast));
    *journal.fate.lock() = Fate::DoneUnknown;
    let taken = process.migration.advance(ask("again")).await.expect("it was recorded after all");
    assert_eq!((taken.step, taken.to), (1, Phase::Dual));
    assert!(process.is_settled(Phase::Dual));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_needs_zenoh_is_not_served_without_it_but_its_record_can_be_rolled_back() {
    let (journal, process) = started().await;
    process.migration.advance(ask("go")).await.expect("Zenoh is there");
    process.kill().await;
    let refused = Process::start(Arc::clone(&journal) as _, false).await.err().expect("refused");
    assert!(matches!(refused, StartError::NoZenoh { phase: Phase::Dual }), "{refused}");
    let refused = roll_back_record(&*journal, ask_to(Phase::Zenoh)).await;
    assert!(matches!(refused, Err(StepError::Refused { .. })), "{refused:?}");
    roll_back_record(&*journal, ask("no Zenoh here")).await.expect("it needs nothing");
    let process = Process::start(Arc::clone(&journal) as _, false).await.expect("it needs no Zenoh now");
    assert!(process.is_settled(Phase::Broadcast));
    let refused = process.migration.advance(ask("go")).await;
    assert!(
        matches!(&refused, Err(StepError::Refused { obstacles, .. }) if *obstacles == [Obstacle::NoZenoh]),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_closed_migration_takes_no_step_and_its_driver_ends() {
    let (journal, process) = started().await;
    let migration = process.migration.clone();
    migration.close();
    process.ended().await;
    let refused = migration.advance(ask("too late")).await;
    assert!(matches!(refused, Err(StepError::Closed)), "{refused:?}");
    assert_eq!(journal.page().taken, 0);
    assert_eq!(journal.journal(1).await.expect("readable").phase, Phase::Broadcast);
}
