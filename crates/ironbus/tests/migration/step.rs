//! What follows from a phase, a wish and an observation.

use std::time::Duration;

use ironbus::Position;
use ironbus::migration::{
    Consequence, Observation, Obstacle, Parity, ParityGap, ParityOptions, Phase, Plan, Transition, Wish, step,
};
use proptest::prelude::*;

fn phase() -> impl Strategy<Value = Phase> {
    prop::sample::select(&Phase::ALL[..])
}

fn wish() -> impl Strategy<Value = Wish> {
    let to = || prop::option::of(phase());
    prop_oneof![to().prop_map(|to| Wish::Advance { to }), to().prop_map(|to| Wish::RollBack { to })]
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
    (any::<bool>(), parity, nodes, (0..3_usize, 0..3_usize, 0..3_u64)).prop_map(
        |(zenoh, gaps, edge_nodes, (broadcast_listeners, zenoh_listeners, foreign_subscribers))| {
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
            }
        },
    )
}

/// What a step may lead to, said once more and in other words than the code's.
fn expected(phase: Phase, wish: Wish, observed: &Observation) -> Option<Phase> {
    let parity = observed.parity.as_ref().is_some_and(|parity| parity.why_not.is_empty());
    let forward = match phase {
        Phase::Broadcast if observed.zenoh => Some(Phase::Dual),
        Phase::Dual if observed.zenoh && parity => Some(Phase::Zenoh),
        _ => None,
    };
    match (phase, wish) {
        (_, Wish::Advance { to }) => forward.filter(|next| to.is_none_or(|to| to == *next)),
        (Phase::Broadcast, Wish::RollBack { .. }) => None,
        (Phase::Dual, Wish::RollBack { to: None | Some(Phase::Broadcast) }) => Some(Phase::Broadcast),
        (Phase::Zenoh, Wish::RollBack { to: None | Some(Phase::Dual) }) => Some(Phase::Dual),
        (Phase::Zenoh, Wish::RollBack { to: Some(Phase::Broadcast) }) => Some(Phase::Broadcast),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_step_leads_only_where_it_may_and_says_what_is_in_the_way(
        phase in phase(), wish in wish(), observed in observation(),
    ) {
        let followed = step(phase, wish, &observed);
        let (to, consequences) = match (&followed, wish) {
            (Transition::Stay { why }, _) => {
                prop_assert!(!why.is_empty(), "nobody is refused without a reason");
                (None, &Vec::new())
            }
            (Transition::Advance { to, consequences }, Wish::Advance { .. })
            | (Transition::RollBack { to, consequences }, Wish::RollBack { .. }) => (Some(*to), consequences),
            (other, _) => panic!("{wish:?} led to {other:?}"),
        };
        prop_assert_eq!(to, expected(phase, wish, &observed));
        let Some(to) = to else { return Ok(()) };
        let to_broadcast = to == Phase::Broadcast;
        let edges_told = consequences.iter().any(|told| matches!(told,
            Consequence::EdgeNodesHearByHeartbeat { nodes } if *nodes == observed.edge_nodes));
        prop_assert_eq!(edges_told, to_broadcast && !observed.edge_nodes.is_empty());
        let foreign_told = consequences.iter().any(|told| matches!(told,
            Consequence::ForeignSubscribersHearNothing { subscribers } if *subscribers > 0));
        prop_assert_eq!(foreign_told, to_broadcast && observed.foreign_subscribers > 0);
        let ending = match (phase, to) {
            (Phase::Dual, Phase::Zenoh) => observed.broadcast_listeners,
            (_, Phase::Broadcast) => observed.zenoh_listeners,
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
        for planned in &plan.rollback {
            prop_assert!(planned.obstacles.is_empty(), "nothing is in the way of going back");
            let Transition::RollBack { to, consequences } =
                step(phase, Wish::RollBack { to: Some(planned.to) }, &observed) else { panic!("{planned:?}") };
            prop_assert_eq!((to, &consequences), (planned.to, &planned.consequences));
        }
        if let Some(planned) = &plan.advance {
            let obstacles = match step(phase, Wish::Advance { to: None }, &observed) {
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
