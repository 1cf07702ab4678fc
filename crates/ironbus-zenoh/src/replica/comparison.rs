//! What a replica's answers come to, as the log is walked in position order. Pure.

use ironbus::store::{CHAIN_START, ChainHash, chain};
use ironbus::{Position, StoredEvent};

/// Positions, of which the first few stretches are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    count: u64,
    first: Vec<(Position, Position)>,
    last: Option<Position>,
}

impl Ranges {
    /// So many stretches are kept.
    pub const KEPT: usize = 10;

    /// How many positions there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first few stretches, each from its first to its last position.
    #[must_use]
    pub fn first(&self) -> &[(Position, Position)] {
        &self.first
    }

    /// Whether there is more than [`Self::first`] says.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.first.last().map(|(_, to)| *to) != self.last
    }

    /// Takes a position in, which is after all others.
    fn push(&mut self, position: Position) {
        self.count += 1;
        if let Some((_, to)) = self.first.last_mut()
            && to.next() == position
        {
            *to = position;
        } else if self.first.len() < Self::KEPT {
            self.first.push((position, position));
        }
        self.last = Some(position);
    }

    /// Takes others in, which are all after these.
    fn append(&mut self, other: &mut Self) {
        let room = Self::KEPT.saturating_sub(self.first.len());
        self.count += other.count;
        self.first.extend(other.first.drain(..).take(room));
        self.last = other.last.or(self.last);
        *other = Self::default();
    }
}

/// What a replica holds of the events that it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// How many events of the log it is to hold.
    pub events: u64,
    /// The last of their positions.
    pub head: Position,
    /// What it lacks although it holds something later.
    pub missing: Ranges,
    /// What it lacks at the end.
    pub behind: Ranges,
    /// What it holds otherwise than the log.
    pub altered: Ranges,
    log: ChainHash,
    replica: ChainHash,
}

impl Comparison {
    /// Takes in the next event of the log, and what the replica holds at its key.
    pub fn take(&mut self, event: &StoredEvent, held: Option<&[u8]>) {
        if self.events == 0 {
            (self.log, self.replica) = (CHAIN_START, CHAIN_START);
        }
        self.events += 1;
        self.head = event.position;
        self.log = chain(&self.log, event);
        let Some(held) = held else { return self.behind.push(event.position) };
        self.missing.append(&mut self.behind);
        if held != event.json() {
            self.altered.push(event.position);
        }
        // Of what the replica gave, not of the event that it should be.
        if let Ok(held) = StoredEvent::from_json(held) {
            self.replica = chain(&self.replica, &held);
        }
    }

    /// How many events it holds, altered ones among them.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.events - self.missing.count() - self.behind.count()
    }

    /// Whether it holds everything as the log does, by bytes and by hash chain.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.count() + self.behind.count() + self.altered.count() == 0 && self.log == self.replica
    }

    /// The hash over the events of the log that it is to hold.
    #[must_use]
    pub fn log_chain(&self) -> ChainHash {
        self.log
    }

    /// The hash over the events that it holds.
    #[must_use]
    pub fn replica_chain(&self) -> ChainHash {
        self.replica
    }
}

#[cfg(test)]
mod tests {
    use ironbus::{Aggregate, EventId, Json, NewEvent, Sequence};
    use jiff::Timestamp;

    use super::*;

    fn event(position: u64) -> StoredEvent {
        let new = NewEvent::new("Done", Json::parse("{\"a\": 1}").expect("valid"));
        let aggregate = Aggregate::new("Todo", "1").expect("valid");
        let id = EventId(uuid::Uuid::from_u128(u128::from(position)));
        new.into_stored(id, aggregate, Sequence(position), Position(position), Timestamp::UNIX_EPOCH)
    }

    /// Compares with a replica that holds what `held` gives for each position.
    fn compare(last: u64, held: impl Fn(u64, Vec<u8>) -> Option<Vec<u8>>) -> Comparison {
        let mut comparison = Comparison::default();
        for position in 1..=last {
            let event = event(position);
            comparison.take(&event, held(position, event.json().to_vec()).as_deref());
        }
        comparison
    }

    fn stretches(ranges: &Ranges) -> Vec<(u64, u64)> {
        ranges.first().iter().map(|(from, to)| (from.0, to.0)).collect()
    }

    #[test]
    fn a_replica_with_everything_has_the_chain_of_the_log() {
        let found = compare(20, |_, json| Some(json));
        assert!(found.is_complete());
        assert_eq!((found.events, found.held(), found.head), (20, 20, Position(20)));
        assert_eq!(found.log_chain(), found.replica_chain());
        assert!(Comparison::default().is_complete(), "an empty log is held by everybody");
    }

    #[test]
    fn what_is_lacking_at_the_end_is_behind_and_the_rest_is_missing() {
        let found = compare(20, |n, json| (n != 3 && n != 4 && n != 9 && n < 18).then_some(json));
        assert_eq!(stretches(&found.missing), [(3, 4), (9, 9)]);
        assert_eq!(stretches(&found.behind), [(18, 20)]);
        assert_eq!((found.held(), found.is_complete()), (14, false));
        assert_ne!(found.log_chain(), found.replica_chain());
    }

    #[test]
    fn one_other_byte_is_an_alteration() {
        let spaced = |n, json: Vec<u8>| {
            let text = String::from_utf8(json).expect("text");
            Some(if n == 7 { text.replace("{\"a\": 1}", "{\"a\":  1}") } else { text }.into_bytes())
        };
        let found = compare(10, spaced);
        assert_eq!((stretches(&found.altered), found.held()), (vec![(7, 7)], 10));
        assert!(!found.is_complete() && found.log_chain() != found.replica_chain());
        let found = compare(10, |n, json| Some(if n == 7 { b"no JSON".to_vec() } else { json }));
        assert_eq!(stretches(&found.altered), [(7, 7)]);
    }

    #[test]
    fn only_the_first_stretches_are_kept_and_all_are_counted() {
        let found = compare(101, |n, json| n.is_multiple_of(2).then_some(json));
        assert_eq!((found.missing.count(), found.behind.count()), (50, 1));
        assert_eq!(found.missing.first().len(), Ranges::KEPT);
        assert!(found.missing.has_more() && !found.behind.has_more());
        let found = compare(101, |n, json| (n > 90 || n == 50).then_some(json));
        assert_eq!((stretches(&found.missing), found.missing.count()), (vec![(1, 49), (51, 90)], 89));
        assert!(!found.missing.has_more());
    }
}
