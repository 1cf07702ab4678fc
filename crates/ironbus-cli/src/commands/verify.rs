//! `ironbus verify`: walks a log and proves that it is sound.

use std::io::Write;
use std::process::ExitCode;

use ironbus::NodeOptions;
use ironbus::store::sqlite::{Verification, verify};
use serde_json::json;

use crate::args;
use crate::config::Serve;
use crate::failure::Failure;
use crate::output::{Form, count, events_bar, out, shown};

pub(crate) async fn run(args: args::Verify, config: &Serve) -> Result<ExitCode, Failure> {
    let data = config.data(args.data.data);
    let path = NodeOptions::new(data).log_path();
    let bar = events_bar();
    let (told, walked) = (bar.clone(), path.clone());
    let walk = tokio::task::spawn_blocking(move || {
        verify(&walked, |done, of| {
            told.set_length(of);
            told.set_position(done);
        })
    });
    let found = walk.await.map_err(|error| Failure::failed(format!("the walk broke off: {error}")))??;
    bar.finish_and_clear();
    let mut out = out();
    match Form::choose(args.form) {
        Form::Lines => {
            let faults: Vec<String> = found.faults.iter().map(ToString::to_string).collect();
            let document = json!({
                "sound": found.is_sound(),
                "events": found.events,
                "aggregates": found.aggregates,
                "head": found.head,
                "chain": found.chain,
                "phase": found.phase,
                "migration_steps": found.steps,
                "faults": faults,
            });
            writeln!(out, "{document}")?;
        }
        Form::Human => tell(&mut out, &found, &path)?,
    }
    out.flush()?;
    Ok(if found.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn tell(out: &mut impl Write, found: &Verification, path: &std::path::Path) -> std::io::Result<()> {
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
