//! `ironbus bench`: the figures of ironbus on this machine, beside what they are compared with.
//!
//! What is measured, and how, is the library's ([`ironbus_cli::bench`]); here it is told. It has a runtime of its own,
//! since a measurement must be able to wait for it.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ironbus_cli::bench::{self, Bench, Machine, Part, Row, Sizes};
use serde_json::json;

use crate::args;
use crate::config::Serve;
use crate::failure::Failure;
use crate::open_files;
use crate::output::{Form, out, pairs, table};

/// Measures what was chosen.
pub(crate) fn run(args: &args::Bench, config: &Serve) -> Result<(), Failure> {
    let parts = chosen(&args.names)?;
    if let Some(file) = &args.html {
        writable(file)?;
    }
    let folder = folder_in(&place(&config.data(None)))?;
    let machine = Machine::of(folder.path());
    warn(&machine);
    let sizes = sizes(args, &parts);
    let form = Form::choose(args.form);
    tell_machine(form, &machine)?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("threads can't be started: {error}")))?;
    remove_when_interrupted(&runtime, folder.path().to_owned());
    let bar = progress();
    let say = |what: &str| {
        bar.set_message(what.to_owned());
        bar.tick();
    };
    let (mut all, mut told) = (Vec::new(), Ok(()));
    let bench = Bench { runtime: &runtime, folder: folder.path(), sizes, say: &say };
    let measured = bench::run(&bench, &parts, |rows| {
        all.extend_from_slice(rows);
        if told.is_ok() {
            told = bar.suspend(|| tell(form, rows));
        }
    });
    bar.finish_and_clear();
    runtime.shutdown_background();
    told?;
    measured.map_err(|error| {
        let hint = "is there room on the disk, and is nothing killed for want of memory?";
        Failure::failed(format!("the measurement broke off: {error} ({hint})"))
    })?;
    folder
        .close()
        .map_err(|error| Failure::failed(format!("what was measured can't be removed: {error}")))?;
    if let Some(file) = &args.html {
        std::fs::write(file, bench::page(&machine, &all)).map_err(|error| unwritable(file, &error))?;
    }
    Ok(())
}

/// Finds out before a minute of measuring rather than after it; a page that is there stays until then.
fn writable(file: &Path) -> Result<(), Failure> {
    let tried = std::fs::OpenOptions::new().append(true).create(true).open(file);
    tried.map(drop).map_err(|error| unwritable(file, &error))
}

fn unwritable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("{} can't be written: {error}", file.display()))
}

/// A folder for all that is measured, which is removed with what is given back.
fn folder_in(place: &Path) -> Result<tempfile::TempDir, Failure> {
    tempfile::Builder::new().prefix("ironbus-bench-").tempdir_in(place).map_err(|error| {
        Failure::failed(format!(
            "no folder for what is measured can be made in {}: {error}; run this where files may be written",
            place.display()
        ))
    })
}

/// How much is measured, as far as files may be open.
fn sizes(args: &args::Bench, parts: &[Part]) -> Sizes {
    let wanted = match (args.tiny, args.full) {
        (true, _) => Sizes::tiny(),
        (_, true) => Sizes::full(),
        _ => Sizes::short(),
    };
    let streams = wanted.streams;
    let most = open_files::raise(wanted.files());
    let sizes = wanted.within(most);
    if parts.contains(&Part::Sse) && sizes.streams < streams {
        eprintln!(
            "warning: at most {most} files may be open, so {} streams are measured instead of {streams}; raise the \
             hard limit for more (`ulimit -Hn`)",
            sizes.streams
        );
    }
    sizes
}

/// Does what this process was started for if `bench` has started it to measure with.
pub(crate) fn helper() -> Option<Result<(), Failure>> {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().filter(|first| first == bench::HELPER)?;
    let words: Vec<String> = arguments.map(|word| word.to_string_lossy().into_owned()).collect();
    Some(bench::help(&words).map_err(Failure::failed))
}

/// The parts of these names; all where none is named.
fn chosen(names: &[String]) -> Result<Vec<Part>, Failure> {
    if names.is_empty() {
        return Ok(Part::ALL.to_vec());
    }
    let part = |name: &String| {
        Part::ALL.into_iter().find(|part| part.name() == name).ok_or_else(|| {
            let all = Part::ALL.map(Part::name).join(", ");
            Failure::usage(format!("nothing that is measured is called `{name}`; there are {all}"))
        })
    };
    names.iter().map(part).collect()
}

/// Where the data directory is, or would be: a temporary folder of the system may be in memory, where a sync costs
/// nothing.
fn place(data: &Path) -> PathBuf {
    let parent = data.parent().filter(|parent| parent.is_dir());
    parent.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

fn progress() -> ProgressBar {
    let bar = ProgressBar::no_length();
    let visible = std::io::stderr().is_terminal();
    bar.set_draw_target(if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
    let style = ProgressStyle::with_template("{spinner} {msg}  {elapsed}");
    bar.set_style(style.expect("the template is well-formed"));
    bar
}

/// Says what makes figures mean less than they seem to.
fn warn(machine: &Machine) {
    if machine.debug_build {
        eprintln!("warning: this is a debug build: it is far slower than one made with --release");
    }
    if machine.is_in_memory() {
        eprintln!(
            "warning: the files are in memory, where a sync costs nothing; run this in a folder on a disk"
        );
    }
}

/// An interrupted run leaves no files behind either.
fn remove_when_interrupted(runtime: &tokio::runtime::Runtime, folder: PathBuf) {
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            // What is still written there goes with the process.
            let _ = std::fs::remove_dir_all(&folder);
            std::process::exit(130);
        }
    });
}

fn tell_machine(form: Form, machine: &Machine) -> Result<(), Failure> {
    if form == Form::Lines {
        return write_lines([json!({ "machine": machine })]);
    }
    let mut out = out();
    write!(out, "{}", pairs(&machine.pairs()))?;
    out.flush()?;
    Ok(())
}

fn tell(form: Form, rows: &[Row]) -> Result<(), Failure> {
    if form == Form::Lines {
        return write_lines(rows.iter().map(|row| json!(row)));
    }
    let part = rows.first().map_or("", |row| row.part);
    let part = part.to_uppercase();
    let names = [part.as_str(), "FIGURE", "BESIDE IT", "RATIO", "GOAL", "DURABLE", "PAYLOAD"];
    let cells = rows.iter().map(|row| {
        let beside = row.beside.as_ref();
        let goal = row.goal.map(|goal| {
            let word = if goal.beaten { "beaten" } else { "not beaten" };
            format!("{}: {word}", row.shown(goal.figure))
        });
        [
            row.what.clone(),
            row.shown(row.figure),
            beside.map_or_else(dash, |beside| format!("{}: {}", beside.what, row.shown(beside.figure))),
            beside.map_or_else(dash, bench::Beside::shown_ratio),
            goal.unwrap_or_else(dash),
            row.durability.name().to_owned(),
            row.payload_bytes.map_or_else(dash, |bytes| format!("{bytes} B")),
        ]
    });
    let mut out = out();
    write!(out, "\n{}", table(&names, cells))?;
    out.flush()?;
    Ok(())
}

fn dash() -> String {
    "–".into()
}

fn write_lines(documents: impl IntoIterator<Item = serde_json::Value>) -> Result<(), Failure> {
    let mut out = out();
    for document in documents {
        writeln!(out, "{document}")?;
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_beside_the_data_directory_or_here() {
        assert_eq!(place(Path::new("/usr/none")), Path::new("/usr"));
        assert_eq!(place(Path::new("/none/none")), Path::new("."));
        assert_eq!(place(Path::new("none")), Path::new("."));
        assert_eq!(place(Path::new("./none")), Path::new("."));
    }
}
