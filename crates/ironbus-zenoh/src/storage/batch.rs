//! A batch: what one slot of the log holds.
//!
//! It stands for itself: it says which log and which slot it is of, in which epoch and by whom it was
//! written, and holds its events with their places, their time, and the hash of the log before and after them
//! (`ironbus::store::chain`, the same as in every other kind of store).

use std::sync::Arc;

use bytes::Bytes;
use ironbus::event::{
    Aggregate, Epoch, EventId, Json, Metadata, NewEvent, Position, Sequence, SessionId, StoreId, StoredEvent,
};
use ironbus::store::{ChainHash, EpochStart, JournalStep, Lineage};
use jiff::Timestamp;
use uuid::Uuid;

use super::bytes::{Damage, Reader, Writer};
use super::log::Slot;

const MAGIC: [u8; 4] = *b"ibus";
/// 2 has reasons of seals and epochs, steps of the migration, and logs that become copies.
const FORMAT: u16 = 2;

/// The least that an event takes: five numbers and six lengths.
const LEAST_EVENT: usize = 16 + 8 + 4 + 8 + 6 * 4;

/// What one slot holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Which log it is of.
    pub store_id: StoreId,
    /// Which slot it is of.
    pub slot: Slot,
    /// In which epoch it was written.
    pub epoch: Epoch,
    /// By whom: one process's use of the log.
    pub writer: Uuid,
    /// What it says.
    pub record: Record,
}

/// What a batch says.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The log begins, with these epochs. Always the first slot, and only that.
    Created {
        /// The epochs; those of the log that this one is a copy of, if it is one.
        lineage: Lineage,
        /// Whether it is a copy in the making, which accepts only what is copied until a later epoch begins.
        copy: bool,
    },
    /// Events, contiguous and never none.
    Events {
        /// The hash of the log before them.
        previous: ChainHash,
        /// The hash of the log after them.
        chain: ChainHash,
        /// The events.
        events: Vec<Arc<StoredEvent>>,
    },
    /// The epoch accepts no more events.
    Sealed {
        /// Where the log ends.
        head: Position,
        /// The hash of all of it.
        chain: ChainHash,
        /// Why, for those whose appends are refused.
        why: String,
    },
    /// A later epoch begins, that of this batch. It opens a copy in the making.
    EpochBegun {
        /// Where the log ends.
        after: Position,
        /// The hash of all of it.
        chain: ChainHash,
        /// Why, for people.
        why: String,
    },
    /// A step of the migration.
    Step(JournalStep),
    /// A sealed log, or a copy in the making, becomes a copy of the log with these epochs, the last of which is that
    /// of this batch and of what is copied.
    Copying {
        /// The epochs; they go on from those that it has.
        lineage: Lineage,
        /// Where the log ends.
        head: Position,
        /// The hash of all of it.
        chain: ChainHash,
    },
    /// A copy in the making has these steps of the migration, instead of what it had.
    Journal(Vec<JournalStep>),
}

impl Batch {
    /// The batch as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::new(MAGIC, FORMAT);
        out.raw(self.store_id.0.as_bytes());
        out.u64(self.slot.0);
        out.u64(self.epoch.0);
        out.raw(self.writer.as_bytes());
        match &self.record {
            Record::Created { lineage, copy } => {
                out.u8(1);
                write_lineage(&mut out, lineage);
                out.u8(u8::from(*copy));
            }
            Record::Events { previous, chain, events } => {
                out.u8(2);
                out.raw(previous);
                out.raw(chain);
                out.u64(events.first().map_or(0, |event| event.position.0));
                out.count(events.len());
                events.iter().for_each(|event| write_event(&mut out, event));
            }
            Record::Sealed { head, chain, why } => {
                out.u8(3);
                out.u64(head.0);
                out.raw(chain);
                out.text(why.as_bytes());
            }
            Record::EpochBegun { after, chain, why } => {
                out.u8(4);
                out.u64(after.0);
                out.raw(chain);
                out.text(why.as_bytes());
            }
            Record::Step(step) => {
                out.u8(5);
                out.json(step);
            }
            Record::Copying { lineage, head, chain } => {
                out.u8(6);
                write_lineage(&mut out, lineage);
                out.u64(head.0);
                out.raw(chain);
            }
            Record::Journal(steps) => {
                out.u8(7);
                out.json(steps);
            }
        }
        out.seal()
    }

    /// Reads the batch that `slot` holds.
    ///
    /// # Errors
    ///
    /// [`Damage`] when the bytes aren't a whole batch of this slot.
    pub fn decode(slot: Slot, bytes: Bytes) -> Result<Self, Damage> {
        let mut from = Reader::open(bytes, MAGIC, FORMAT)?;
        let why = |from: &mut Reader| if from.format() > 1 { from.name() } else { Ok(String::new()) };
        let store_id = StoreId(Uuid::from_bytes(from.array()?));
        if Slot(from.u64()?) != slot {
            return Err(Damage::Malformed("it is of another slot"));
        }
        let epoch = Epoch(from.u64()?);
        let writer = Uuid::from_bytes(from.array()?);
        let record = match from.u8()? {
            1 => Record::Created { lineage: read_lineage(&mut from)?, copy: from.u8()? != 0 },
            2 => {
                let (previous, chain) = (from.array()?, from.array()?);
                let first = from.u64()?;
                let count = from.count(LEAST_EVENT)?;
                if count == 0 || first == 0 || first.checked_add(count as u64).is_none() {
                    return Err(Damage::Malformed("its positions can't be"));
                }
                let event = |n| read_event(&mut from, Position(first + n as u64)).map(Arc::new);
                Record::Events { previous, chain, events: (0..count).map(event).collect::<Result<_, _>>()? }
            }
            3 => {
                let (head, chain) = (Position(from.u64()?), from.array()?);
                Record::Sealed { head, chain, why: why(&mut from)? }
            }
            4 => {
                let (after, chain) = (Position(from.u64()?), from.array()?);
                Record::EpochBegun { after, chain, why: why(&mut from)? }
            }
            5 => Record::Step(from.json()?),
            6 => {
                let lineage = read_lineage(&mut from)?;
                Record::Copying { lineage, head: Position(from.u64()?), chain: from.array()? }
            }
            7 => Record::Journal(from.json()?),
            _ => return Err(Damage::Malformed("it says what this build doesn't know")),
        };
        from.end()?;
        Ok(Self { store_id, slot, epoch, writer, record })
    }

    /// Its events; none where it says something else.
    #[must_use]
    pub fn events(&self) -> &[Arc<StoredEvent>] {
        match &self.record {
            Record::Events { events, .. } => events,
            _ => &[],
        }
    }
}

/// What a batch begins with: what it is, its format, which log it is of, and its slot.
#[cfg(feature = "rocksdb")]
const LOG: usize = MAGIC.len() + 2 + 16;

/// The last of the slots of whose batches the beginning is anywhere in these bytes. `of` is a batch of the same log.
/// No event holds such a beginning: there are zero bytes in it.
#[cfg(feature = "rocksdb")]
pub(super) fn last_begun(of: &[u8], bytes: &[u8]) -> Option<Slot> {
    let log = of.get(..LOG).filter(|log| log.starts_with(&MAGIC))?;
    let slot_at = |at: usize| {
        let slot = bytes.get(at..)?.strip_prefix(log)?.first_chunk()?;
        Some(Slot(u64::from_le_bytes(*slot)))
    };
    (0..bytes.len()).filter(|at| bytes[*at] == MAGIC[0]).filter_map(slot_at).max()
}

pub(super) fn write_lineage(out: &mut Writer, lineage: &Lineage) {
    out.count(lineage.starts().len());
    for start in lineage.starts() {
        out.u64(start.epoch.0);
        out.u64(start.after.0);
    }
}

pub(super) fn read_lineage(from: &mut Reader) -> Result<Lineage, Damage> {
    let count = from.count(16)?;
    let mut starts = Vec::with_capacity(count);
    for _ in 0..count {
        starts.push(EpochStart { epoch: Epoch(from.u64()?), after: Position(from.u64()?) });
    }
    Lineage::new(starts).ok_or(Damage::Malformed("its epochs don't ascend"))
}

fn write_event(out: &mut Writer, event: &StoredEvent) {
    out.raw(event.event_id.0.as_bytes());
    out.u64(event.sequence.0);
    out.u32(event.schema_version);
    out.i64(event.recorded_at.as_microsecond());
    out.text(event.aggregate.aggregate_type().as_bytes());
    out.text(event.aggregate.aggregate_id().as_bytes());
    out.text(event.event_type.as_bytes());
    // A session id is never empty, so the empty text says that there is none.
    out.text(event.session_id.as_ref().map_or("", |id| id.as_str()).as_bytes());
    out.text(event.metadata.json().as_bytes());
    out.text(event.payload.as_bytes());
}

fn read_event(from: &mut Reader, position: Position) -> Result<StoredEvent, Damage> {
    let event_id = EventId(Uuid::from_bytes(from.array()?));
    let sequence = Sequence(from.u64()?);
    let schema_version = from.u32()?;
    let recorded_at = Timestamp::from_microsecond(from.i64()?);
    let aggregate = Aggregate::new(from.name()?, from.name()?);
    let event_type = from.name()?;
    let session = from.name()?;
    let session_id = if session.is_empty() { Ok(None) } else { SessionId::new(session).map(Some) };
    let metadata = own_json(&from.text()?).ok().and_then(|json| Metadata::new(json).ok());
    let payload = own_json(&from.text()?);
    let (Ok(recorded_at), Ok(aggregate), Ok(session_id), Some(metadata), Ok(payload)) =
        (recorded_at, aggregate, session_id, metadata, payload)
    else {
        return Err(Damage::Malformed("it holds what no event can be"));
    };
    let event = NewEvent {
        event_id: None,
        event_type: event_type.into(),
        schema_version,
        payload,
        metadata,
        session_id,
    };
    Ok(event.into_stored(event_id, aggregate, sequence, position, recorded_at))
}

/// JSON with bytes of its own: a slice would keep the whole object in memory as long as one event of it.
fn own_json(text: &[u8]) -> Result<Json, serde_json::Error> {
    if text == b"{}" {
        return Ok(Json::empty_object());
    }
    Json::parse(Bytes::copy_from_slice(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironbus::store::{CHAIN_START, Phase};
    use ironbus_testkit::numbered;
    use proptest::prelude::*;

    fn event(payload: &str, id: &str, session: Option<&str>, n: u64) -> StoredEvent {
        let event = NewEvent {
            payload: Json::parse(payload.to_owned()).expect("valid"),
            session_id: session.map(|id| SessionId::new(id).expect("valid")),
            ..numbered(n)
        };
        let at = Timestamp::from_microsecond(1_700_000_000_000_000 + n as i64).expect("in range");
        let id = Aggregate::new("T é", id).expect("valid");
        event.into_stored(ironbus_testkit::numbered_id(n), id, Sequence(n), Position(n), at)
    }

    fn batch(record: Record) -> Batch {
        let store_id = StoreId(Uuid::from_u128(7));
        Batch { store_id, slot: Slot(3), epoch: Epoch(2), writer: Uuid::from_u128(9), record }
    }

    fn step(step: u64) -> JournalStep {
        JournalStep {
            step,
            at: Timestamp::from_microsecond(1_700_000_000_000_001).expect("in range"),
            after: Position(4),
            from: Phase::Dual,
            to: Phase::Zenoh,
            by: "ann".into(),
            reason: "more nodes \u{e9}".into(),
            figures: Json::parse("{ \"b\":1.50, \"a\":[ ] }").expect("valid"),
        }
    }

    fn samples() -> Vec<Batch> {
        let start = |epoch, after| EpochStart { epoch: Epoch(epoch), after: Position(after) };
        let lineage = Lineage::new(vec![start(1, 0), start(4, 10)]).expect("ascending");
        let events = vec![
            Arc::new(event("{ \"b\":1.50,\r\n \"a\":[ ] }", "a/b", None, 4)),
            Arc::new(event("\"\\u00e9 é\"", "a/b", Some("s 1"), 5)),
        ];
        vec![
            batch(Record::Created { lineage: lineage.clone(), copy: true }),
            batch(Record::Events { previous: CHAIN_START, chain: [1; 32], events }),
            batch(Record::Sealed { head: Position(4), chain: [2; 32], why: "it went over".into() }),
            batch(Record::EpochBegun { after: Position(4), chain: [2; 32], why: String::new() }),
            batch(Record::Step(step(1))),
            batch(Record::Copying { lineage, head: Position(10), chain: [2; 32] }),
            batch(Record::Journal(vec![step(1), step(2)])),
        ]
    }

    #[test]
    fn a_batch_reads_back_what_it_writes() {
        for batch in samples() {
            assert_eq!(Batch::decode(Slot(3), batch.encode()), Ok(batch));
        }
    }

    #[test]
    fn any_flipped_or_missing_byte_is_noticed() {
        for batch in samples() {
            let whole = batch.encode();
            for at in 0..whole.len() {
                let mut flipped = whole.to_vec();
                flipped[at] ^= 0x10;
                assert!(Batch::decode(Slot(3), flipped.into()).is_err(), "byte {at}");
                assert!(Batch::decode(Slot(3), whole.slice(..at)).is_err(), "cut off at {at}");
            }
        }
    }

    #[test]
    fn a_batch_of_another_slot_and_of_a_later_format_are_refused() {
        let whole = samples()[1].encode();
        assert_eq!(Batch::decode(Slot(4), whole), Err(Damage::Malformed("it is of another slot")));
        let later = Writer::new(MAGIC, FORMAT + 1).seal();
        let newer = Damage::Newer { found: FORMAT + 1, known: FORMAT };
        assert_eq!(Batch::decode(Slot(3), later), Err(newer));
        let other = Writer::new(*b"else", 1).seal();
        assert_eq!(Batch::decode(Slot(3), other), Err(Damage::NotOurs));
    }

    #[cfg(feature = "rocksdb")]
    #[test]
    fn the_last_batch_that_is_begun_is_found_among_other_bytes() {
        let [of, batch, ..] = &samples()[..] else { panic!("there are some") };
        let at = |slot| Batch { slot: Slot(slot), ..batch.clone() }.encode();
        let other = Batch { store_id: StoreId(Uuid::from_u128(8)), ..batch.clone() };
        let mut bytes = [b"iibusib".as_slice(), &at(7), b"i", &at(5), &other.encode()].concat();
        assert_eq!(last_begun(&of.encode(), &bytes), Some(Slot(7)));
        bytes.extend(&at(9)[..LOG + 7]);
        assert_eq!(last_begun(&of.encode(), &bytes), Some(Slot(7)), "its slot isn't all there");
        bytes.push(0);
        assert_eq!(last_begun(&of.encode(), &bytes), Some(Slot(9)));
        assert_eq!(last_begun(b"one", &bytes), None);
    }

    /// Bytes that tell when nobody has any of them any more.
    struct Held(Bytes, Arc<std::sync::atomic::AtomicBool>);

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            self.1.store(true, std::sync::atomic::Ordering::Release);
        }
    }

    #[test]
    fn an_event_does_not_keep_the_object_that_it_came_in() {
        let dropped = Arc::default();
        let whole = Bytes::from_owner(Held(samples()[1].encode(), Arc::clone(&dropped)));
        let event = Arc::clone(&Batch::decode(Slot(3), whole).expect("sound").events()[1]);
        assert!(dropped.load(std::sync::atomic::Ordering::Acquire), "{event:?} keeps all of it");
    }

    proptest! {
        #[test]
        fn sealed_nonsense_is_refused_and_never_panics(
            kind in 0_u8..9, mut bytes in prop::collection::vec(any::<u8>(), 0..400), small in any::<bool>(),
        ) {
            // Up to what it says it is a batch of this slot.
            let mut out = Writer::new(MAGIC, FORMAT);
            let whole = batch(Record::Journal(Vec::new()));
            out.raw(whole.store_id.0.as_bytes());
            out.u64(whole.slot.0);
            out.u64(whole.epoch.0);
            out.raw(whole.writer.as_bytes());
            out.u8(kind);
            if small {
                // Numbers that can be, so that what is counted by them is read too.
                let numbers = bytes.iter_mut().enumerate();
                numbers.for_each(|(at, byte)| *byte = if at % 8 == 0 { *byte % 4 } else { 0 });
            }
            out.raw(&bytes);
            if let Ok(read) = Batch::decode(whole.slot, out.seal()) {
                prop_assert_eq!(Batch::decode(whole.slot, read.encode()), Ok(read));
            }
        }

        #[test]
        fn whatever_texts_an_event_has_it_reads_back(
            payload in "[a-z é\\\\\"\n]{0,40}", id in "[^\0]{1,40}", session in proptest::option::of("[^\0]{1,20}"),
        ) {
            let payload = serde_json::to_string(&payload).expect("a text is JSON");
            let events = vec![Arc::new(event(&payload, &id, session.as_deref(), 1))];
            let batch = batch(Record::Events { previous: CHAIN_START, chain: [1; 32], events });
            prop_assert_eq!(Batch::decode(Slot(3), batch.encode()), Ok(batch));
        }
    }
}
