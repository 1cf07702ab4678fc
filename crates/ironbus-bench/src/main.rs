//! Figures of ironbus beside plain SQLite, taken in one run on one machine, so that their ratios mean
//! something: `just bench`. Prints a table in Markdown; progress goes to standard error.
//!
//! Every payload has about 300 bytes. Ours and the baseline run in turns, and medians of the turns are told.

mod appends;
mod reads;
mod table;

use std::path::Path;

use table::Table;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    if let Some(unknown) = arguments.iter().find(|argument| *argument != "--quick") {
        eprintln!("unknown argument `{unknown}`; there is only --quick");
        std::process::exit(2);
    }
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = runtime.expect("a runtime");
    // Beside the build, because a temporary folder may be in memory, where a sync costs nothing.
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    std::fs::create_dir_all(&place).expect("the target folder");
    let mut table = Table::default();
    appends::measure(&runtime, &place, quick, &mut table);
    reads::measure(&runtime, &place, quick, &mut table);
    println!("{table}");
}
