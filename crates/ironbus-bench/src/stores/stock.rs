//! What a stock Zenoh storage does with the same events: the storage manager with its memory volume, in a router of
//! this process, asked over TCP. It has no versions, no positions, and a put is not acknowledged.

use std::time::{Duration, Instant};

use ironbus_replica::MemoryReplica;
use zenoh::Session;
use zenoh::qos::CongestionControl;

use crate::appends::payload;
use crate::table::{Table, grouped, median, micros, per_second};

/// How many events an aggregate has.
const SIZE: u64 = 10;

/// How many loads are timed.
const LOADS: u64 = 11;

pub(super) async fn measure(total: u64, table: &mut Table) {
    let endpoint = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("tcp/{}", free.local_addr().expect("it has one"))
    };
    let replica = MemoryReplica::start(&endpoint, "events", "events/**").await.expect("a router");
    let session = connect(&endpoint).await;
    let payload = payload();
    let began = Instant::now();
    for n in 0..total {
        let key = format!("events/Bench/{}/{}", n / SIZE, n % SIZE + 1);
        let put = session.put(key, payload.as_str()).congestion_control(CongestionControl::Block);
        put.await.expect("put");
        if (n + 1) % 100_000 == 0 {
            eprintln!("filling a stock storage: {} of {total}", n + 1);
        }
    }
    // They are stored once the last one can be got.
    let last = format!("events/Bench/{}/{SIZE}", total / SIZE - 1);
    while count(&session, &last).await == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let puts = per_second(total, began.elapsed());
    let mut loads = Vec::new();
    for n in 0..LOADS {
        let aggregate = (n * 7919) % (total / SIZE);
        let one = Instant::now();
        let found = count(&session, &format!("events/*/{aggregate}/**")).await;
        loads.push(one.elapsed().as_secs_f64() * 1e6);
        assert_eq!(found, SIZE, "of aggregate {aggregate}");
    }
    let began = Instant::now();
    assert_eq!(count(&session, "events/**").await, total);
    let all = per_second(total, began.elapsed());
    table.row(
        "a stock Zenoh storage, in memory: nothing acknowledged, no versions, no order over all",
        "–",
        &format!(
            "puts {}/s; `get events/*/{{id}}/**` of 10 events among {} p50 {}; `get events/**` {} events/s",
            grouped(puts),
            grouped(total as f64),
            micros(median(loads)),
            grouped(all)
        ),
    );
    session.close().await.expect("closed");
    replica.close().expect("closed");
}

async fn connect(endpoint: &str) -> Session {
    let mut config = zenoh::Config::default();
    for (key, value) in [
        ("mode", "'client'".to_owned()),
        ("connect/endpoints", format!("['{endpoint}']")),
        ("scouting/multicast/enabled", "false".into()),
    ] {
        config.insert_json5(key, &value).expect("a setting");
    }
    zenoh::open(config).await.expect("connected")
}

async fn count(session: &Session, keys: &str) -> u64 {
    let replies = session.get(keys).timeout(Duration::from_secs(120)).await.expect("asked");
    let mut found = 0;
    while let Ok(reply) = replies.recv_async().await {
        found += u64::from(reply.into_result().is_ok());
    }
    found
}
