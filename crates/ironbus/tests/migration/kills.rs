//! A process that is killed at any point of a step begins again in the phase that was recorded, and its
//! bus with it.

use std::sync::Arc;
use std::time::Duration;

use ironbus::migration::{BusSwitch, Phase, StepRequest};
use proptest::prelude::*;

use crate::support::{Fate, MemoryJournal, Process, ask};

/// Where something happens to a step.
#[derive(Clone, Copy, Debug)]
enum Point {
    Nothing,
    KilledBeforeTheRecord,
    KilledBetweenRecordAndBus,
    KilledBeforeTheBusHasAnswered,
    JournalFails,
    JournalCannotTellThatItDid,
    JournalCannotTellThatItDidNot,
    BusFails,
}

impl Point {
    fn kills(self) -> bool {
        matches!(
            self,
            Self::KilledBeforeTheRecord
                | Self::KilledBetweenRecordAndBus
                | Self::KilledBeforeTheBusHasAnswered
        )
    }

    fn fates(self) -> (Fate, Fate) {
        match self {
            Self::Nothing => (Fate::Works, Fate::Works),
            Self::KilledBeforeTheRecord => (Fate::StopsBefore, Fate::Works),
            Self::KilledBetweenRecordAndBus => (Fate::StopsAfter, Fate::Works),
            Self::KilledBeforeTheBusHasAnswered => (Fate::Works, Fate::StopsAfter),
            Self::JournalFails => (Fate::Fails, Fate::Works),
            Self::JournalCannotTellThatItDid => (Fate::DoneUnknown, Fate::Works),
            Self::JournalCannotTellThatItDidNot => (Fate::UndoneUnknown, Fate::Works),
            Self::BusFails => (Fate::Works, Fate::Fails),
        }
    }
}

fn point() -> impl Strategy<Value = Point> {
    prop_oneof![
        3 => Just(Point::Nothing),
        1 => Just(Point::KilledBeforeTheRecord),
        2 => Just(Point::KilledBetweenRecordAndBus),
        1 => Just(Point::KilledBeforeTheBusHasAnswered),
        1 => Just(Point::JournalFails),
        1 => Just(Point::JournalCannotTellThatItDid),
        1 => Just(Point::JournalCannotTellThatItDidNot),
        1 => Just(Point::BusFails),
    ]
}

/// A step to take: forward, or back to a phase that may be one too late.
fn wish() -> impl Strategy<Value = Option<Option<Phase>>> {
    let to = prop::option::of(prop::sample::select(&Phase::ALL[..]));
    prop_oneof![2 => Just(None), 1 => to.prop_map(Some)]
}

async fn live_through(steps: Vec<(Option<Option<Phase>>, Point)>) -> Result<(), TestCaseError> {
    let journal = Arc::<MemoryJournal>::default();
    let start = async || Process::start(Arc::clone(&journal) as _, true).await.expect("Zenoh is there");
    let mut process = start().await;
    for (wish, point) in steps {
        if wish.is_none() && process.migration.status().phase == Phase::Dual {
            process.reach_parity().await;
        }
        let before = journal.page();
        (*journal.fate.lock(), *process.bus.fate.lock()) = point.fates();
        let migration = process.migration.clone();
        let asking = tokio::spawn(async move {
            match wish {
                None => migration.advance(ask("forward")).await,
                Some(to) => migration.rollback(StepRequest { to, ..ask("back") }).await,
            }
        });
        // Time only passes when nothing else can happen: what isn't answered by then has stopped.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        if asking.is_finished() {
            let answer = asking.await.expect("no panic");
            let page = journal.page();
            if let Ok(step) = &answer {
                prop_assert_eq!(page.steps.last(), Some(step));
                prop_assert_eq!(page.taken, before.taken + 1);
            }
            prop_assert!(process.is_settled(page.phase), "{wish:?} {point:?}: {answer:?}");
        } else {
            prop_assert!(point.kills(), "{wish:?} {point:?} was never answered");
            process.kill().await;
            asking.await.expect("no panic").expect_err("nobody is left to answer");
            process = start().await;
        }
        // A fate that no call met is no one's.
        (*journal.fate.lock(), *process.bus.fate.lock()) = (Fate::Works, Fate::Works);
        let page = journal.page();
        prop_assert!(process.is_settled(page.phase), "the bus follows the journal after {point:?}");
        prop_assert_eq!(process.migration.is_comparing(), page.phase == Phase::Dual);
        for pair in page.steps.windows(2) {
            prop_assert_eq!((pair[1].step, pair[1].from), (pair[0].step + 1, pair[0].to));
        }
        prop_assert_eq!(page.steps.last().map_or(Phase::Broadcast, |step| step.to), page.phase);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_a_step_the_bus_follows_the_journal(
        steps in prop::collection::vec((wish(), point()), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime can be built").block_on(live_through(steps))?;
    }
}

#[tokio::test(start_paused = true)]
async fn killed_between_the_record_and_the_bus_a_process_begins_in_the_recorded_phase() {
    for (forward, phase) in [(true, Phase::Dual), (false, Phase::Broadcast)] {
        let journal = Arc::<MemoryJournal>::default();
        let start = async || Process::start(Arc::clone(&journal) as _, true).await.expect("Zenoh is there");
        let process = start().await;
        if !forward {
            process.migration.advance(ask("go")).await.expect("Zenoh is there");
        }
        *process.bus.fate.lock() = Fate::StopsBefore;
        let (migration, before) = (process.migration.clone(), journal.page().phase);
        let asking = tokio::spawn(async move {
            if forward { migration.advance(ask("go")).await } else { migration.rollback(ask("back")).await }
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(journal.page().phase, phase, "it is recorded");
        assert_eq!(process.bus.mode(), before.bus_mode(), "the bus hasn't followed");
        process.kill().await;
        asking.await.expect("no panic").expect_err("nobody is left to answer");
        let process = start().await;
        assert!(process.is_settled(phase));
    }
}
