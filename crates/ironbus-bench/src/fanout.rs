//! Fan-out within one process: from publishing to one subscription, and to 1,000 of one pattern; beside a raw
//! `tokio::sync::broadcast` with as many receivers. The code is that of `ironbus bench`.

use std::path::Path;

use ironbus_cli::bench::fan_out::{Ours, ROUND, turn_of};
use ironbus_cli::bench::figures::Turn;
use ironbus_cli::bench::stored;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;

use crate::table::{Table, grouped, median, micros};

pub(crate) fn measure(runtime: &Runtime, place: &Path, quick: bool, table: &mut Table) {
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let (store, events) = runtime.block_on(stored(folder.path(), 16 * ROUND, 1)).expect("stored");
    let turns = if quick { 3 } else { 7 };
    for (readers, count, alone) in [(1, events.len(), 5000), (1000, ROUND / 2, 500)] {
        let (mut ours, mut raw) = (Vec::new(), Vec::new());
        for turn in 1..=turns {
            eprintln!("fan-out to {readers}: turn {turn} of {turns}");
            let (many, alone) = (&events[..count], &events[..alone]);
            let of_ours = runtime.block_on(turn_of(|| Ours::over(&store), readers, many, alone));
            ours.push(of_ours.expect("delivered"));
            let of_raw = turn_of(|| broadcast::Sender::new(ROUND), readers, many, alone);
            raw.push(runtime.block_on(of_raw).expect("delivered"));
        }
        let cell = |side: &[Turn]| {
            let of = |value: fn(&Turn) -> f64| median(side.iter().map(value).collect());
            let (p50, p99) = (micros(of(|turn| turn.p50)), micros(of(|turn| turn.p99)));
            format!("{} deliveries/s; an event alone: p50 {p50}, p99 {p99}", grouped(of(|turn| turn.rate)))
        };
        let what = match readers {
            1 => "fan-out within the process to 1 subscription".to_owned(),
            many => format!("the same to {} subscriptions of one pattern", grouped(many as f64)),
        };
        table.row(&what, &cell(&ours), &format!("raw `tokio::sync::broadcast`: {}", cell(&raw)));
    }
    runtime.block_on(store.close());
}
