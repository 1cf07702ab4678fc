//! When migrating is worth it: what is measured over time, against thresholds.

use std::time::{Duration, Instant};

use ironbus::Position;
use ironbus::migration::{Measured, Phase, Thresholds, Trigger, TriggerReport, Triggers};
use jiff::Timestamp;
use proptest::prelude::*;

fn time(second: u64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + i64::try_from(second).expect("small")).expect("in range")
}

/// Observes once a second; asks after each.
fn observe(
    triggers: &mut Triggers,
    measured: impl IntoIterator<Item = Measured>,
    mut after: impl FnMut(u64, &Triggers),
) {
    let began = Instant::now();
    for (second, measured) in (0..).zip(measured) {
        triggers.observe(measured, began + Duration::from_secs(second), time(second));
        after(second, triggers);
    }
}

/// What is measured when so many events come each second.
fn heads(rates: &[u64]) -> Vec<Measured> {
    let mut head = 0;
    let at = |head| Measured { head: Position(head), nodes: 1, ..Measured::default() };
    let mut all = vec![at(0)];
    all.extend(rates.iter().map(|rate| {
        head += rate;
        at(head)
    }));
    all
}

fn of(triggers: &Triggers, which: Trigger) -> TriggerReport {
    triggers.report().into_iter().find(|report| report.trigger == which).expect("all are reported")
}

/// The sustained rate of each second, as a slow model says it: the greatest that half of the last twelve
/// stretches of five seconds reached.
fn modelled(rates: &[u64], second: usize) -> Option<f64> {
    let end = second - second % 5;
    let begin = end.checked_sub(60)?;
    let mut slices: Vec<u64> = rates[begin..end].chunks(5).map(|slice| slice.iter().sum()).collect();
    slices.sort_unstable();
    let sixth = u32::try_from(slices[6]).expect("small");
    Some(f64::from(sixth) / 5.0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_sustained_rate_is_what_half_of_the_window_reached(
        rates in prop::collection::vec(prop_oneof![4 => 0..2000_u64, 1 => 2000..100_000_u64], 1..200),
    ) {
        let mut triggers = Triggers::new(Thresholds::default());
        let mut wrong = None;
        let mut since: Option<Timestamp> = None;
        observe(&mut triggers, heads(&rates), |second, triggers| {
            let report = of(triggers, Trigger::EventsPerSecond);
            let expected = modelled(&rates, usize::try_from(second).expect("small"));
            let exceeds = expected.is_some_and(|rate| rate > 800.0);
            since = if exceeds { since.or(Some(time(second))) } else { None };
            let near = match (report.measured, expected) {
                (Some(one), Some(other)) => (one - other).abs() < 1e-6,
                (one, other) => one == other,
            };
            if !near || report.exceeded_since != since {
                wrong = Some(format!("at {second} s: {report:?}, expected {expected:?} since {since:?}"));
            }
        });
        prop_assert_eq!(wrong, None);
    }

    #[test]
    fn a_peak_however_high_is_not_a_load_that_lasts(
        calm in 0..790_u64, peak in 1000..1_000_000_u64, from in 0..120_usize, length in 1..20_usize,
    ) {
        let mut rates = vec![calm; 180];
        rates[from..from + length].fill(peak);
        let mut triggers = Triggers::new(Thresholds::default());
        let mut exceeded = false;
        observe(&mut triggers, heads(&rates), |_, triggers| {
            exceeded |= of(triggers, Trigger::EventsPerSecond).exceeded_since.is_some();
        });
        prop_assert!(!exceeded, "{length} s of {peak} events a second");
    }

    #[test]
    fn since_when_more_clients_are_there_is_told_without_a_break(
        clients in prop::collection::vec(190..212_u64, 1..60),
    ) {
        let mut triggers = Triggers::new(Thresholds::default());
        let measured = |sse_clients: &u64| Measured { sse_clients: *sse_clients, ..Measured::default() };
        let mut told = Vec::new();
        observe(&mut triggers, clients.iter().map(measured), |_, triggers| {
            told.push(of(triggers, Trigger::SseClients).exceeded_since);
        });
        for (second, told) in told.iter().enumerate() {
            let begin = (0..=second).rev().take_while(|back| clients[*back] > 200).last();
            prop_assert_eq!(*told, begin.map(|begin| time(begin as u64)));
        }
    }
}

#[test]
fn every_trigger_has_its_value_its_threshold_and_its_advice() {
    let mut triggers = Triggers::new(Thresholds::default());
    assert_eq!(triggers.advise(Phase::Broadcast).towards, None, "nothing is known yet");
    observe(&mut triggers, heads(&[0; 70]), |_, _| {});
    assert_eq!(triggers.advise(Phase::Broadcast).towards, None);
    assert_eq!(triggers.advise(Phase::Zenoh).towards, Some(Phase::Broadcast), "all is calm");
    let busy =
        |n: u64| Measured { head: Position(n * 900), sse_clients: 201, nodes: 3, foreign_subscribers: 2 };
    let mut triggers = Triggers::new(Thresholds::default());
    observe(&mut triggers, (0..70).map(busy), |_, _| {});
    let report = triggers.report();
    let got: Vec<_> = report.iter().map(|one| (one.measured, one.threshold)).collect();
    let expected = [(201.0, 200.0), (900.0, 800.0), (3.0, 1.0), (2.0, 0.0)];
    assert_eq!(got, expected.map(|(measured, threshold)| (Some(measured), threshold)));
    for one in &report {
        assert!(one.exceeded_since.is_some(), "{one:?}");
        assert!(one.advice.contains("oing back would be reasonable"), "{}", one.advice);
    }
    assert_eq!(triggers.advise(Phase::Broadcast).towards, Some(Phase::Dual));
    assert_eq!(triggers.advise(Phase::Dual).towards, Some(Phase::Zenoh));
    assert_eq!(triggers.advise(Phase::Zenoh).towards, None);
    // Below the threshold, but not so far that going back is advised: the advice doesn't swing.
    let less =
        |n: u64| Measured { head: Position(n * 900), sse_clients: 150, nodes: 1, foreign_subscribers: 0 };
    let mut triggers = Triggers::new(Thresholds { events_per_second: 2000, ..Thresholds::default() });
    observe(&mut triggers, (0..70).map(less), |_, _| {});
    assert_eq!(triggers.advise(Phase::Zenoh).towards, None);
}
