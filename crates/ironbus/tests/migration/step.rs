//! What follows from a phase, a wish and an observation.

use std::time::Duration;

use ironbus::Position;
use ironbus::migration::{
    Consequence, Observation, Obstacle, Parity, ParityGap, ParityOptions, Phase, Plan, Transition, Wish, step,
};
use ironbus::moving::{LogPlace, Move, Whereabouts};
use proptest::prelude::*;

fn phase() -> impl Strategy<Value = Phase> {
    prop::sample::select(&Phase::ALL[..])
}

fn place() -> impl Strategy<Value = LogPlace> {
    prop::sample::select(vec!["sqlite:ironbus.db", "sqlite:other.db", "folder:slots", "rocksdb:rocks"])
        .prop_map(|place| place.parse().expect("an address"))
}

/// Where the log is; mostly it isn't moving.
fn whereabouts() -> impl Strategy<Value = Whereabouts> {
    (place(), prop::option::of(place()), prop::option::weighted(0.2, place())).prop_map(
        |(log, mirror, to)| {
            let moving = to.map(|to| Move {
                to,
                from_phase: Phase::Zenoh,
                to_phase: Phase::ZenohStorage,
                by: "ann".into(),
                reason: "a test".into(),
                began: jiff::Timestamp::UNIX_EPOCH,
            });
            Whereabouts { log, moving, mirror }
        },
    )
}

fn wish() -> impl Strategy<Value = Wish> {
    let to = || prop::option::of(phase());
    let log = || prop::option::of(place());
    prop_oneof![
        (to(), log()).prop_map(|(to, log)| Wish::Advance { to, log }),
        (to(), log()).prop_map(|(to, log)| Wish::RollBack { to, log }),
    ]
}

fn gap() -> impl Strategy<Value = ParityGap> {
    prop_oneof![
        Just(ParityGap::TooFew { compared: 1, min_events: 2 }),
        Just(ParityGap::OnlyBroadcast { positions: 1, first: Position(7) }),
        Just(ParityGap::NodeReadLog { node: "a".into(), positions: 3 }),
    ]
}

fn observation() -> impl Strategy<Value = Observation> {
    let parity = prop::option::of(prop::collection::vec(gap(), 0..3));
    let nodes = prop::collection::vec("[a-z]{1,3}", 0..3);
    let log = prop::option::weighted(0.9, whereabouts());
    (any::<bool>(), parity, nodes, (0..3_usize, 0..3_usize, 0..3_u64), log).prop_map(
        |(zenoh, gaps, edge_nodes, (broadcast_listeners, zenoh_listeners, foreign_subscribers), log)| {
            let now = std::time::Instant::now();
            let nodes = ironbus::migration::Nodes::new(Duration::from_secs(1));
            let parity = gaps.map(|why_not| {
                let mut report = Parity::new(ParityOptions::default(), Position(0), now).report(&nodes, now);
                report.why_not = why_not;
                report
            });
            Observation {
                zenoh,
                parity,
                edge_nodes,
                broadcast_listeners,
                zenoh_listeners,
                foreign_subscribers,
                log,
            }
        },
    )
}

/// What a step may lead to and where the log then goes, said once more and in other words than the code's.
fn expected(phase: Phase, wish: &Wish, observed: &Observation) -> Option<(Phase, Option<LogPlace>)> {
    let at = observed.log.as_ref();
    if at.is_some_and(|log| log.moving.is_some()) {
        return None;
    }
    let on_database = at.is_none_or(|log| log.log.is_database());
    let to = expected_phase(phase, wish, observed)?;
    let log = match wish {
        Wish::Advance { log, .. } if to == Phase::ZenohStorage && on_database => {
            at?;
            Some(log.clone().filter(|log| !log.is_database())?)
        }
        Wish::RollBack { log, .. } if phase == Phase::ZenohStorage && !on_database => match log {
            Some(log) => Some(log.clone().is_database().then(|| log.clone())?),
            None => {
                let mirror = at.and_then(|log| log.mirror.clone()).filter(LogPlace::is_database);
                Some(mirror.unwrap_or_else(LogPlace::database))
            }
        },
        Wish::Advance { log: Some(_), .. } | Wish::RollBack { log: Some(_), .. } => return None,
        _ => None,
    };
    Some((to, log))
}

fn expected_phase(phase: Phase, wish: &Wish, observed: &Observation) -> Option<Phase> {
    let parity = observed.parity.as_ref().is_some_and(|parity| parity.why_not.is_empty());
    let forward = match phase {
        Phase::Broadcast if observed.zenoh => Some(Phase::Dual),
        Phase::Dual if observed.zenoh && parity => Some(Phase::Zenoh),
        Phase::Zenoh if observed.zenoh => Some(Phase::ZenohStorage),
        _ => None,
    };
    match (phase, wish) {
        (_, Wish::Advance { to, .. }) => forward.filter(|next| to.is_none_or(|to| to == *next)),
        (Phase::Dual, Wish::RollBack { to: None, .. }) => Some(Phase::Broadcast),
        (Phase::Zenoh, Wish::RollBack { to: None, .. }) => Some(Phase::Dual),
        (Phase::ZenohStorage, Wish::RollBack { to: None, .. }) => Some(Phase::Zenoh),
        (phase, Wish::RollBack { to: Some(to), .. }) if to.number() < phase.number() => Some(*to),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_step_leads_only_where_it_may_and_says_what_is_in_the_way(
        phase in phase(), wish in wish(), observed in observation(),
    ) {
        let followed = step(phase, wish.clone(), &observed);
        let (led, consequences) = match (&followed, &wish) {
            (Transition::Stay { why }, _) => {
                prop_assert!(!why.is_empty(), "nobody is refused without a reason");
                (None, &Vec::new())
            }
            (Transition::Advance { to, log, consequences }, Wish::Advance { .. })
            | (Transition::RollBack { to, log, consequences }, Wish::RollBack { .. }) => {
                (Some((*to, log.clone())), consequences)
            }
            (other, _) => panic!("{wish:?} led to {other:?}"),
        };
        prop_assert_eq!(&led, &expected(phase, &wish, &observed));
        let Some((to, _)) = led else { return Ok(()) };
        let to_broadcast = to == Phase::Broadcast;
        let edges_told = consequences.iter().any(|told| matches!(told,
            Consequence::EdgeNodesHearByHeartbeat { nodes } if *nodes == observed.edge_nodes));
        prop_assert_eq!(edges_told, to_broadcast && !observed.edge_nodes.is_empty());
        let foreign_told = consequences.iter().any(|told| matches!(told,
            Consequence::ForeignSubscribersHearNothing { subscribers } if *subscribers > 0));
        prop_assert_eq!(foreign_told, to_broadcast && observed.foreign_subscribers > 0);
        let ending = match (phase, to) {
            (Phase::Dual, Phase::Zenoh) => observed.broadcast_listeners,
            (_, Phase::Broadcast | Phase::ZenohStorage) | (Phase::ZenohStorage, _) => observed.zenoh_listeners,
            _ => 0,
        };
        let ended = consequences.iter().find_map(|told| match told {
            Consequence::RawSubscriptionsEnd { listeners } => Some(*listeners),
            _ => None,
        });
        prop_assert_eq!(ended.unwrap_or(0), ending);
    }

    #[test]
    fn a_plan_shows_just_the_steps_that_there_are_and_what_each_would_meet(
        phase in phase(), observed in observation(),
    ) {
        let plan = Plan::of(phase, &observed);
        prop_assert_eq!(plan.advance.as_ref().map(|planned| planned.to), phase.next());
        let back: Vec<_> = plan.rollback.iter().map(|planned| planned.to).collect();
        let mut earlier: Vec<_> = Phase::ALL.into_iter().filter(|earlier| *earlier < phase).collect();
        earlier.reverse();
        prop_assert_eq!(back, earlier);
        let moving = observed.log.as_ref().is_some_and(|log| log.moving.is_some());
        for planned in &plan.rollback {
            prop_assert_eq!(planned.obstacles.is_empty(), !moving, "nothing else is in the way of going back");
            let wish = Wish::RollBack { to: Some(planned.to), log: None };
            let (to, consequences) = match step(phase, wish, &observed) {
                Transition::RollBack { to, consequences, .. } => (to, consequences),
                Transition::Stay { .. } if moving => continue,
                other => panic!("{planned:?}: {other:?}"),
            };
            prop_assert_eq!((to, &consequences), (planned.to, &planned.consequences));
        }
        if let Some(planned) = &plan.advance {
            // That it has to be said where the log goes is no obstacle, but shown.
            let log = planned.needs_log.then(|| "folder:slots".parse().expect("an address"));
            let obstacles = match step(phase, Wish::Advance { to: None, log }, &observed) {
                Transition::Stay { why } => why,
                _ => Vec::new(),
            };
            prop_assert_eq!(&planned.obstacles, &obstacles);
            prop_assert_eq!(obstacles.contains(&Obstacle::NoZenoh), !observed.zenoh);
        }
    }
}

#[test]
fn reasons_are_written_as_a_word_and_a_sentence() {
    let refused = Obstacle::Parity(ParityGap::OnlyBroadcast { positions: 3, first: Position(41) });
    let written = serde_json::to_value(&refused).expect("it can be written");
    assert_eq!(written["kind"], "only_broadcast");
    assert!(written["message"].as_str().is_some_and(|said| said.contains("position 41")), "{written}");
}
