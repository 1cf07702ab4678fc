//! Another store that does the work of an event store, started here and told what to do line by line; `ironbus-bench
//! stores` runs one such process for each beside its own. `ironbus-peers KIND FOLDER` says first `ready`, and what an
//! acknowledged append survives there, or `missing`, and what isn't installed. Then it answers
//!
//! - `append CLIENTS MILLISECONDS` with how many appends of one event there were in a second, and what half and 99 of a
//!   hundred of them took, in microseconds;
//! - `fill COUNT`, once that many events are stored, ten to an aggregate, with `done`;
//! - `load MILLISECONDS` with what half of the loads of such an aggregate took, in microseconds, and how many there were
//!   in a second;
//! - `replay COUNT` with how many events there were in a second when that many of the log were read in order.

mod nats;
mod peer;
mod postgres;
mod program;
mod redis;
mod sqlx;
mod umadb;

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use peer::{Failure, Peer, ROUND};

/// How many events an aggregate gets from a client, as with ours.
const LIFE: u64 = 8;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [umadb::SERVER, folder, address] => umadb::serve(folder, address).await,
        [kind, folder] => run(kind, Path::new(folder)).await,
        _ => Err("say which peer, and in which folder".into()),
    };
    if let Err(error) = done {
        eprint!("{error}");
        let mut cause = error.source();
        while let Some(source) = cause {
            eprint!(": {source}");
            cause = source.source();
        }
        eprintln!();
        std::process::exit(1);
    }
}

async fn run(kind: &str, folder: &Path) -> Result<(), Failure> {
    let needs = match kind {
        "postgres" => "postgres",
        "redis" => "redis-server",
        "nats" => "nats-server",
        _ => "",
    };
    if !needs.is_empty() && program::find(needs).is_none() {
        return say(&format!("missing {needs}"));
    }
    let peer: Arc<dyn Peer> = match kind {
        "postgres" => Arc::new(postgres::Postgres::start(folder).await?),
        "redis" => Arc::new(redis::Redis::start(folder).await?),
        "nats" => Arc::new(nats::Nats::start(folder).await?),
        "umadb" => Arc::new(umadb::Uma::start(folder).await?),
        "sqlx" => Arc::new(sqlx::Sqlx::open(folder).await?),
        _ => return Err(format!("no such peer: {kind}").into()),
    };
    say(&format!("ready {}", peer.survives()))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["append", clients, millis] => {
                say(&append(&peer, clients.parse()?, Duration::from_millis(millis.parse()?)).await?)?;
            }
            ["fill", count] => {
                let count: u64 = count.parse()?;
                for first in (0..count).step_by(ROUND as usize) {
                    peer.fill(first / 10, &payload()).await?;
                }
                say("done")?;
            }
            ["load", millis] => say(&load(&*peer, Duration::from_millis(millis.parse()?)).await?)?,
            ["replay", count] => {
                let (count, began): (u64, _) = (count.parse()?, Instant::now());
                let read = peer.replay(count).await?;
                if read < count {
                    return Err(format!("{read} events of {count} were read").into());
                }
                say(&format!("{}", per_second(count, began)))?;
            }
            _ => return Err(format!("an unknown line: {line}").into()),
        }
    }
    Ok(())
}

fn say(line: &str) -> Result<(), Failure> {
    println!("{line}");
    Ok(std::io::stdout().flush()?)
}

/// As long as the payload of ours.
fn payload() -> String {
    format!("[\"{}\"]", "x".repeat(290))
}

fn per_second(count: u64, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64()
}

fn at(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1000.0
}

fn nanos(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

async fn append(peer: &Arc<dyn Peer>, clients: usize, span: Duration) -> Result<String, Failure> {
    let (run, began) = (uuid::Uuid::now_v7(), Instant::now());
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let peer = Arc::clone(peer);
            tokio::spawn(async move {
                let (payload, mut latencies) = (payload(), Histogram::<u64>::new(3)?);
                let mut last = 0;
                for number in 0_u64.. {
                    if began.elapsed() >= span {
                        break;
                    }
                    let aggregate = format!("{run}-{client}-{}", number / LIFE);
                    let version = number % LIFE;
                    let one = Instant::now();
                    let after = if version == 0 { 0 } else { last };
                    last = peer.append(client, &aggregate, version, after, &payload).await?;
                    latencies.record(nanos(one))?;
                }
                Ok::<_, Failure>(latencies)
            })
        })
        .collect();
    let mut all = Histogram::<u64>::new(3)?;
    for task in tasks {
        all.add(task.await??)?;
    }
    Ok(format!("{} {} {}", per_second(all.len(), began), at(&all, 0.5), at(&all, 0.99)))
}

async fn load(peer: &dyn Peer, span: Duration) -> Result<String, Failure> {
    let (mut latencies, began, mut number) = (Histogram::<u64>::new(3)?, Instant::now(), 0);
    while began.elapsed() < span {
        let one = Instant::now();
        let size = peer.load(&number.to_string()).await?;
        latencies.record(nanos(one))?;
        if size != 10 {
            return Err(format!("the aggregate {number} has {size} events").into());
        }
        number = (number + 791) % (ROUND / 10);
    }
    Ok(format!("{} {}", at(&latencies, 0.5), per_second(latencies.len(), began)))
}
