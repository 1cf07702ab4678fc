//! The controller of a real node: its log, its publishers, and a second bus that stands in for Zenoh.

use std::sync::Arc;
use std::time::Duration;

use ironbus::bus::Heard;
use ironbus::migration::{
    Consequence, MigrationOptions, ParityOptions, Phase, StartError, StepError, Thresholds,
};
use ironbus::{Append, EventBus, EventBusMode, EventFilter, ExpectedVersion, Node, NodeOptions};
use ironbus_testkit::second_bus::{NoLink, SecondBus};
use ironbus_testkit::{aggregate, unnamed, within};
use tokio_util::sync::CancellationToken;

use crate::support::{ask, ask_to};

fn options() -> MigrationOptions {
    MigrationOptions {
        parity: ParityOptions {
            window: Duration::from_millis(600),
            min_events: 50,
            grace: Duration::from_millis(300),
            ..ParityOptions::default()
        },
        thresholds: Thresholds::default(),
        every: Duration::from_millis(20),
        ..MigrationOptions::default()
    }
}

async fn open(directory: &tempfile::TempDir) -> Node {
    Node::open(NodeOptions::new(directory.path())).await.expect("opens")
}

/// Appends until it is told to end.
fn keep_appending(node: &Node, name: &'static str, end: CancellationToken) -> tokio::task::JoinHandle<()> {
    let store = node.store();
    tokio::spawn(async move {
        let mut n = 0;
        while !end.is_cancelled() {
            n += 1;
            let append = Append::to(aggregate("Load", name), ExpectedVersion::Any, vec![unnamed(n)]);
            store.append(append).await.expect("nothing is in the way");
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_under_load_goes_to_zenoh_and_back_and_is_in_its_phase_again_when_it_is_opened_again() {
    let directory = tempfile::tempdir().expect("temporary files can be made");
    let node = open(&directory).await;
    node.join(SecondBus::new(), Arc::new(NoLink { foreign_subscribers: 2 }));
    let migration = node.start_migration(options()).await.expect("nothing is in the way");
    let end = CancellationToken::new();
    let writers = ["a", "b"].map(|name| keep_appending(&node, name, end.clone()));

    let mut watch = migration.watch();
    for round in 0..2 {
        migration.advance(ask("go")).await.expect("Zenoh is there");
        let compared =
            watch.wait_for(|status| status.parity.as_ref().is_some_and(|parity| parity.compared >= 50));
        let status = Arc::clone(&within("a comparison", compared).await.expect("it is told"));
        let parity = status.parity.as_ref().expect("just seen");
        assert_eq!(
            (parity.only_broadcast, parity.only_zenoh),
            (0, 0),
            "round {round}: what was committed while the bus was switched isn't held against it: {parity:?}"
        );
        let parity = watch.wait_for(|status| status.parity.as_ref().is_some_and(|parity| parity.is_parity()));
        within("parity", parity).await.expect("it is told");
        let taken = migration.advance(ask_to(Phase::Zenoh)).await.expect("parity");
        assert_eq!(node.bus().mode(), EventBusMode::Zenoh);
        if round == 0 {
            let _listening = node.bus().subscribe(EventFilter::everything());
            let told = [
                Consequence::ForeignSubscribersHearNothing { subscribers: 2 },
                Consequence::RawSubscriptionsEnd { listeners: 1 },
            ];
            // The comparison lets go of its own subscriptions a moment after the step.
            let counted = async {
                while migration.plan().rollback[1].consequences != told {
                    tokio::task::yield_now().await;
                }
            };
            within("the plan that counts this subscription alone", counted).await;
            let back = migration.rollback(ask_to(Phase::Broadcast)).await.expect("always");
            assert!(back.after >= taken.after, "steps stand in one order with appends");
            assert_eq!(node.bus().mode(), EventBusMode::Broadcast);
        }
    }
    end.cancel();
    for writer in writers {
        writer.await.expect("no append failed");
    }
    assert_eq!(node.shutdown(Duration::from_secs(5)).await, [""; 0]);

    let node = open(&directory).await;
    let refused = node.start_migration(options()).await.expect_err("there is no Zenoh");
    assert!(matches!(refused, StartError::NoZenoh { phase: Phase::Zenoh }), "{refused}");
    node.join(SecondBus::new(), Arc::<NoLink>::default());
    let migration = node.start_migration(options()).await.expect("there is Zenoh now");
    assert_eq!((migration.status().taken, node.bus().mode()), (5, EventBusMode::Zenoh));
    assert_eq!(node.shutdown(Duration::from_secs(5)).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_loses_events_is_never_gone_over_to() {
    let directory = tempfile::tempdir().expect("temporary files can be made");
    let node = open(&directory).await;
    let far = SecondBus::new();
    far.lose_every(Some(20));
    node.join(Arc::clone(&far) as _, Arc::<NoLink>::default());
    let migration = node.start_migration(options()).await.expect("nothing is in the way");
    migration.advance(ask("go")).await.expect("Zenoh is there");
    let end = CancellationToken::new();
    let writer = keep_appending(&node, "a", end.clone());
    let mut watch = migration.watch();
    let missed = watch.wait_for(|status| {
        status.parity.as_ref().is_some_and(|parity| parity.compared >= 100 && parity.only_broadcast > 0)
    });
    within("a comparison", missed).await.expect("it is told");
    let refused = migration.advance(ask("now")).await;
    assert!(
        matches!(&refused, Err(StepError::Refused { obstacles, .. })
            if obstacles.iter().any(|one| one.kind() == "only_broadcast")),
        "{refused:?}"
    );
    far.lose_every(None);
    let parity = watch.wait_for(|status| status.parity.as_ref().is_some_and(|parity| parity.is_parity()));
    within("parity once it loses nothing", parity).await.expect("it is told");
    end.cancel();
    writer.await.expect("no append failed");
    node.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_a_step_is_answered_what_is_committed_travels_as_its_phase_says() {
    let directory = tempfile::tempdir().expect("temporary files can be made");
    let node = open(&directory).await;
    let far = SecondBus::new();
    node.join(Arc::clone(&far) as _, Arc::<NoLink>::default());
    let migration = node.start_migration(options()).await.expect("nothing is in the way");
    let end = CancellationToken::new();
    let writers = ["a", "b", "c", "d"].map(|name| keep_appending(&node, name, end.clone()));
    for round in 0..40 {
        let mut listening = far.subscribe(EventFilter::everything());
        migration.advance(ask_to(Phase::Dual)).await.expect("Zenoh is there");
        let after = node.tail().head();
        let heard = async {
            loop {
                match listening.next().await {
                    Some(Heard::Event(event)) if event.position > after => return event.position,
                    Some(_) => {}
                    None => panic!("the side carries"),
                }
            }
        };
        assert_eq!(within("an event on the second bus", heard).await, after.next(), "round {round}");
        migration.rollback(ask("again")).await.expect("always");
    }
    end.cancel();
    for writer in writers {
        writer.await.expect("no append failed");
    }
    node.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn open_streams_are_counted_as_long_as_they_are_open() {
    let directory = tempfile::tempdir().expect("temporary files can be made");
    let node = open(&directory).await;
    let migration = node.start_migration(options()).await.expect("nothing is in the way");
    let open: Vec<_> = (0..3).map(|_| node.count_stream()).collect();
    let mut watch = migration.watch();
    watch.wait_for(|status| status.triggers[0].measured == Some(3.0)).await.expect("it is told");
    drop(open);
    watch.wait_for(|status| status.triggers[0].measured == Some(0.0)).await.expect("it is told");
    assert_eq!(node.open_streams(), 0);
    node.shutdown(Duration::from_secs(5)).await;
}
