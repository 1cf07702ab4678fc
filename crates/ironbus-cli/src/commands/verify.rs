//! `ironbus verify`: walks a log and proves that it is sound. With `--replica` it goes on in [`super::replica`].

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use ironbus::moving::{LogPlace, Whereabouts};
use ironbus::store::sqlite::{Verification, verify};
use ironbus_zenoh::storage::{StorageOptions, StoragePlaces};
use serde_json::{Value, json};

use crate::args;
use crate::config::Config;
use crate::failure::Failure;
use crate::output::{Form, count, events_bar, out, shown};

pub(crate) async fn run(args: args::Verify, config: &Config) -> Result<ExitCode, Failure> {
    if args.replica.replica.is_some() {
        return super::replica::run(args, config).await;
    }
    let data = config.serve.data(args.data.data);
    let place = Whereabouts::read(&data)?.unwrap_or_else(Whereabouts::usual).log;
    if !place.is_database() {
        return slots(&data, &place, Form::choose(args.form)).await;
    }
    let path = place.path_in(&data);
    let found = walk(&path).await?;
    let mut out = out();
    match Form::choose(args.form) {
        Form::Lines => writeln!(out, "{}", document(&found))?,
        Form::Human => tell(&mut out, &found, &path)?,
    }
    out.flush()?;
    Ok(if found.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Walks a log of slots.
async fn slots(data: &Path, place: &LogPlace, form: Form) -> Result<ExitCode, Failure> {
    let places = StoragePlaces { data: data.to_owned(), options: StorageOptions::default() };
    let (mut out, verified) = (out(), places.verify(place).await);
    let document = match &verified {
        Ok(Some(found)) => json!({
            "sound": true, "place": place, "events": found.head, "head": found.head, "epoch": found.epoch,
            "sealed": found.sealed, "slots": found.slots, "chain": hex(&found.chain), "faults": [],
        }),
        Ok(None) => return Err(Failure::usage(format!("there is no log at {place}"))),
        Err(error) => json!({ "sound": false, "place": place, "faults": [error.to_string()] }),
    };
    match (form, &verified) {
        (Form::Lines, _) => writeln!(out, "{document}")?,
        (Form::Human, Ok(Some(found))) => {
            let (events, slots) = (count(found.head.0, "event"), count(found.slots, "slot"));
            writeln!(out, "sound: {place} holds {events} in {slots}, without a hole, as they were stored")?;
            writeln!(out, "chain  {}", hex(&found.chain))?;
        }
        (Form::Human, Err(error)) => writeln!(out, "NOT SOUND: {}", shown(&error.to_string()))?,
        (Form::Human, Ok(None)) => {}
    }
    out.flush()?;
    Ok(if verified.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn hex(chain: &[u8]) -> String {
    chain.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Walks the log on a thread where it may block.
pub(super) async fn walk(path: &Path) -> Result<Verification, Failure> {
    let bar = events_bar();
    let (told, walked) = (bar.clone(), path.to_owned());
    let walk = tokio::task::spawn_blocking(move || {
        verify(&walked, |done, of| {
            told.set_length(of);
            told.set_position(done);
        })
    });
    let found = walk.await.map_err(|error| Failure::failed(format!("the walk broke off: {error}")))??;
    bar.finish_and_clear();
    Ok(found)
}

pub(super) fn document(found: &Verification) -> Value {
    let faults: Vec<String> = found.faults.iter().map(ToString::to_string).collect();
    json!({
        "sound": found.is_sound(),
        "events": found.events,
        "aggregates": found.aggregates,
        "head": found.head,
        "chain": found.chain,
        "phase": found.phase,
        "migration_steps": found.steps,
        "faults": faults,
    })
}

pub(super) fn tell(out: &mut impl Write, found: &Verification, path: &Path) -> std::io::Result<()> {
    let (events, aggregates) = (count(found.events, "event"), count(found.aggregates, "aggregate"));
    let path = path.display();
    if found.is_sound() {
        writeln!(out, "sound: {path} holds {events} of {aggregates}, without a hole, as they were stored")?;
        return writeln!(out, "chain  {}", found.chain);
    }
    let faults = count(found.faults.len() as u64, "fault");
    writeln!(out, "NOT SOUND: {path}, {faults} in {events} of {aggregates}")?;
    for fault in &found.faults {
        writeln!(out, "  - {}", shown(&fault.to_string()))?;
    }
    if found.faults.len() >= Verification::MAX_FAULTS {
        writeln!(out, "  … and perhaps more: the walk ended there")?;
    }
    writeln!(out, "Keep a copy of the data directory as it is, and restore a backup.")
}
