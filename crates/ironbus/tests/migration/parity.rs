//! The comparison of both buses, against one that remembers everything.

use std::time::{Duration, Instant};

use ironbus::Position;
use ironbus::bus::Side;
use ironbus::migration::{NodeReport, Nodes, Parity, ParityGap, ParityOptions, ParityReport};
use proptest::prelude::*;

const GRACE: u64 = 1000;
const AFTER: u64 = 500;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What becomes of one position, in milliseconds after it was published.
#[derive(Clone, Debug)]
struct Fate {
    /// After the one before it.
    published: u64,
    broadcast: Option<u64>,
    zenoh: Option<u64>,
    /// When a bus that has brought it brings it again.
    again: Vec<(bool, u64)>,
}

fn fate() -> impl Strategy<Value = Fate> {
    let again = prop::collection::vec((any::<bool>(), 0..3000_u64), 0..2);
    let broadcast = prop::option::weighted(0.95, 0..5_u64);
    // Late in one of ten cases: after the grace.
    let zenoh = prop::option::weighted(0.9, prop_oneof![9 => 0..800_u64, 1 => 1006..1500_u64]);
    (0..60_u64, broadcast, zenoh, again).prop_map(|(published, broadcast, zenoh, again)| {
        // What Zenoh alone brings isn't remembered for longer than the grace, so it comes once and in time.
        match (broadcast, zenoh) {
            (None, zenoh) => {
                Fate { published, broadcast, zenoh: zenoh.map(|delay| delay.min(700)), again: Vec::new() }
            }
            _ => Fate { published, broadcast, zenoh, again },
        }
    })
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at: u64,
    side: Side,
    position: u64,
}

/// Everything that the buses bring, by time.
fn brought(fates: &[Fate]) -> Vec<Heard> {
    let mut all = Vec::new();
    let mut now = 0;
    for (fate, position) in fates.iter().zip(AFTER + 1..) {
        now += fate.published;
        let sides = [(Side::Broadcast, fate.broadcast), (Side::Zenoh, fate.zenoh)];
        for (side, delay) in sides {
            all.extend(delay.map(|delay| Heard { at: now + delay, side, position }));
        }
        for (which, later) in &fate.again {
            let (side, delay) = sides[usize::from(*which)];
            all.extend(delay.map(|delay| Heard { at: now + delay + later, side, position }));
        }
    }
    all.sort_by_key(|heard| (heard.at, heard.side == Side::Zenoh));
    all
}

/// When each position was judged and what it was judged to be.
fn judgements(fates: &[Fate]) -> Vec<(u64, Option<Side>)> {
    let mut now = 0;
    let mut judged = Vec::new();
    for fate in fates {
        now += fate.published;
        let judge = |first: u64, other: Option<u64>, alone| {
            let in_time = other.is_some_and(|other| other < first + GRACE);
            (now + first + GRACE, if in_time { None } else { Some(alone) })
        };
        judged.extend(match (fate.broadcast, fate.zenoh) {
            (Some(near), Some(far)) if far < near => Some(judge(far, Some(near), Side::Zenoh)),
            (Some(near), far) => Some(judge(near, far, Side::Broadcast)),
            (None, Some(far)) => Some(judge(far, None, Side::Zenoh)),
            (None, None) => None,
        });
    }
    judged
}

fn options(window: u64, min_events: u64) -> ParityOptions {
    ParityOptions { window: ms(window), min_events, grace: ms(GRACE), ..ParityOptions::default() }
}

fn nobody() -> Nodes {
    Nodes::new(ms(10_000))
}

/// Feeds a comparison and asks it at these moments.
fn compare(
    options: ParityOptions,
    fates: &[Fate],
    asked: &[u64],
    mut check: impl FnMut(u64, ParityReport) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let began = Instant::now();
    let mut parity = Parity::new(options, Position(AFTER), began);
    let mut asked = asked.to_vec();
    asked.sort_unstable();
    let mut asked = asked.into_iter().peekable();
    for heard in brought(fates) {
        while let Some(at) = asked.next_if(|at| *at < heard.at) {
            check(at, parity.report(&nobody(), began + ms(at)))?;
        }
        parity.heard(heard.side, Position(heard.position), ms(1), began + ms(heard.at));
    }
    asked.try_for_each(|at| check(at, parity.report(&nobody(), began + ms(at))))
}

fn tally(judged: &[(u64, Option<Side>)], within: impl Fn(u64) -> bool) -> [u64; 3] {
    let count = |what| judged.iter().filter(|(at, side)| within(*at) && *side == what).count() as u64;
    [count(None), count(Some(Side::Broadcast)), count(Some(Side::Zenoh))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_position_is_judged_once_and_as_the_buses_brought_it(
        fates in prop::collection::vec(fate(), 1..150),
        asked in prop::collection::vec(0..12_000_u64, 1..6),
    ) {
        let judged = judgements(&fates);
        compare(options(3_600_000, 1), &fates, &asked, |at, report| {
            let expected = tally(&judged, |judged| judged <= at);
            prop_assert_eq!([report.both, report.only_broadcast, report.only_zenoh], expected);
            prop_assert_eq!(report.compared, expected.iter().sum::<u64>());
            let told = |kind| report.why_not.iter().any(|gap| gap.kind() == kind);
            prop_assert_eq!(told("only_broadcast"), expected[1] > 0, "what Zenoh alone lacks is in the way");
            prop_assert_eq!(told("only_zenoh"), expected[2] > 0);
            prop_assert_eq!(told("compared_too_few"), report.compared < 1);
            prop_assert!(told("compared_too_short") && !report.is_parity());
            Ok(())
        })?;
    }

    #[test]
    fn a_judgement_counts_for_a_window_and_longer_where_too_few_came_after_it(
        fates in prop::collection::vec(fate(), 1..150),
        asked in prop::collection::vec(0..12_000_u64, 1..6),
        min_events in 0..60_u64,
    ) {
        const WINDOW: u64 = 1500;
        // A slice is a thirtieth of the window.
        const SLICE: u64 = 50;
        let judged = judgements(&fates);
        compare(options(WINDOW, min_events), &fates, &asked, |at, report| {
            let got = [report.both, report.only_broadcast, report.only_zenoh];
            let least = tally(&judged, |judged| judged <= at && judged + WINDOW > at);
            let all: u64 = tally(&judged, |judged| judged <= at).iter().sum();
            let recent = tally(&judged, |judged| judged <= at && judged + WINDOW + SLICE > at);
            for (got, least) in got.iter().zip(least) {
                prop_assert!(*got >= least, "{got} of the window's {least}");
            }
            prop_assert!(report.compared >= all.min(min_events), "as many as are asked for are kept");
            if recent.iter().sum::<u64>() >= min_events {
                let most: u64 = tally(&judged, |judged| judged <= at && judged + WINDOW + 2 * SLICE > at)
                    .iter()
                    .sum();
                prop_assert!(report.compared <= most, "{} of the last {most}", report.compared);
            }
            prop_assert_eq!(report.covered < report.window, at < WINDOW);
            Ok(())
        })?;
    }

    #[test]
    fn buses_that_bring_everything_in_time_are_never_in_the_way_however_few_may_be_open(
        delays in prop::collection::vec((0..20_u64, 0..900_u64, 0..2000_u64), 1..400),
        most_open in 1..40_usize,
    ) {
        let lossless = |(published, zenoh, again): &(u64, u64, u64)| Fate {
            published: *published,
            broadcast: Some(0),
            zenoh: Some(*zenoh),
            again: vec![(true, *again)],
        };
        let fates: Vec<_> = delays.iter().map(lossless).collect();
        let end: u64 = fates.iter().map(|fate| fate.published).sum::<u64>() + 4000;
        let options = ParityOptions { most_open, ..options(1000, 0) };
        let asked: Vec<_> = (0..end).step_by(200).chain([end]).collect();
        compare(options, &fates, &asked, |at, report| {
            prop_assert!(report.open <= most_open as u64);
            prop_assert_eq!(report.only_broadcast + report.only_zenoh, 0);
            prop_assert_eq!(report.is_parity(), at >= 1000, "{:?}", report.why_not);
            Ok(())
        })?;
    }
}

fn report_of(node: &str, covered: u64, by_zenoh: u64, from_log: u64) -> NodeReport {
    NodeReport { node: node.into(), covered: ms(covered), by_zenoh, from_log, latency: None, sse_clients: 0 }
}

/// A comparison in which both buses have brought everything for as long as is asked for.
fn equal(began: Instant) -> Parity {
    let mut parity = Parity::new(ParityOptions::default(), Position(0), began);
    for position in 1..=200 {
        let at = began + ms(position * 150);
        parity.heard(Side::Broadcast, Position(position), ms(1), at);
        parity.heard(Side::Zenoh, Position(position), ms(3), at + ms(2));
    }
    parity
}

#[test]
fn parity_needs_thirty_seconds_and_a_hundred_events() {
    let began = Instant::now();
    let mut parity = equal(began);
    let report = parity.report(&nobody(), began + ms(29_999));
    let short = ParityGap::TooShort { covered: ms(29_999), window: ms(30_000) };
    assert_eq!(report.why_not, [short]);
    let report = parity.report(&nobody(), began + ms(31_002));
    assert!(report.is_parity(), "{:?}", report.why_not);
    assert_eq!((report.compared, report.both, report.open), (200, 200, 0));
    let latency = |latency: Option<ironbus::migration::Latency>| latency.map(|of| (of.p50, of.p99));
    assert_eq!(latency(report.broadcast), Some((ms(1), ms(1))));
    assert_eq!(latency(report.zenoh), Some((ms(3), ms(3))));
    // Nothing more comes: the last hundred still count, and parity with them.
    let report = parity.report(&nobody(), began + ms(600_000));
    assert!(report.is_parity() && report.compared >= 100 && report.compared < 120, "{report:?}");

    let mut quiet = Parity::new(ParityOptions::default(), Position(0), began);
    let report = quiet.report(&nobody(), began + ms(40_000));
    assert_eq!(report.why_not, [ParityGap::TooFew { compared: 0, min_events: 100 }]);
}

#[test]
fn an_edge_node_that_had_to_read_the_log_is_in_the_way_and_one_that_has_only_just_joined_is_named() {
    let began = Instant::now();
    let at = began + ms(31_002);
    let judge = |reports: &[NodeReport]| {
        let mut nodes = nobody();
        reports.iter().cloned().for_each(|report| nodes.report(report, at));
        equal(began).report(&nodes, at)
    };
    let report = judge(&[report_of("a", 30_000, 200, 0), report_of("b", 30_000, 190, 10)]);
    assert_eq!(report.why_not, [ParityGap::NodeReadLog { node: "b".into(), positions: 10 }]);
    let report = judge(&[report_of("a", 30_000, 200, 0), report_of("new", 2000, 0, 5000)]);
    assert!(report.is_parity(), "{:?}", report.why_not);
    assert_eq!(report.nodes.iter().map(|node| node.compared).collect::<Vec<_>>(), [true, false]);
    let report = judge(&[report_of("deaf", 30_000, 0, 0)]);
    assert_eq!(report.why_not, [ParityGap::NodeHeardNothing { node: "deaf".into() }]);
}

#[test]
fn a_node_is_not_deaf_that_joined_after_the_last_event_of_a_quiet_log() {
    let began = Instant::now();
    let mut nodes = nobody();
    // The last event came at 30 s; the node has been there since 32 s, and the store node still compares what came
    // before that.
    let at = began + ms(62_000);
    nodes.report(report_of("late", 30_000, 0, 0), at);
    let report = equal(began).report(&nodes, at);
    assert!(report.compared >= 100 && report.nodes[0].compared, "{report:?}");
    assert!(report.is_parity(), "{:?}", report.why_not);
}

#[test]
fn what_the_listener_itself_has_missed_counts_neither_for_nor_against() {
    let began = Instant::now();
    let mut parity = equal(began);
    let at = began + ms(31_000);
    parity.heard(Side::Broadcast, Position(201), ms(1), at);
    // The next that was heard on that side is 205; Zenoh still brings what came before it.
    parity.passed_over(Position(205), at + ms(1));
    for position in 201..=205 {
        parity.heard(Side::Zenoh, Position(position), ms(3), at + ms(2));
    }
    parity.heard(Side::Broadcast, Position(205), ms(1), at + ms(2));
    let report = parity.report(&nobody(), at + ms(2000));
    assert!(report.is_parity(), "{:?}", report.why_not);
    assert_eq!((report.uncompared, report.only_zenoh, report.only_broadcast), (1, 0, 0));
}
