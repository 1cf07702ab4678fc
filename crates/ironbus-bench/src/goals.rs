//! The goals of the project, path by path: what `ironbus bench` measures in one process and over Zenoh, with the goal,
//! ours, and what does the same without us.

use std::path::Path;

use ironbus_cli::bench::{Bench, Part, Row, Sizes, run};
use tokio::runtime::Runtime;

use crate::table::Table;

pub(crate) fn measure(runtime: &Runtime, place: &Path, quick: bool, table: &mut Table) {
    let sizes = if quick { Sizes::short() } else { Sizes::full() };
    let bench = Bench { runtime, folder: place, sizes, say: &|what| eprintln!("{what}") };
    let measured = run(&bench, &[Part::InProcess, Part::Zenoh], |rows| {
        for row in rows {
            let beside = row.beside.as_ref().map_or_else(
                || "–".to_owned(),
                |beside| {
                    format!("{}: {} (ours {})", beside.what, row.shown(beside.figure), beside.shown_ratio())
                },
            );
            table.row(&format!("{}: {}", row.part, row.what), &ours(row), &beside);
        }
    });
    measured.expect("measured");
}

fn ours(row: &Row) -> String {
    let shown = row.shown(row.figure);
    match &row.goal {
        None => shown,
        Some(goal) => {
            let verdict = if goal.beaten { "beaten" } else { "not beaten" };
            format!("{shown} (**goal {}: {verdict}**)", row.shown(goal.figure))
        }
    }
}
