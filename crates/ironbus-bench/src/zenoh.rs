//! Events over Zenoh beside plain Zenoh, in one process and between two over TCP, by the code of `ironbus bench`.
//!
//! Every round runs both kinds, the one first and then the other first, and gives ratios; medians of these
//! are told. So what else the machine does weighs on both alike. Beside the rate stands the time of a
//! processor that an event takes in both processes together, which hardly depends on what else runs.

use std::path::Path;

use ironbus_cli::bench::over_zenoh::{Kind, Turn, one_process, prepared, two_processes};
use tokio::runtime::Runtime;

use crate::table::{Table, grouped, median, micros};

pub(crate) fn measure(runtime: &Runtime, place: &Path, quick: bool, table: &mut Table) {
    let (many, few, rounds) = if quick { (50_000, 1000, 5) } else { (100_000, 2000, 15) };
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let events = runtime.block_on(prepared(folder.path(), many)).expect("prepared");
    for between in [false, true] {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            eprintln!(
                "Zenoh, {}: round {} of {rounds}",
                if between { "two processes" } else { "one process" },
                round + 1
            );
            for kind in Kind::both(round) {
                let turn = if between {
                    two_processes(runtime, folder.path(), kind, &events, few)
                } else {
                    one_process(runtime, kind, &events, few)
                };
                let side = if kind == Kind::Ours { &mut ours } else { &mut plain };
                side.push(turn.expect("all events come"));
            }
        }
        let of = |side: &[Turn], value: fn(&Turn) -> f64| median(side.iter().map(value).collect());
        let cell = |side: &[Turn]| {
            format!(
                "{} events/s, {:.1} µs of a processor for one; an event alone: p50 {}, p99 {}",
                grouped(of(side, |turn| turn.rate)),
                of(side, |turn| turn.processor),
                micros(of(side, |turn| turn.p50)),
                micros(of(side, |turn| turn.p99))
            )
        };
        let ratio = |value: fn(&Turn) -> f64| {
            let ratios = ours.iter().zip(&plain).map(|(ours, plain)| value(ours) / value(plain));
            let (least, most) = ratios
                .clone()
                .fold((f64::MAX, 0.0_f64), |(least, most), ratio| (least.min(ratio), most.max(ratio)));
            format!("{:.2} ({least:.2} to {most:.2})", median(ratios.collect()))
        };
        let ratios = format!(
            "**{} times its events/s, {} times its p50**, {} times its processor time",
            ratio(|turn| turn.rate),
            ratio(|turn| turn.p50),
            ratio(|turn| turn.processor)
        );
        let what = if between {
            "Zenoh between two processes (TCP): store node's bus → edge node's catch-up subscription"
        } else {
            "Zenoh in one process: the bus → a raw subscription"
        };
        table.row(
            what,
            &format!("{}; {ratios}", cell(&ours)),
            &format!("plain put and subscriber: {}", cell(&plain)),
        );
    }
}
