//! `ironbus verify --replica`: compares a Zenoh storage with the log, and puts to it what it lacks.
//!
//! The log is walked page by page, up to where it ended at the beginning, and the replica is asked for each event
//! by its key; so a page is all that is in memory, beside 16 bytes for each event to know keys of the log by.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ironbus::event::{Epoch, StoreId};
use ironbus::store::ChainHash;
use ironbus::store::sqlite::Verification;
use ironbus::{EventKey, EventStore as _, KeyPattern, NodeOptions, Position, StoredEvent};
use ironbus_zenoh::ZenohOptions;
use ironbus_zenoh::replica::{Comparison, Ranges, Replica, Storage, Strangers};
use ironbus_zenoh::wire::Origin;
use serde::Deserialize;
use serde_json::{Value, json};

use super::verify;
use crate::args::{self, ReplicaCheck};
use crate::backend::{Backend, Use};
use crate::config::{Client, Config};
use crate::failure::{Failure, Kind};
use crate::network::{self, Zenoh};
use crate::output::{Form, count, events_bar, grouped, out, shown};

/// How many events are compared, and perhaps put, at a time.
const PAGE: usize = 1000;

/// How long the replica may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found, and done.
struct Outcome {
    storage: Storage,
    /// What was found before the repair, where there was one.
    before: Option<Comparison>,
    /// How many events were put and are there.
    repaired: u64,
    found: Comparison,
    /// How many keys the log hasn't, and the first of them; `None` where that wasn't looked at.
    foreign: Option<(u64, Vec<String>)>,
}

impl Outcome {
    fn is_complete(&self) -> bool {
        self.found.is_complete() && self.foreign.as_ref().is_none_or(|(count, _)| *count == 0)
    }
}

pub(crate) async fn run(args: args::Verify, config: &Config) -> Result<ExitCode, Failure> {
    let form = Form::choose(args.form);
    let options = options(&args.replica, &config.zenoh)?;
    let mut out = out();
    let log = match &args.replica.url {
        None => Some(NodeOptions::new(config.serve.data(args.data.data.clone())).log_path()),
        Some(_) => None,
    };
    let proven = match &log {
        Some(path) => Some(verify::walk(path).await?),
        None => None,
    };
    if let (Some(found), Some(path)) = (&proven, &log) {
        if form == Form::Human {
            verify::tell(&mut out, found, path)?;
            out.flush()?;
        }
        if !found.is_sound() {
            if form == Form::Lines {
                writeln!(out, "{}", json!({ "log": verify::document(found), "complete": false }))?;
                out.flush()?;
            }
            return Err(Failure::failed("the log isn't sound, so nothing can be compared with it"));
        }
    }
    let backend = reference(&args.replica, log, &config.client).await?;
    let name = args.replica.replica.as_deref().filter(|name| !name.is_empty());
    let replica = Replica::reach(&options, name, PATIENCE).await?;
    let compared = compare(&args.replica, &backend, &replica, proven.as_ref()).await;
    replica.close().await;
    let outcome = compared?;
    match form {
        Form::Lines => writeln!(out, "{}", document(&outcome, proven.as_ref()))?,
        Form::Human => tell(&mut out, &outcome, args.replica.repair)?,
    }
    out.flush()?;
    Ok(if outcome.is_complete() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// How the replica is reached. Of the configuration only what says how to connect: it is a node's, which may be
/// running and listening.
fn options(args: &ReplicaCheck, file: &Zenoh) -> Result<ZenohOptions, Failure> {
    let given = args::Network {
        edge: false,
        name: None,
        zenoh_listen: Vec::new(),
        zenoh_connect: args.zenoh_connect.clone(),
        zenoh_client: false,
        zenoh_config: args.zenoh_config.clone(),
        store: None,
        zenoh_ca: args.zenoh_ca.clone(),
        zenoh_cert: args.zenoh_cert.clone(),
        zenoh_key: args.zenoh_key.clone(),
        zenoh_mtls: args.zenoh_mtls,
        zenoh_user: args.zenoh_user.clone(),
        zenoh_users: None,
    };
    let file = Zenoh {
        connect: file.connect.clone(),
        client: file.client,
        ca: file.ca.clone(),
        cert: file.cert.clone(),
        key: file.key.clone(),
        mtls: file.mtls,
        user: file.user.clone(),
        password: file.password.clone(),
        ..Zenoh::default()
    };
    let options = network::options(&given, &file, false)?;
    let reaches = |options: &ZenohOptions| !options.connect.is_empty() || options.file.is_some();
    options.filter(reaches).ok_or_else(|| {
        Failure::usage("say where the replica's router is, for example --connect tcp/127.0.0.1:7447")
    })
}

/// The log that counts.
async fn reference(args: &ReplicaCheck, log: Option<PathBuf>, config: &Client) -> Result<Backend, Failure> {
    let data = log.and_then(|path| path.parent().map(ToOwned::to_owned));
    let target = args::Where { url: args.url.clone(), data, token: args.token.clone() };
    Backend::find(&target, config, Use::Read).await
}

async fn compare(
    args: &ReplicaCheck,
    backend: &Backend,
    replica: &Replica,
    proven: Option<&Verification>,
) -> Result<Outcome, Failure> {
    let storage = replica.storage().clone();
    // A busy log would never end.
    let until = match proven {
        Some(found) => found.head,
        None => backend.head().await?,
    };
    let walk = Walk { backend, replica, until };
    let (mut before, mut repaired) = (None, 0);
    if args.repair {
        let origin = origin(backend).await?;
        let (found, put) = walk.repair(origin).await?;
        (before, repaired) = (Some(found), put);
    }
    let (found, strangers) = walk.compare(!args.skip_foreign).await?;
    if let Some(proven) = proven
        && storage.keeps_all()
        && proven.chain != hex(&found.log_chain())
    {
        return Err(Failure::failed("the log was replaced while it was compared; begin anew"));
    }
    let foreign = match strangers {
        Some(strangers) => Some(walk.strangers(strangers, found.held()).await?),
        None => None,
    };
    Ok(Outcome { storage, before, repaired, found, foreign })
}

/// The way through the log.
struct Walk<'a> {
    backend: &'a Backend,
    replica: &'a Replica,
    until: Position,
}

impl Walk<'_> {
    /// What the replica holds of each event.
    async fn compare(&self, foreign: bool) -> Result<(Comparison, Option<Strangers>), Failure> {
        let mut found = Comparison::default();
        let mut strangers = foreign.then(Strangers::default);
        self.pages(async |events| {
            let held = self.replica.fetch(events).await?;
            for (event, held) in events.iter().zip(held) {
                found.take(event, held.as_deref());
                if let Some(strangers) = &mut strangers {
                    strangers.know(event);
                }
            }
            Ok(())
        })
        .await?;
        Ok((found, strangers))
    }

    /// The same, and puts what the replica lacks or has otherwise; says how many are there then.
    async fn repair(&self, origin: Origin) -> Result<(Comparison, u64), Failure> {
        let (mut found, mut put) = (Comparison::default(), 0);
        self.pages(async |events| {
            let held = self.replica.fetch(events).await?;
            let mut wrong = Vec::new();
            for (event, held) in events.iter().zip(held) {
                found.take(event, held.as_deref());
                if held != Some(event.json()) {
                    wrong.push(Arc::clone(event));
                }
            }
            if !wrong.is_empty() {
                put += self.replica.put(origin, &wrong).await? as u64;
            }
            Ok(())
        })
        .await?;
        Ok((found, put))
    }

    /// Gives the log, as far as the replica is to hold it, in pages.
    async fn pages(
        &self,
        mut take: impl AsyncFnMut(&[Arc<StoredEvent>]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let bar = events_bar();
        bar.set_length(self.until.0);
        let mut after = Position::START;
        while after < self.until {
            let mut events = self.read(after).await?;
            events.retain(|event| event.position <= self.until);
            let Some(last) = events.last() else { break };
            after = last.position;
            events.retain(|event| self.replica.storage().keeps(&EventKey::of(event)));
            take(&events).await?;
            bar.set_position(after.0);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// The next page of the log, which has to show every position.
    async fn read(&self, after: Position) -> Result<Vec<Arc<StoredEvent>>, Failure> {
        let page = self.backend.read(after, &KeyPattern::everything(), PAGE).await?;
        let mut expected = after;
        for event in &page.events {
            expected = expected.next();
            if event.position != expected {
                return Err(Failure::usage(format!(
                    "the server doesn't show the event at position {expected}: it has a session scope; give an \
                     operator's token (--token), or compare with the data directory (--data)"
                )));
            }
        }
        Ok(page.events)
    }

    /// The keys that the replica has and the log hasn't, of which `held` were found.
    async fn strangers(&self, strangers: Strangers, held: u64) -> Result<(u64, Vec<String>), Failure> {
        let mut strangers = self.replica.tell_all(strangers, held).await?;
        // What was appended meanwhile isn't foreign.
        loop {
            let events = self.read(strangers.head().max(self.until)).await?;
            if events.is_empty() {
                return Ok(strangers.finish());
            }
            for event in events {
                strangers.know(&event);
            }
        }
    }
}

/// As whom the store node sends: what is put must be taken for its own.
async fn origin(backend: &Backend) -> Result<Origin, Failure> {
    /// What a server says of its log.
    #[derive(Deserialize)]
    struct Log {
        store_id: Option<StoreId>,
        epoch: Epoch,
    }
    match backend {
        Backend::Local(store) => {
            let head = store.head().await?;
            Ok(Origin { store_id: head.store_id, epoch: head.lineage.epoch() })
        }
        Backend::Remote(remote) => {
            let log: Log = serde_json::from_slice(&remote.status_document().await?).map_err(|error| {
                Failure::failed(format!("the server's status can't be understood: {error}"))
            })?;
            let reaches_no_log = || Failure::new(Kind::Unavailable, "the server can't reach its log now");
            Ok(Origin { store_id: log.store_id.ok_or_else(reaches_no_log)?, epoch: log.epoch })
        }
    }
}

fn hex(chain: &ChainHash) -> String {
    chain.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn document(outcome: &Outcome, proven: Option<&Verification>) -> Value {
    let Outcome { storage, before, repaired, found, foreign } = outcome;
    json!({
        "log": proven.map(verify::document),
        "replica": {
            "storage": storage.name,
            "router": storage.router,
            "keys": storage.keys.as_str(),
            "volume": storage.volume,
        },
        "complete": outcome.is_complete(),
        "before": before.as_ref().map(counts),
        "repaired": repaired,
        "found": counts(found),
        "foreign": foreign.as_ref().map(|(count, _)| count),
        "foreign_keys": foreign.as_ref().map(|(_, first)| first),
    })
}

fn counts(found: &Comparison) -> Value {
    let ranges = |ranges: &Ranges| json!({ "count": ranges.count(), "first": ranges.first() });
    json!({
        "events": found.events,
        "head": found.head,
        "held": found.held(),
        "missing": ranges(&found.missing),
        "behind": ranges(&found.behind),
        "altered": ranges(&found.altered),
        "log_chain": hex(&found.log_chain()),
        "replica_chain": hex(&found.replica_chain()),
    })
}

fn tell(out: &mut impl Write, outcome: &Outcome, repair: bool) -> std::io::Result<()> {
    let Outcome { storage, before, repaired, found, foreign } = outcome;
    writeln!(out, "replica {}", shown(&storage.to_string()))?;
    if let Some(before) = before {
        faults(out, before, "it lacked", "it had")?;
        writeln!(out, "put again: {}", count(*repaired, "event"))?;
    }
    let (events, head) = (count(found.events, "event"), grouped(found.head.0));
    if outcome.is_complete() {
        let none = if foreign.is_some() { ", and nothing else" } else { "" };
        writeln!(out, "complete: it holds {events} up to position {head}, byte for byte{none}")?;
        return writeln!(out, "chain  {}", hex(&found.replica_chain()));
    }
    writeln!(out, "NOT COMPLETE: it holds {} of {events}", grouped(found.held()))?;
    faults(out, found, "it lacks", "it has")?;
    if let Some((foreign, first)) = foreign
        && *foreign > 0
    {
        writeln!(out, "  - it has {} that the log hasn't, among them:", count(*foreign, "key"))?;
        for key in first {
            writeln!(out, "      {}", shown(key))?;
        }
        writeln!(out, "Nobody but the store node should put on events/**: see who may (docs/REPLICAS.md).")?;
    }
    if !repair && !is_whole(found) {
        writeln!(out, "`--repair` puts to it what it lacks or has otherwise.")?;
    }
    Ok(())
}

fn is_whole(found: &Comparison) -> bool {
    found.missing.count() + found.behind.count() + found.altered.count() == 0
}

/// What is wrong, one kind a line.
fn faults(out: &mut impl Write, found: &Comparison, lacks: &str, has: &str) -> std::io::Result<()> {
    let kinds = [
        (&found.missing, lacks.to_owned(), ""),
        (&found.behind, lacks.to_owned(), " at the end"),
        (&found.altered, format!("{has} otherwise"), ""),
    ];
    for (ranges, verb, place) in kinds {
        if ranges.count() > 0 {
            let events = count(ranges.count(), "event");
            writeln!(out, "  - {verb} {events}{place}: {}", positions(ranges))?;
        }
    }
    Ok(())
}

/// Stretches of positions: `positions 3 to 4, 9, …`.
fn positions(ranges: &Ranges) -> String {
    let stretch = |(from, to): &(Position, Position)| {
        if from == to { grouped(from.0) } else { format!("{} to {}", grouped(from.0), grouped(to.0)) }
    };
    let mut stretches: Vec<String> = ranges.first().iter().map(stretch).collect();
    if ranges.has_more() {
        stretches.push("…".to_owned());
    }
    let noun = if ranges.count() == 1 { "position" } else { "positions" };
    format!("{noun} {}", stretches.join(", "))
}
