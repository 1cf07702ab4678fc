//! A reader that stops reading among fifty: it loses nothing, slows nobody, and costs no memory.

use ironbus::{
    Aggregate, Append, EventFilter, EventStore, ExpectedVersion, Json, NewEvent, SqliteEventStore,
    SqliteOptions, Start, Subscription,
};

const EVENTS: u64 = 60_000;
const BATCH: u64 = 500;

/// Memory that the process itself holds, without the pages of files that it maps.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

async fn read_all(mut events: Subscription) -> Subscription {
    for position in 1..=EVENTS {
        let event = events.next_event().await.expect("open").expect("readable");
        assert_eq!(event.position.0, position);
    }
    events
}

/// Appends all events while 49 subscriptions read them, and one more does or stalls. Gives back by how many
/// KiB the process grew once the ring was full.
async fn growth(one_stalls: bool) -> u64 {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store =
        SqliteEventStore::open(SqliteOptions::new(data.path().join("ironbus.db"))).await.expect("opens");
    let subscribe = || store.subscribe(EventFilter::everything(), Start::Live);
    let fiftieth = subscribe();
    let mut reading: Vec<_> = (0..49).map(|_| tokio::spawn(read_all(subscribe()))).collect();
    let stalled = if one_stalls {
        Some(fiftieth)
    } else {
        reading.push(tokio::spawn(read_all(fiftieth)));
        None
    };
    let payload = Json::of(&"x".repeat(300)).expect("a text");
    let mut before = 0;
    for _ in 0..EVENTS / BATCH {
        let events = (0..BATCH).map(|_| NewEvent::new("Counted", payload.clone())).collect();
        let aggregate = Aggregate::new("Load", "1").expect("valid");
        let appended =
            store.append(Append::to(aggregate, ExpectedVersion::Any, events)).await.expect("stored");
        if appended.head.0 == 20_000 {
            before = resident_kib().unwrap_or_default();
        }
    }
    for reader in reading {
        reader.await.expect("each of the others saw everything, although one reads nothing");
    }
    let after = resident_kib().unwrap_or_default();
    if let Some(stalled) = stalled {
        let stalled = read_all(stalled).await;
        assert!(stalled.reads_of_log() >= (EVENTS - 16_384) / 512, "its events came from the log");
    }
    after.saturating_sub(before)
}

const WHICH: &str = "IRONBUS_TEST_ONE_STALLS";

/// What SQLite's own cache takes is the same in both runs, so the difference is what the stalled one costs.
/// Each run is a process of its own, because memory that was given back is not always given to the system.
#[test]
fn a_stalled_reader_among_fifty_loses_nothing_slows_nobody_and_costs_no_memory() {
    if let Ok(which) = std::env::var(WHICH) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        println!("grew by {} KiB", runtime.block_on(growth(which == "yes")));
        return;
    }
    let grown = |which: &str| -> u64 {
        let mut again = std::process::Command::new(std::env::current_exe().expect("this test"));
        let output = again.arg("--nocapture").env(WHICH, which).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let kib = said.split("grew by ").nth(1).and_then(|rest| rest.split(' ').next());
        kib.and_then(|kib| kib.parse().ok()).expect("it says by how much it grew")
    };
    let (without, with) = (grown("no"), grown("yes"));
    println!("the process grew by {without} KiB when all read, by {with} KiB when one stalled");
    // The 40,000 events that the stalled one hadn't read weigh more than 18 MB.
    assert!(with < without + 6_000, "a stalled reader costs {with} KiB, against {without} KiB");
}
