//! Several store nodes that have one log of slots: one appends for the others where they would race it.

use std::path::Path;
use std::sync::Arc;

use ironbus::event::Position;
use ironbus::{Node, NodeOptions};
use ironbus_testkit::check::{check_acknowledged, check_log};
use ironbus_testkit::{read_all, within};
use ironbus_zenoh::storage::{Batch, CommitLog, ObjectLog, Pace, Slot, StorageOptions, StoragePlaces};
use ironbus_zenoh::{StoreNode, StoreNodeOptions, ZenohOptions};

use crate::support::{Place, end, one};

async fn node(place: &Place, name: &str, listens: bool) -> (Node, Arc<StoreNode>) {
    let data = place.path().join(name);
    // It looks when it must, so that it is late behind the other.
    let pace =
        Pace { least: std::time::Duration::from_secs(3600), most: std::time::Duration::from_secs(3600) };
    let storage =
        StoragePlaces { data: data.clone(), options: StorageOptions { pace, ..StorageOptions::default() } };
    let log = format!("folder:{}", slots(place.path()).display()).parse().expect("an address");
    let options = NodeOptions { log: Some(log), storage: Some(Arc::new(storage)), ..NodeOptions::new(data) };
    let node = Node::open(options).await.expect("the log opens");
    let endpoint = [place.endpoint()];
    let endpoint = [endpoint[0].as_str()];
    let (listen, connect): (&[&str], &[&str]) = if listens { (&endpoint, &[]) } else { (&[], &endpoint) };
    let session = ZenohOptions::peer(listen, connect).open().await.expect("it opens");
    let joined = StoreNode::join(&node, session, StoreNodeOptions { name: name.into() }).await;
    (node, joined.expect("it joins"))
}

fn slots(place: &Path) -> std::path::PathBuf {
    place.join("slots")
}

/// Who wrote the event at a position.
async fn writer_of(log: &ObjectLog, position: Position) -> Option<uuid::Uuid> {
    for slot in 0.. {
        let bytes = log.read(Slot(slot)).await.expect("readable")?;
        let batch = Batch::decode(Slot(slot), bytes).expect("sound");
        if batch.events().iter().any(|event| event.position == position) {
            return Some(batch.writer);
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_with_one_log_one_appends_for_both() {
    let place = Place::new();
    let (first, _first_link) = node(&place, "first", true).await;
    let (second, _second_link) = node(&place, "second", false).await;
    let leader = first.own_log().expect("it has a log").current().writer();
    let log = ObjectLog::open_folder(&slots(place.path())).await.expect("a folder can hold a log");
    let mut acknowledged = Vec::new();
    within("an append of the second node's that the first made", async {
        for n in 0.. {
            acknowledged.push(first.store().append(one(1, 2 * n)).await.expect("appended"));
            let appended = second.store().append(one(2, 2 * n + 1)).await.expect("appended");
            let made_by = writer_of(&log, appended.head).await;
            acknowledged.push(appended);
            if made_by == leader {
                break;
            }
        }
    })
    .await;
    // Without the first, the second appends itself, after it was not answered.
    end(&first).await;
    acknowledged.push(second.store().append(one(2, 1_000_000)).await.expect("appended"));
    let made_by = writer_of(&log, acknowledged[acknowledged.len() - 1].head).await;
    assert_eq!(made_by, second.own_log().expect("it has a log").current().writer());
    let events = read_all(&*second.store()).await.expect("readable");
    check_log(&events).expect("contiguous");
    assert_eq!(events.len(), acknowledged.len(), "each once");
    check_acknowledged(acknowledged.iter().flat_map(|appended| &appended.events), &events)
        .expect("all is there");
    end(&second).await;
}
