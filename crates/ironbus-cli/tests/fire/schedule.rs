//! What happens while everybody writes and reads: the way to Zenoh and back, step by step by the command
//! line, and each node killed at a random moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ironbus_testkit::PATIENCE;
use serde_json::Value;

use crate::Scale;
use crate::cluster::{AGAIN, Cluster, NODES, ironbus, output};

/// The way there and back.
const WAY: [(&str, &str); 4] =
    [("advance", "dual"), ("advance", "zenoh"), ("rollback", "dual"), ("rollback", "broadcast")];

/// How long after all nodes are ready again a kill may still be noticed: browsers wait for two seconds.
const SETTLING: Duration = Duration::from_secs(3);

/// What happened, and when.
#[derive(Default)]
pub(crate) struct Fire {
    pub(crate) switches: Vec<Switch>,
    pub(crate) kills: Vec<Kill>,
}

/// A step of the migration.
pub(crate) struct Switch {
    pub(crate) to: &'static str,
    /// When the step was asked for that was taken, and when it was done.
    pub(crate) from: Instant,
    pub(crate) until: Instant,
    /// How long it was refused before, or nobody answered.
    pub(crate) waited: Duration,
    pub(crate) refused: u64,
}

/// A node that was killed.
pub(crate) struct Kill {
    pub(crate) node: &'static str,
    pub(crate) at: Instant,
    /// When its process listened again.
    pub(crate) listening: Instant,
    /// When every node could reach the log again.
    pub(crate) ready: Instant,
}

impl Fire {
    /// Whether a kill could be noticed between two moments.
    pub(crate) fn burns(&self, from: Instant, until: Instant) -> bool {
        self.kills.iter().any(|kill| kill.at < until && from < kill.ready + SETTLING)
    }
}

pub(crate) async fn run(cluster: &Arc<Cluster>, scale: &Scale, chance: &mut fastrand::Rng) -> Fire {
    let mut fire = Fire::default();
    for round in 1..=scale.rounds {
        let within = u64::try_from(scale.kills_within.as_millis()).expect("it fits");
        let kills = NODES.into_iter().enumerate().map(|(node, name)| {
            let (after, away) = (chance.u64(0..within), chance.u64(100..2_000));
            println!("round {round}: {name} is killed after {after} ms and started again {away} ms later");
            let (after, away) = (Duration::from_millis(after), Duration::from_millis(away));
            tokio::spawn(kill(Arc::clone(cluster), node, after, away))
        });
        let kills: Vec<_> = kills.collect();
        for (way, to) in WAY {
            tokio::time::sleep(scale.phase).await;
            let switch = step(cluster, way, to).await;
            match &switch {
                Switch { refused: 0, .. } => println!("{way} to {to}: at once"),
                Switch { waited, refused, .. } => {
                    println!("{way} to {to}: allowed after {waited:.1?} and {refused} refusals");
                }
            }
            fire.switches.push(switch);
        }
        tokio::time::sleep(scale.phase).await;
        for kill in kills {
            fire.kills.push(kill.await.expect("the node comes back"));
        }
    }
    fire
}

async fn kill(cluster: Arc<Cluster>, node: usize, after: Duration, away: Duration) -> Kill {
    tokio::time::sleep(after).await;
    let at = Instant::now();
    cluster.kill(node);
    tokio::time::sleep(away).await;
    cluster.start_again(node).await;
    let listening = Instant::now();
    cluster.ready().await;
    Kill { node: NODES[node], at, listening, ready: Instant::now() }
}

/// Takes a step. While it is refused, or nobody answers, it is asked for again.
async fn step(cluster: &Cluster, way: &str, to: &'static str) -> Switch {
    let began = Instant::now();
    let mut refused = 0;
    loop {
        let from = Instant::now();
        let mut command = ironbus();
        command.args([
            "migrate",
            way,
            "--to",
            to,
            "--reason",
            "fire",
            "--by",
            "fire",
            "--url",
            cluster.url(0),
        ]);
        let taken = output(command).await;
        // A node that is killed may have taken the step without saying so.
        if taken.status.success() || phase(cluster).await.is_some_and(|phase| phase == to) {
            return Switch { to, from, until: Instant::now(), waited: from - began, refused };
        }
        let said = String::from_utf8_lossy(&taken.stderr);
        // Refused, or the store node is away: what the command line's help says of its exit codes.
        assert!(matches!(taken.status.code(), Some(3 | 4)), "{way} to {to}: {said}");
        assert!(began.elapsed() < PATIENCE, "{way} to {to} is refused again and again: {said}");
        refused += 1;
        tokio::time::sleep(AGAIN).await;
    }
}

/// The phase that the store node is in; `None` where it doesn't answer.
async fn phase(cluster: &Cluster) -> Option<String> {
    let mut command = ironbus();
    command.args(["migrate", "status", "--json", "--url", cluster.url(0)]);
    let answer = output(command).await;
    let document: Value = serde_json::from_slice(&answer.stdout).ok()?;
    document["status"]["phase"].as_str().map(str::to_owned)
}
