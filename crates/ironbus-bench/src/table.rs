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

/// A time in microseconds, as people read it.
pub(crate) fn micros(value: f64) -> String {
    if value < 1000.0 { format!("{value:.0} µs") } else { format!("{:.1} ms", value / 1000.0) }
}

/// A whole number with its thousands apart.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let parts: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    parts.join(",")
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}
