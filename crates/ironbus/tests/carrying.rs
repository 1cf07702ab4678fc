//! What the Zenoh side of a store node carries after a start: what it hadn't carried before, and nothing else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ironbus::bus::{EventSubscription, Heard, Side};
use ironbus::migration::MigrationOptions;
use ironbus::store::{Append, ExpectedVersion, Journal, NewStep, Phase};
use ironbus::{EventBus, EventFilter, Json, Node, NodeOptions, Position};
use ironbus_testkit::second_bus::{NoLink, SecondBus};
use ironbus_testkit::{aggregate, numbered, within};

struct Started {
    node: Node,
    far: Arc<SecondBus>,
    heard: EventSubscription,
}

async fn start(data: &Path, steps: &[(Phase, Phase)]) -> Started {
    let node = Node::open(NodeOptions::new(data)).await.expect("a log opens");
    let far = SecondBus::new();
    let heard = far.subscribe(EventFilter::everything());
    node.join(Arc::clone(&far) as _, Arc::<NoLink>::default());
    steps_of(&node, steps).await;
    node.start_migration(MigrationOptions::default()).await.expect("nothing is in the way");
    Started { node, far, heard }
}

async fn steps_of(node: &Node, steps: &[(Phase, Phase)]) {
    for (from, to) in steps.iter().copied() {
        let (by, reason, figures) = ("ann".into(), "a test".into(), Json::empty_object());
        let step = NewStep { from, to, by, reason, figures };
        node.own_log().expect("it has a log").record(step).await.expect("recorded");
    }
}

impl Started {
    async fn append(&self, numbers: std::ops::RangeInclusive<u64>) {
        for n in numbers {
            let append = Append::to(aggregate("A", "1"), ExpectedVersion::Any, vec![numbered(n)]);
            self.node.store().append(append).await.expect("appended");
        }
    }

    async fn hears(&mut self, positions: std::ops::RangeInclusive<u64>) {
        for position in positions {
            match within("what is to be carried", self.heard.next()).await {
                Some(Heard::Event(event)) => assert_eq!(event.position, Position(position)),
                other => panic!("position {position} was to be heard, and not {other:?}"),
            }
        }
        assert_eq!(self.heard.repeated(), 0);
    }

    async fn end(self) {
        assert_eq!(self.node.shutdown(Duration::from_secs(20)).await, [""; 0]);
    }
}

/// What would be there if the process were killed now.
fn killed_now(data: &Path) -> tempfile::TempDir {
    let left = tempfile::tempdir().expect("temporary files can be made");
    for file in ["ironbus.db", "ironbus.db-wal"] {
        std::fs::copy(data.join(file), left.path().join(file)).expect("copied");
    }
    left
}

const TO_ZENOH: [(Phase, Phase); 2] = [(Phase::Broadcast, Phase::Dual), (Phase::Dual, Phase::Zenoh)];

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_but_not_carried_before_a_kill_is_carried_once_in_order_and_before_what_is_new() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let mut first = start(data.path(), &TO_ZENOH).await;
    first.append(1..=5).await;
    first.hears(1..=5).await;
    first.far.fail(true);
    first.append(6..=700).await;
    first.far.fail(false);
    // They may have been in a queue of a network all along, so they count for nothing yet.
    let left = killed_now(data.path());
    let mut second = start(left.path(), &[]).await;
    second.append(701..=702).await;
    assert_eq!(second.node.progress(Side::Zenoh).carried(), None, "listeners get time to come back");
    second.hears(1..=702).await;
    second.append(703..=703).await;
    second.hears(703..=703).await;
    second.end().await;
    first.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_clean_close_only_what_could_not_be_carried_is_carried_again() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let mut first = start(data.path(), &TO_ZENOH).await;
    first.append(1..=5).await;
    first.hears(1..=5).await;
    within("all is carried", first.node.progress(Side::Zenoh).through(Position(5))).await;
    first.end().await;
    let mut second = start(data.path(), &[]).await;
    assert_eq!(second.node.progress(Side::Zenoh).carried(), Some(Position(5)), "it needn't wait for anybody");
    second.append(6..=6).await;
    second.hears(6..=6).await;
    second.far.fail(true);
    second.append(7..=8).await;
    within("all was tried", second.node.progress(Side::Zenoh).through(Position(8))).await;
    second.end().await;
    let mut third = start(data.path(), &[]).await;
    third.hears(7..=8).await;
    third.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_while_zenoh_did_not_carry_is_no_news_when_it_does() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let first = start(data.path(), &[]).await;
    first.append(1..=5).await;
    // Recorded, but the bus didn't follow any more.
    steps_of(&first.node, &TO_ZENOH).await;
    let left = killed_now(data.path());
    let mut second = start(left.path(), &[]).await;
    second.append(6..=6).await;
    second.hears(6..=6).await;
    let back = [(Phase::Zenoh, Phase::Broadcast)];
    steps_of(&second.node, &back).await;
    let left = killed_now(left.path());
    let third = start(left.path(), &[]).await;
    third.append(7..=8).await;
    third.end().await;
    let mut fourth = start(left.path(), &TO_ZENOH).await;
    fourth.append(9..=9).await;
    fourth.hears(9..=9).await;
    fourth.end().await;
    second.end().await;
    first.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_log_keeps_how_far_it_was_carried_although_nothing_is_committed() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let mut first = start(data.path(), &TO_ZENOH).await;
    first.append(1..=5).await;
    first.hears(1..=5).await;
    let file = rusqlite::Connection::open(data.path().join(NodeOptions::LOG_FILE)).expect("opens");
    let kept =
        || file.query_row("SELECT carried FROM log", [], |row| row.get::<_, u64>(0)).expect("readable");
    assert!(kept() < 5, "it may still be in a queue");
    within("it is kept", async {
        while kept() < 5 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let left = killed_now(data.path());
    let mut second = start(left.path(), &[]).await;
    second.append(6..=6).await;
    second.hears(6..=6).await;
    second.end().await;
    first.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_superseded_carries_nothing_of_its_past() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let mut first = start(data.path(), &TO_ZENOH).await;
    first.append(1..=5).await;
    first.hears(1..=5).await;
    let left = killed_now(data.path());
    let mut second = start(left.path(), &[]).await;
    let own = second.node.own_log().expect("it has a log").clone();
    own.supersede(Some("another store node has a later epoch".into()));
    // Longer than listeners get to come back.
    let heard = tokio::time::timeout(Duration::from_secs(7), second.heard.next()).await;
    assert!(heard.is_err(), "{heard:?}");
    own.supersede(None);
    second.hears(1..=5).await;
    second.end().await;
    first.end().await;
}
