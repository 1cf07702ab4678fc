//! The table that a run ends in.

use std::fmt;

pub(crate) use ironbus_cli::bench::figures::{grouped, median, micros, per_second};

/// Rows in Markdown.
#[derive(Default)]
pub(crate) struct Table(Vec<[String; 3]>);

impl Table {
    pub(crate) fn row(&mut self, what: &str, ours: &str, beside: &str) {
        eprintln!("{what}: {ours} | {beside}");
        self.0.push([what.to_owned(), ours.to_owned(), beside.to_owned()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| What | ironbus | beside it |\n|---|---|---|")?;
        self.0.iter().try_for_each(|[what, ours, beside]| writeln!(f, "| {what} | {ours} | {beside} |"))
    }
}
