//! The table that a run ends in.

use std::fmt;
use std::time::Duration;

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

/// The median of several turns.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn micros(value: f64) -> String {
    format!("{value:.0} µs")
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}
