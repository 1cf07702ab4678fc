//! Figures of ironbus beside plain SQLite and others, taken in one run on one machine, so that their ratios mean
//! something: `just bench`. Ours are taken by the code of `ironbus bench`. Prints a table in Markdown; progress goes to standard error.
//!
//! Every payload has about 300 bytes. Ours and the baseline run in turns, and medians of the turns are told.

mod appends;
mod crowd;
mod fanout;
mod goals;
mod growth;
mod invalidation;
mod path;
mod reads;
mod sse;
mod stores;
mod table;
mod zenoh;

use std::path::Path;

use ironbus_cli::bench;
use table::Table;

/// What can be chosen; without a choice all are taken.
const NAMES: [&str; 9] =
    ["goals", "appends", "reads", "stores", "invalidation", "fanout", "zenoh", "sse", "growth"];

/// As in `ironbus`; ours and what runs in this process beside it have the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == bench::HELPER) {
        return bench::help(&arguments[1..]).expect("it does what it is told");
    }
    if arguments.first().is_some_and(|first| first == sse::LOAD || first == sse::SERVER) {
        return sse::run(&arguments);
    }
    // Beside the build, because a temporary folder may be in memory, where a sync costs nothing.
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    std::fs::create_dir_all(&place).expect("the target folder");
    match arguments.first().map(String::as_str) {
        Some(crowd::CLIENTS) => return crowd::run_clients(),
        Some(path::PATH) => match path::run(&arguments[1..], &place) {
            Ok(()) => return,
            Err(wrong) => {
                eprintln!("{wrong}");
                std::process::exit(2);
            }
        },
        Some("crowd") => match crowd::measure(&arguments[1..], &place) {
            Ok(table) => return println!("{table}"),
            Err(wrong) => {
                eprintln!("{wrong}");
                std::process::exit(2);
            }
        },
        _ => {}
    }
    let (options, chosen): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with('-'));
    let unknown = options.iter().filter(|option| *option != "--quick");
    if let Some(unknown) = unknown.chain(chosen.iter().filter(|name| !NAMES.contains(&name.as_str()))).next()
    {
        eprintln!("unknown argument `{unknown}`; there are --quick and, to choose, {}", NAMES.join(", "));
        std::process::exit(2);
    }
    let quick = !options.is_empty();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut table = Table::default();
    if is_chosen("goals") {
        goals::measure(&runtime, &place, quick, &mut table);
    }
    if is_chosen("appends") {
        appends::measure(&runtime, &place, quick, &mut table);
    }
    if is_chosen("reads") {
        reads::measure(&runtime, &place, quick, &mut table);
    }
    if is_chosen("stores") {
        stores::measure(&runtime, &place, quick, &mut table);
    }
    if is_chosen("invalidation") {
        invalidation::measure(quick, &mut table);
    }
    if is_chosen("zenoh") {
        zenoh::measure(&runtime, &place, quick, &mut table);
    }
    if is_chosen("fanout") {
        fanout::measure(&runtime, &place, quick, &mut table);
    }
    if is_chosen("sse") {
        sse::measure(&place, quick, &mut table);
    }
    let mut flat = true;
    if is_chosen("growth") {
        let picture = if quick {
            place.join("growth.svg")
        } else {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/images/growth.svg")
        };
        flat = growth::measure(&runtime, &place, &picture, quick, &mut table);
    }
    println!("{table}");
    if !flat {
        eprintln!("a cost grows with what it must not grow with");
        std::process::exit(1);
    }
}
