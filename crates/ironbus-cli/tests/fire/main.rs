//! The migration under fire: a log goes from one process to many nodes and back while everybody writes and
//! reads and nodes are killed, and no subscription may notice anything but pauses.
//!
//! A store node and two edge nodes are processes; a third edge node is in this one. `just migration` runs
//! all of it (`IRONBUS_FIRE=full`); without, the run is short. A run prints its seed, and `IRONBUS_FIRE_SEED`
//! gives the same kills at the same moments.

mod cluster;
mod figures;
mod history;
mod raw;
mod readers;
mod schedule;
mod sse;
mod writers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ironbus::tail::Merged;
use ironbus_testkit::real_log::real_log;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, NODES};
use crate::history::History;
use crate::raw::Listeners;
use crate::readers::Readers;
use crate::writers::Writers;

/// How much fire there is.
pub(crate) struct Scale {
    /// How many events of the real log there are, from its beginning.
    events: usize,
    /// How many events are appended in a second.
    rate: u32,
    subscriptions: usize,
    listeners: usize,
    /// How often the whole way is gone, there and back; each time each node is killed once.
    rounds: usize,
    /// How long a phase lasts at the least.
    phase: Duration,
    /// Within what time from its beginning each node is killed in a round.
    kills_within: Duration,
}

impl Scale {
    fn of_environment() -> Self {
        if std::env::var("IRONBUS_FIRE").is_ok_and(|scale| scale == "full") {
            return Self {
                events: usize::MAX,
                rate: 800,
                subscriptions: 200,
                listeners: 20,
                rounds: 2,
                phase: Duration::from_secs(7),
                kills_within: Duration::from_secs(30),
            };
        }
        Self {
            events: 2_000,
            rate: 200,
            subscriptions: 40,
            listeners: 5,
            rounds: 1,
            phase: Duration::from_millis(1_500),
            kills_within: Duration::from_secs(6),
        }
    }
}

fn seed() -> u64 {
    let seed = std::env::var("IRONBUS_FIRE_SEED").ok();
    seed.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("IRONBUS_FIRE_SEED is a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_subscription_notices_a_migration_there_and_back_while_nodes_are_killed() {
    let Some(mut source) = real_log("bpic2013-incidents.jsonl.gz") else { return };
    let (scale, seed) = (Scale::of_environment(), seed());
    source.truncate(scale.events);
    println!("IRONBUS_FIRE_SEED={seed}");
    let mut chance = fastrand::Rng::with_seed(seed);

    let cluster = Arc::new(Cluster::start(&mut chance).await);
    let readers = Readers::start(&cluster, &source, scale.subscriptions, &mut chance);
    let listeners = Listeners::start(&cluster.here, &source, scale.listeners, &mut chance);
    let (began, over) = (Instant::now(), CancellationToken::new());
    let writers = Writers::start(&cluster, &source, scale.rate, &over);

    let fire = schedule::run(&cluster, &scale, &mut chance).await;
    over.cancel();
    let written = writers.end().await;
    let wrote = began.elapsed();

    let log = cluster.log().await;
    let waited = readers.caught_up(&log).await;
    let (subscriptions, heard) = (readers.end(), listeners.end());
    let Merged { by_bus, by_log, .. } = cluster.merged();
    println!("{by_bus} events came by Zenoh to the node in this process, {by_log} from the log");
    assert!(by_bus > 0 && by_log > 0, "the way led over both");
    cluster.end().await;
    let history = History { log, written, subscriptions, heard };

    figures::print(&history, &fire, wrote, waited);
    let violations = history.violations();
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
    history.a_wrong_history_would_be_noticed();
    cluster.forget();
}

/// What a node is called whose readers are in this process.
const HERE: &str = "here";

/// All the nodes that have readers.
fn places() -> impl Iterator<Item = &'static str> + Clone {
    NODES.into_iter().chain([HERE])
}
