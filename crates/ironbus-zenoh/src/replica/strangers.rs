//! What a replica holds that the log doesn't.

use std::collections::{HashMap, HashSet};

use ironbus::{EventKey, Position, StoredEvent};

/// A key in short: two keys with one hash are not to be found.
type Short = [u8; 16];

fn short(key: &str) -> Short {
    let hash = blake3::hash(key.as_bytes());
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// Tells the keys of the log from others. Takes some 20 to 40 bytes for each event of the log.
#[derive(Debug, Default)]
pub struct Strangers {
    known: HashSet<Short>,
    head: Position,
    /// Keys with events from beyond the head, which the log may have got since. Of more than
    /// [`Strangers::KEPT_LATER`], the rest count as strangers.
    later: HashMap<Short, String>,
    told: u64,
    count: u64,
    first: Vec<String>,
}

impl Strangers {
    /// So many names are kept.
    pub const KEPT: usize = 10;
    const KEPT_LATER: usize = 100_000;

    /// Takes in an event of the log, in position order: before the replica's keys, and after them what was
    /// appended meanwhile.
    pub fn know(&mut self, event: &StoredEvent) {
        let key = short(EventKey::of(event).as_str());
        self.head = event.position;
        if self.later.remove(&key).is_none() {
            self.known.insert(key);
        }
    }

    /// Takes in a key that the replica holds, and what it holds there.
    pub fn take(&mut self, key: &str, held: &[u8]) {
        let short = short(key);
        if self.known.contains(&short) {
            self.told += 1;
            return;
        }
        let position = StoredEvent::from_json(held).map_or(Position::START, |event| event.position);
        if position > self.head && self.later.len() < Self::KEPT_LATER {
            self.later.insert(short, key.to_owned());
        } else {
            self.stranger(key.to_owned());
        }
    }

    fn stranger(&mut self, key: String) {
        self.count += 1;
        if self.first.len() < Self::KEPT {
            self.first.push(key);
        }
    }

    /// How many keys of the log the replica has told of.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.told
    }

    /// The last position that is known of the log.
    #[must_use]
    pub fn head(&self) -> Position {
        self.head
    }

    /// How many keys aren't the log's, and the first few of them. What was appended meanwhile must be known.
    #[must_use]
    pub fn finish(mut self) -> (u64, Vec<String>) {
        let mut later: Vec<String> = std::mem::take(&mut self.later).into_values().collect();
        later.sort_unstable();
        for key in later {
            self.stranger(key);
        }
        (self.count, self.first)
    }
}

#[cfg(test)]
mod tests {
    use ironbus::{Aggregate, EventId, Json, NewEvent, Sequence, SessionId};
    use jiff::Timestamp;

    use super::*;

    fn event(position: u64) -> StoredEvent {
        stored(NewEvent::new("Done", Json::parse("{}").expect("valid")), position)
    }

    fn stored(new: NewEvent, position: u64) -> StoredEvent {
        let aggregate = Aggregate::new("Todo", "1").expect("valid");
        let id = EventId(uuid::Uuid::from_u128(u128::from(position)));
        new.into_stored(id, aggregate, Sequence(position), Position(position), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_key_that_the_log_has_not_is_a_stranger() {
        let mut strangers = Strangers::default();
        (1..=5).for_each(|position| strangers.know(&event(position)));
        for position in 1..=4 {
            let event = event(position);
            strangers.take(EventKey::of(&event).as_str(), &event.json());
        }
        strangers.take("events/Todo/2/1", b"{}");
        let session = SessionId::new("s").expect("valid");
        let scoped = NewEvent::new("Done", Json::parse("{}").expect("valid")).for_session(session);
        let scoped = stored(scoped, 3);
        strangers.take(EventKey::of(&scoped).as_str(), &scoped.json());
        assert_eq!(strangers.told(), 4);
        let keys = vec!["events/Todo/2/1".to_owned(), "events/session/s/Todo/1/3".to_owned()];
        assert_eq!(strangers.finish(), (2, keys));
    }

    #[test]
    fn what_the_log_has_got_meanwhile_is_none() {
        let mut strangers = Strangers::default();
        strangers.know(&event(1));
        for position in 2..=4 {
            let event = event(position);
            strangers.take(EventKey::of(&event).as_str(), &event.json());
        }
        assert_eq!((strangers.told(), strangers.head()), (0, Position(1)));
        strangers.know(&event(2));
        strangers.know(&event(3));
        assert_eq!(strangers.finish(), (1, vec!["events/Todo/1/4".to_owned()]));
    }
}
