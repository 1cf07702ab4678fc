//! Checkers: given what happened, is every promise kept?
//!
//! The log is taken as the truth for what readers got, and is itself checked against its own rules and
//! against what was acknowledged. A checker says the first violation that it finds.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ironbus::event::{Aggregate, EventId, Position, Sequence, StoredEvent};
use ironbus::key::EventFilter;
use ironbus::store::Recorded;

/// A promise that wasn't kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A reader never got an event that it had to get.
    #[error("the event at position {0} matches and was not delivered")]
    Missing(Position),
    /// A reader got an event a second time.
    #[error("the event at position {0} was delivered twice")]
    Repeated(Position),
    /// A reader got an event after a later one.
    #[error("position {position} was delivered after position {previous}")]
    OutOfOrder {
        /// The one before it.
        previous: Position,
        /// The one that came too late.
        position: Position,
    },
    /// A reader got an event that the log doesn't hold.
    #[error("position {0} was delivered, but the log holds no such event")]
    Invented(Position),
    /// A reader got an event otherwise than the log holds it.
    #[error("the event delivered at position {0} is not the one that the log holds")]
    Altered(Position),
    /// A reader got an event that it hadn't asked for.
    #[error("the event at position {0} was delivered, but it is not what the reader asked for")]
    Unasked(Position),
    /// Positions aren't contiguous.
    #[error("position {expected} had to come in the log, and {found} came")]
    Hole {
        /// What had to come.
        expected: Position,
        /// What came.
        found: Position,
    },
    /// An aggregate's sequences aren't contiguous.
    #[error("at position {position}, {aggregate} has sequence {found} where {expected} had to come")]
    SequenceHole {
        /// Where.
        position: Position,
        /// The aggregate.
        aggregate: Aggregate,
        /// What had to come.
        expected: Sequence,
        /// What came.
        found: Sequence,
    },
    /// An event id stands twice in the log.
    #[error("the event id {event_id} stands at position {first} and again at {second}")]
    IdTwice {
        /// The id.
        event_id: EventId,
        /// Where it stands first.
        first: Position,
        /// Where it stands again.
        second: Position,
    },
    /// The log's time goes back.
    #[error("the event at position {0} was recorded before the one ahead of it")]
    TimeGoesBack(Position),
    /// An acknowledged event isn't in the log.
    #[error("the acknowledged event {} (position {}) is not in the log", .0.event_id, .0.position)]
    Lost(Recorded),
    /// An acknowledged event stands elsewhere than was said.
    #[error("event {} was acknowledged at position {}, and stands at {found}", acknowledged.event_id, acknowledged.position)]
    Moved {
        /// What was said.
        acknowledged: Recorded,
        /// Where it stands.
        found: Position,
    },
    /// Some events of one batch are in the log and others aren't, or they don't stand together.
    #[error(
        "the batch of {total} events that begins with {first} is not one whole: {stored} are stored together"
    )]
    Torn {
        /// The batch's first event.
        first: EventId,
        /// How many of its events stand together.
        stored: usize,
        /// How many it has.
        total: usize,
    },
}

/// Checks the log's own rules: positions contiguous from 1, sequences contiguous from 1 within each
/// aggregate, every event id once, time never going back.
///
/// # Errors
///
/// The first [`Violation`].
pub fn check_log(log: &[Arc<StoredEvent>]) -> Result<(), Violation> {
    let mut versions: HashMap<&Aggregate, Sequence> = HashMap::new();
    let mut ids: HashMap<EventId, Position> = HashMap::new();
    let mut before: Option<&StoredEvent> = None;
    for event in log {
        let position = event.position;
        let expected = before.map_or(Position(1), |before| before.position.next());
        if position != expected {
            return Err(Violation::Hole { expected, found: position });
        }
        let version = versions.entry(&event.aggregate).or_default();
        let expected = Sequence(version.0 + 1);
        if event.sequence != expected {
            let (aggregate, found) = (event.aggregate.clone(), event.sequence);
            return Err(Violation::SequenceHole { position, aggregate, expected, found });
        }
        *version = expected;
        if let Some(first) = ids.insert(event.event_id, position) {
            return Err(Violation::IdTwice { event_id: event.event_id, first, second: position });
        }
        if before.is_some_and(|before| before.recorded_at > event.recorded_at) {
            return Err(Violation::TimeGoesBack(position));
        }
        before = Some(event);
    }
    Ok(())
}

/// Checks what one reader got of `log` (all of it, from position 1): every event that matches `filter`,
/// stands after `after` and at or before `through`, exactly once, in ascending position, as it is stored.
/// It may have got matching events after `through`, but none of those twice, out of order, or with a hole.
///
/// # Errors
///
/// The first [`Violation`].
pub fn check_subscription(
    filter: &EventFilter,
    after: Position,
    through: Position,
    got: &[Arc<StoredEvent>],
    log: &[Arc<StoredEvent>],
) -> Result<(), Violation> {
    let mut delivered = HashSet::new();
    let mut previous = Position::START;
    for event in got {
        let position = event.position;
        if !delivered.insert(position) {
            return Err(Violation::Repeated(position));
        }
        if position < previous {
            return Err(Violation::OutOfOrder { previous, position });
        }
        previous = position;
        let held = position.0.checked_sub(1).and_then(|index| log.get(usize::try_from(index).ok()?));
        let held = held.ok_or(Violation::Invented(position))?;
        if held != event {
            return Err(Violation::Altered(position));
        }
        if position <= after || !filter.matches(event) {
            return Err(Violation::Unasked(position));
        }
    }
    let until = through.max(previous);
    let due = log.iter().filter(|event| event.position > after && event.position <= until);
    match due.filter(|event| filter.matches(event)).find(|event| !delivered.contains(&event.position)) {
        Some(missing) => Err(Violation::Missing(missing.position)),
        None => Ok(()),
    }
}

/// Checks that every acknowledged event stands in the log once, at the place that was acknowledged.
///
/// # Errors
///
/// The first [`Violation`].
pub fn check_acknowledged<'a>(
    acknowledged: impl IntoIterator<Item = &'a Recorded>,
    log: &[Arc<StoredEvent>],
) -> Result<(), Violation> {
    let mut places: HashMap<EventId, &StoredEvent> = HashMap::new();
    for event in log {
        if let Some(first) = places.insert(event.event_id, event) {
            let (first, second) = (first.position, event.position);
            return Err(Violation::IdTwice { event_id: event.event_id, first, second });
        }
    }
    for recorded in acknowledged {
        let event = places.get(&recorded.event_id).ok_or(Violation::Lost(*recorded))?;
        if event.position != recorded.position || event.sequence != recorded.sequence {
            return Err(Violation::Moved { acknowledged: *recorded, found: event.position });
        }
    }
    Ok(())
}

/// Checks that of each batch, given by its event ids in order, either nothing is in the log or all of
/// it, at contiguous positions in its order.
///
/// # Errors
///
/// The first [`Violation`].
pub fn check_batches<'a>(
    batches: impl IntoIterator<Item = &'a [EventId]>,
    log: &[Arc<StoredEvent>],
) -> Result<(), Violation> {
    let places: HashMap<EventId, Position> =
        log.iter().map(|event| (event.event_id, event.position)).collect();
    for batch in batches {
        let found: Vec<_> = batch.iter().filter_map(|id| places.get(id)).collect();
        if found.is_empty() {
            continue;
        }
        let together = found.windows(2).take_while(|pair| pair[0].next() == *pair[1]).count() + 1;
        if together != batch.len() {
            return Err(Violation::Torn { first: batch[0], stored: together, total: batch.len() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelLog;
    use crate::{aggregate, numbered, numbered_id};
    use ironbus::event::Json;
    use ironbus::store::{Append, ExpectedVersion};

    /// Six events: two aggregates in turns.
    fn log() -> Vec<Arc<StoredEvent>> {
        let mut model = ModelLog::default();
        for n in 1..=6 {
            let to = aggregate("Todo", if n % 2 == 0 { "even" } else { "odd" });
            let append = Append::to(to, ExpectedVersion::Any, vec![numbered(n)]);
            model.append(&append).expect("nothing is in the way");
        }
        model.events().to_vec()
    }

    /// A copy of an event with something changed.
    fn changed(event: &StoredEvent, change: impl FnOnce(&mut StoredEvent)) -> Arc<StoredEvent> {
        let mut copy = StoredEvent::from_json(&event.json_line()).expect("its own JSON");
        change(&mut copy);
        Arc::new(copy)
    }

    fn odd() -> EventFilter {
        EventFilter::public("events/Todo/odd/**".parse().expect("valid"))
    }

    fn recorded(event: &StoredEvent) -> Recorded {
        Recorded { event_id: event.event_id, position: event.position, sequence: event.sequence }
    }

    #[test]
    fn a_faithful_reader_passes() {
        let log = log();
        let got = [Arc::clone(&log[2]), Arc::clone(&log[4])];
        assert_eq!(check_subscription(&odd(), Position(1), Position(6), &got, &log), Ok(()));
        assert_eq!(check_subscription(&odd(), Position(1), Position(4), &got[..1], &log), Ok(()));
        assert_eq!(check_subscription(&odd(), Position(1), Position(2), &got, &log), Ok(()));
    }

    #[test]
    fn a_dropped_event_is_found_in_the_middle_and_at_the_end() {
        let log = log();
        let check = |got: &[Arc<StoredEvent>], through| {
            check_subscription(&odd(), Position(0), Position(through), got, &log)
        };
        let got = [Arc::clone(&log[0]), Arc::clone(&log[4])];
        assert_eq!(check(&got, 0), Err(Violation::Missing(Position(3))));
        assert_eq!(check(&[], 6), Err(Violation::Missing(Position(1))));
        assert_eq!(check(&got[..1], 6), Err(Violation::Missing(Position(3))));
    }

    #[test]
    fn a_repeated_and_a_reordered_event_are_found() {
        let log = log();
        let check = |order: &[usize]| {
            let got: Vec<_> = order.iter().map(|index| Arc::clone(&log[*index])).collect();
            check_subscription(&odd(), Position(0), Position(6), &got, &log)
        };
        assert_eq!(check(&[0, 2, 2, 4]), Err(Violation::Repeated(Position(3))));
        assert_eq!(check(&[0, 2, 4, 0]), Err(Violation::Repeated(Position(1))));
        let reordered = Violation::OutOfOrder { previous: Position(5), position: Position(3) };
        assert_eq!(check(&[0, 4, 2]), Err(reordered));
    }

    #[test]
    fn an_invented_an_altered_and_an_unasked_event_are_found() {
        let log = log();
        let check =
            |got: Arc<StoredEvent>| check_subscription(&odd(), Position(1), Position(0), &[got], &log);
        let beyond = changed(&log[4], |event| event.position = Position(7));
        assert_eq!(check(beyond), Err(Violation::Invented(Position(7))));
        let payload = changed(&log[4], |event| event.payload = Json::parse("{\"n\":9}").expect("valid"));
        assert_eq!(check(payload), Err(Violation::Altered(Position(5))));
        assert_eq!(check(Arc::clone(&log[1])), Err(Violation::Unasked(Position(2))), "another aggregate's");
        assert_eq!(check(Arc::clone(&log[0])), Err(Violation::Unasked(Position(1))), "before its start");
    }

    #[test]
    fn a_log_with_a_hole_a_repeated_id_or_time_that_goes_back_is_found() {
        let good = log();
        assert_eq!(check_log(&good), Ok(()));
        let broken = |change: fn(&mut Vec<Arc<StoredEvent>>)| {
            let mut log = good.clone();
            change(&mut log);
            check_log(&log)
        };
        let hole =
            |expected, found| Err(Violation::Hole { expected: Position(expected), found: Position(found) });
        assert_eq!(broken(|log| drop(log.remove(0))), hole(1, 2));
        assert_eq!(broken(|log| drop(log.remove(3))), hole(4, 5));
        assert_eq!(broken(|log| log.swap(2, 3)), hole(3, 4));
        assert!(matches!(
            broken(|log| log[4] = changed(&log[4], |event| event.sequence = Sequence(4))),
            Err(Violation::SequenceHole { expected: Sequence(3), found: Sequence(4), .. })
        ));
        assert!(matches!(
            broken(|log| log[4] = changed(&log[4], |event| event.event_id = numbered_id(1))),
            Err(Violation::IdTwice { first: Position(1), second: Position(5), .. })
        ));
        assert_eq!(
            broken(|log| {
                log[4] = changed(&log[4], |event| event.recorded_at = jiff::Timestamp::UNIX_EPOCH);
            }),
            Err(Violation::TimeGoesBack(Position(5)))
        );
    }

    #[test]
    fn an_acknowledged_event_that_is_lost_moved_or_there_twice_is_found() {
        let log = log();
        let acknowledged: Vec<_> = log.iter().map(|event| recorded(event)).collect();
        assert_eq!(check_acknowledged(&acknowledged, &log), Ok(()));
        assert_eq!(check_acknowledged(&acknowledged, &log[..5]), Err(Violation::Lost(acknowledged[5])));
        let moved = Recorded { position: Position(2), ..acknowledged[0] };
        let found = Position(1);
        assert_eq!(check_acknowledged([&moved], &log), Err(Violation::Moved { acknowledged: moved, found }));
        let twice = [log.clone(), vec![changed(&log[0], |event| event.position = Position(7))]].concat();
        assert!(matches!(check_acknowledged([], &twice), Err(Violation::IdTwice { .. })));
    }

    #[test]
    fn half_a_batch_and_a_batch_with_something_between_are_found() {
        let log = log();
        let check = |batch: &[u64]| {
            let ids: Vec<_> = batch.iter().map(|n| numbered_id(*n)).collect();
            check_batches([&ids[..]], &log)
        };
        assert_eq!(check(&[2, 3, 4]), Ok(()));
        assert_eq!(check(&[98, 99]), Ok(()), "nothing of it is there");
        assert!(matches!(check(&[5, 6, 7]), Err(Violation::Torn { stored: 2, total: 3, .. })));
        assert!(matches!(check(&[2, 4]), Err(Violation::Torn { stored: 1, total: 2, .. })));
        assert!(matches!(check(&[3, 2]), Err(Violation::Torn { .. })));
        assert!(matches!(check(&[7, 6]), Err(Violation::Torn { .. })));
    }
}
