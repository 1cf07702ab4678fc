//! What several processes were told of one log, and whether that can be.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ironbus::event::StoredEvent;

/// What a writer was told of one append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Stored {
        position: u64,
        sequence: u64,
    },
    /// The counter was at this version.
    Refused {
        actual: u64,
    },
}

/// One append, by whichever processes it was asked for, one after the other. Times are of one clock.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) asked: u128,
    pub(crate) answered: u128,
    pub(crate) answer: Answer,
}

/// The appends by their numbers.
pub(crate) type History = BTreeMap<u64, Operation>;

/// Whether there is an order of all appends, in which each takes effect between its asking and its answer,
/// that gives what everybody was told and what the log holds. The log's own order is the only one that can
/// be: so each must have taken effect where it stands, and a refusal at some moment when the counter was as
/// it was told.
pub(crate) fn check_linearizable(history: &History, log: &[Arc<StoredEvent>]) -> Result<(), String> {
    let number = |event: &StoredEvent| event.event_id.0.as_u128() as u64;
    let places: HashMap<u64, (u64, u64)> =
        log.iter().map(|event| (number(event), (event.position.0, event.sequence.0))).collect();
    if places.len() != log.len() {
        return Err("an append stands twice".into());
    }
    if let Some(unasked) = places.keys().find(|n| !history.contains_key(n)) {
        return Err(format!("{unasked} is stored, and nobody was told"));
    }
    for (n, operation) in history {
        match (&operation.answer, places.get(n)) {
            (Answer::Stored { position, sequence }, Some(place)) if *place == (*position, *sequence) => {}
            (Answer::Stored { .. }, found) => {
                return Err(format!("{n}: {operation:?}, but it is at {found:?}"));
            }
            (Answer::Refused { .. }, Some(place)) => {
                return Err(format!("{n} was refused, and is at {place:?}"));
            }
            (Answer::Refused { .. }, None) => {}
        }
    }
    // In the log's order nobody stands behind one who was asked for only after its answer.
    let mut latest_asked = 0;
    for event in log {
        let operation = &history[&number(event)];
        if operation.answered < latest_asked {
            let at = event.position;
            return Err(format!("position {at} was answered before one ahead of it was asked for"));
        }
        latest_asked = latest_asked.max(operation.asked);
    }
    let counter: HashMap<u64, &Operation> = log
        .iter()
        .filter(|event| event.aggregate.aggregate_type() == "Counter")
        .map(|event| (event.sequence.0, &history[&number(event)]))
        .collect();
    for (n, operation) in history {
        let Answer::Refused { actual } = operation.answer else { continue };
        let too_early = actual > 0 && counter.get(&actual).is_none_or(|of| of.asked > operation.answered);
        let too_late = counter.get(&(actual + 1)).is_some_and(|of| of.answered < operation.asked);
        if too_early || too_late {
            return Err(format!(
                "{n} was refused at version {actual}, at which the counter never was meanwhile"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironbus::event::{EventId, Position, Sequence};
    use ironbus_testkit::{aggregate, unnamed};

    /// Three appends to the counter, one after the other, and one that was refused beside the second.
    fn sound() -> (History, Vec<Arc<StoredEvent>>) {
        let stored = |position| Answer::Stored { position, sequence: position };
        let operation = |asked, answered, answer| Operation { asked, answered, answer };
        let history = History::from([
            (1, operation(10, 20, stored(1))),
            (2, operation(30, 40, stored(2))),
            (3, operation(50, 60, stored(3))),
            (4, operation(25, 45, Answer::Refused { actual: 2 })),
        ]);
        let log = (1..=3_u64)
            .map(|n| {
                let id = EventId(uuid::Uuid::from_u128(u128::from(n)));
                let at = jiff::Timestamp::UNIX_EPOCH;
                let counter = aggregate("Counter", "all");
                Arc::new(unnamed(n).into_stored(id, counter, Sequence(n), Position(n), at))
            })
            .collect();
        (history, log)
    }

    #[track_caller]
    fn found(break_it: impl FnOnce(&mut History, &mut Vec<Arc<StoredEvent>>), what: &str) {
        let (mut history, mut log) = sound();
        break_it(&mut history, &mut log);
        let error = check_linearizable(&history, &log).expect_err("it is broken");
        assert!(error.contains(what), "{error}");
    }

    #[test]
    fn what_can_be_passes() {
        let (history, log) = sound();
        assert_eq!(check_linearizable(&history, &log), Ok(()));
    }

    #[test]
    fn what_cannot_be_is_found() {
        found(|_, log| drop(log.pop()), "but it is at None");
        found(|_, log| log.push(Arc::clone(&log[0])), "stands twice");
        found(
            |history, _| {
                history.remove(&2);
            },
            "nobody was told",
        );
        found(
            |history, _| history.get_mut(&2).expect("there").answer = Answer::Refused { actual: 1 },
            "was refused",
        );
        // The second was answered before the first was asked for.
        found(|history, _| history.get_mut(&1).expect("there").asked = 48, "ahead of it");
        let refused = |actual| {
            move |history: &mut History, _: &mut Vec<Arc<StoredEvent>>| {
                history.get_mut(&4).expect("there").answer = Answer::Refused { actual };
            }
        };
        found(refused(3), "never was meanwhile");
        found(refused(0), "never was meanwhile");
        found(refused(9), "never was meanwhile");
    }
}
