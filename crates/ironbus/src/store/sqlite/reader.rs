//! Reading the log over one connection, which never blocks the writer.
//!
//! Every call reads one bounded page and ends its statement, so that no read holds a snapshot for long
//! (a long one would keep SQLite from folding its write-ahead log in). The log only grows, so a page read
//! up to a head that was read before it is consistent without a transaction.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

use super::schema::{fold_in_at_close, open_reader, refused};
use crate::event::{Aggregate, Encoded, EventId, Json, Metadata, Position, Sequence, SessionId, StoredEvent};
use crate::key::{EventFilter, Shape};
use crate::store::{AggregatePage, OpenError, Page, ReadError};

/// A SELECT of the columns that [`event_at_row`] reads, in its order.
macro_rules! select_events {
    ($which:literal) => {
        concat!(
            "SELECT position, aggregate, sequence, session_id, event_id, event_type, schema_version, ",
            "recorded_at, metadata, payload FROM event ",
            $which
        )
    };
}
pub(super) use select_events;

/// Events of an aggregate after a sequence, no more than so many.
const LOAD: &str = select_events!("WHERE aggregate = ?1 AND sequence > ?2 ORDER BY sequence LIMIT ?3");

/// How many rows a page looks at at the most, so that a pattern that matches little gives up its
/// connection to others now and then.
const LOOK_AT_MOST: u64 = 50_000;

/// A page ends once its payloads and metadata reach this many bytes.
const PAGE_BYTES: usize = 8 << 20;

/// One connection with what it remembers.
pub(super) struct Reader {
    connection: Connection,
    names: AggregateNames,
    types: Types,
}

/// The names of the aggregates that were met lately, each at the place that its row has: rows are numbered one after the
/// other. Another row of the same place takes it over, so it is bounded.
#[derive(Default)]
struct AggregateNames(Vec<Option<(i64, Aggregate)>>);

impl AggregateNames {
    const PLACES: usize = 1 << 14;

    fn of(&mut self, row: i64, connection: &Connection) -> rusqlite::Result<&Aggregate> {
        let at = row.rem_euclid(Self::PLACES as i64) as usize;
        if self.0.len() <= at {
            // As much as was met, so that a small log takes little.
            self.0.resize((at + 1).next_power_of_two(), None);
        }
        let place = &mut self.0[at];
        if place.as_ref().is_none_or(|(known, _)| *known != row) {
            *place = Some((row, aggregate_of(connection, row)?));
        }
        let Some((_, name)) = place else { unreachable!("it was just put there") };
        Ok(name)
    }
}

/// The event types that were met last: there are few, and each event would hold a copy of its own.
#[derive(Default)]
pub(super) struct Types([Option<Arc<str>>; 16], usize);

impl Types {
    fn shared(&mut self, name: &str) -> Arc<str> {
        let Self(known, next) = self;
        if let Some(known) = known.iter().flatten().find(|known| &***known == name) {
            return Arc::clone(known);
        }
        let name = Arc::from(name);
        known[*next] = Some(Arc::clone(&name));
        *next = (*next + 1) % known.len();
        name
    }
}

impl Reader {
    /// The connection, for what else of the file is read.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Opens a log whose state was read before and found sound.
    pub(super) fn open(path: &std::path::Path) -> Result<Self, OpenError> {
        let connection = open_reader(path)?;
        fold_in_at_close(&connection, true).map_err(|error| refused(path, error))?;
        Ok(Self { connection, names: AggregateNames::default(), types: Types::default() })
    }

    /// Whether another connection has committed since the number was last asked for and differs.
    pub(super) fn data_version(&self) -> rusqlite::Result<i64> {
        self.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
    }

    pub(super) fn head(&self) -> rusqlite::Result<Position> {
        self.connection.prepare_cached("SELECT head FROM log")?.query_row([], |row| Ok(Position(row.get(0)?)))
    }

    pub(super) fn load(
        &mut self,
        aggregate: &Aggregate,
        after: Sequence,
        limit: usize,
    ) -> rusqlite::Result<AggregatePage> {
        let Some(row) = row_of(&self.connection, aggregate)? else {
            return Ok(AggregatePage { events: Vec::new(), version: Sequence::START });
        };
        let mut select = self.connection.prepare_cached(LOAD)?;
        let mut rows = select.query((row, after.0, as_limit(limit)))?;
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut whole = true;
        while let Some(row) = rows.next()? {
            let event_type = self.types.shared(row.get_ref(5)?.as_str()?);
            let event = event_of_type(row, aggregate.clone(), event_type)?;
            bytes += weight(&event);
            events.push(Arc::new(event));
            if bytes >= PAGE_BYTES {
                whole = false;
                break;
            }
        }
        drop(rows);
        // The last event of a page that wasn't cut short is the aggregate's last: no second look.
        let version = match events.last() {
            Some(last) if whole && events.len() < limit => last.sequence,
            _ => version_of(&self.connection, row)?,
        };
        Ok(AggregatePage { events, version })
    }

    pub(super) fn read(
        &mut self,
        after: Position,
        filter: &EventFilter,
        limit: usize,
    ) -> rusqlite::Result<Page> {
        let head = self.head()?;
        let mut page = Page { events: Vec::new(), through: after.max(head), head };
        if after >= head || limit == 0 {
            page.through = after;
            return Ok(page);
        }
        match filter.pattern.shape() {
            Shape::Aggregate(aggregate) => self.read_aggregate(aggregate, after, filter, limit, &mut page)?,
            Shape::Session(session) => self.read_session(session, after, filter, limit, &mut page)?,
            _ => self.scan(after, filter, limit, &mut page)?,
        }
        Ok(page)
    }

    /// One aggregate's events by its index; its positions ascend with its sequences.
    fn read_aggregate(
        &mut self,
        aggregate: &Aggregate,
        after: Position,
        filter: &EventFilter,
        limit: usize,
        page: &mut Page,
    ) -> rusqlite::Result<()> {
        let Some(row) = row_of(&self.connection, aggregate)? else { return Ok(()) };
        let passed = self.last_sequence_by(row, after)?;
        let mut select = self.connection.prepare_cached(select_events!(
            "WHERE aggregate = ?1 AND sequence > ?2 AND position <= ?3 ORDER BY sequence"
        ))?;
        let mut rows = select.query((row, passed.0, page.head.0))?;
        let mut collect = Collect::new(page, filter, limit, &mut self.types);
        while let Some(row) = rows.next()? {
            if !collect.take(row, aggregate)? {
                break;
            }
        }
        Ok(())
    }

    /// The aggregate's last sequence at or before `position`, by bisection.
    fn last_sequence_by(&self, row: i64, position: Position) -> rusqlite::Result<Sequence> {
        let (mut low, mut high) = (0, version_of(&self.connection, row)?.0);
        let mut select = self
            .connection
            .prepare_cached("SELECT position FROM event WHERE aggregate = ?1 AND sequence = ?2")?;
        if position == Position::START {
            return Ok(Sequence::START);
        }
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let at = select.query_row((row, middle), |row| row.get::<_, u64>(0))?;
            if at <= position.0 { low = middle } else { high = middle - 1 }
        }
        Ok(Sequence(low))
    }

    fn read_session(
        &mut self,
        session: &SessionId,
        after: Position,
        filter: &EventFilter,
        limit: usize,
        page: &mut Page,
    ) -> rusqlite::Result<()> {
        if !filter.entitlement.allows(Some(session)) {
            return Ok(());
        }
        let mut select = self.connection.prepare_cached(select_events!(
            "WHERE session_id = ?1 AND position > ?2 AND position <= ?3 ORDER BY position"
        ))?;
        let mut rows = select.query((session.as_str(), after.0, page.head.0))?;
        let mut collect = Collect::new(page, filter, limit, &mut self.types);
        while let Some(row) = rows.next()? {
            let aggregate = self.names.of(row.get(1)?, &self.connection)?;
            if !collect.take(row, aggregate)? {
                break;
            }
        }
        Ok(())
    }

    /// Looks at every row; decodes only those that match.
    fn scan(
        &mut self,
        after: Position,
        filter: &EventFilter,
        limit: usize,
        page: &mut Page,
    ) -> rusqlite::Result<()> {
        let until = page.head.0.min(after.0.saturating_add(LOOK_AT_MOST));
        page.through = Position(until);
        let mut select = self
            .connection
            .prepare_cached(select_events!("WHERE position > ?1 AND position <= ?2 ORDER BY position"))?;
        let mut rows = select.query((after.0, until))?;
        let passes_all = filter.passes_all();
        let mut collect = Collect::new(page, filter, limit, &mut self.types);
        while let Some(row) = rows.next()? {
            let aggregate = self.names.of(row.get(1)?, &self.connection)?;
            let more = if passes_all {
                collect.keep(row, aggregate.clone())?
            } else {
                collect.take(row, aggregate)?
            };
            if !more {
                break;
            }
        }
        Ok(())
    }
}

/// Fills a page until it is full.
struct Collect<'a> {
    page: &'a mut Page,
    filter: &'a EventFilter,
    limit: usize,
    bytes: usize,
    types: &'a mut Types,
}

impl<'a> Collect<'a> {
    fn new(page: &'a mut Page, filter: &'a EventFilter, limit: usize, types: &'a mut Types) -> Self {
        Self { page, filter, limit, bytes: 0, types }
    }

    /// Takes the row if it matches; says whether there is room for more.
    fn take(&mut self, row: &Row<'_>, aggregate: &Aggregate) -> rusqlite::Result<bool> {
        let session = session_at_row(row)?;
        let matches = self.filter.matches_place(aggregate, Sequence(row.get(2)?), session.as_ref());
        if matches { self.keep(row, aggregate.clone()) } else { Ok(true) }
    }

    fn keep(&mut self, row: &Row<'_>, aggregate: Aggregate) -> rusqlite::Result<bool> {
        let event_type = self.types.shared(row.get_ref(5)?.as_str()?);
        let event = event_of_type(row, aggregate, event_type)?;
        self.bytes += weight(&event);
        let position = event.position;
        self.page.events.push(Arc::new(event));
        let full = self.page.events.len() >= self.limit || self.bytes >= PAGE_BYTES;
        if full {
            self.page.through = position;
        }
        Ok(!full)
    }
}

fn weight(event: &StoredEvent) -> usize {
    event.payload.as_bytes().len() + event.metadata.json().as_bytes().len()
}

fn as_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn session_at_row(row: &Row<'_>) -> rusqlite::Result<Option<SessionId>> {
    let Some(id) = row.get_ref(3)?.as_str_or_null()? else { return Ok(None) };
    SessionId::new(id).map(Some).map_err(|error| unreadable(3, error))
}

/// The event that a row of [`EVENT_COLUMNS`] holds.
pub(super) fn event_at_row(row: &Row<'_>, aggregate: Aggregate) -> rusqlite::Result<StoredEvent> {
    event_of_type(row, aggregate, Arc::from(row.get_ref(5)?.as_str()?))
}

fn event_of_type(row: &Row<'_>, aggregate: Aggregate, event_type: Arc<str>) -> rusqlite::Result<StoredEvent> {
    let recorded_at = Timestamp::from_microsecond(row.get(7)?).map_err(|error| unreadable(7, error))?;
    Ok(StoredEvent {
        position: Position(row.get(0)?),
        sequence: Sequence(row.get(2)?),
        event_id: EventId(Uuid::from_bytes(row.get(4)?)),
        aggregate,
        event_type,
        schema_version: row.get(6)?,
        payload: Json::trusted(row.get_ref(9)?.as_str()?),
        metadata: Metadata::trusted(row.get_ref(8)?.as_str()?),
        session_id: session_at_row(row)?,
        recorded_at,
        encoded: Encoded::default(),
    })
}

pub(super) fn unreadable(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

pub(super) fn row_of(connection: &Connection, aggregate: &Aggregate) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT aggregate FROM aggregate WHERE aggregate_type = ?1 AND aggregate_id = ?2")?
        .query_row((aggregate.aggregate_type(), aggregate.aggregate_id()), |row| row.get(0))
        .optional()
}

pub(super) fn version_of(connection: &Connection, row: i64) -> rusqlite::Result<Sequence> {
    connection
        .prepare_cached("SELECT coalesce(max(sequence), 0) FROM event WHERE aggregate = ?1")?
        .query_row([row], |row| Ok(Sequence(row.get(0)?)))
}

pub(super) fn aggregate_of(connection: &Connection, row: i64) -> rusqlite::Result<Aggregate> {
    connection
        .prepare_cached("SELECT aggregate_type, aggregate_id FROM aggregate WHERE aggregate = ?1")?
        .query_row([row], |row| {
            Aggregate::new(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?)
                .map_err(|error| unreadable(0, error))
        })
}

pub(super) fn read_error(error: rusqlite::Error) -> ReadError {
    let damaged = |place: &str, error: &rusqlite::Error| ReadError::Damaged {
        place: place.to_owned(),
        reason: error.to_string(),
    };
    match &error {
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..) => damaged("a row", &error),
        _ if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
            damaged("the file", &error)
        }
        _ => ReadError::Storage(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::store::Durability;
    use crate::store::sqlite::schema::open_writer;
    use crate::store::sqlite::writer::insert_aggregate;

    #[test]
    fn a_load_is_compiled_once_whatever_its_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.db");
        let (writer, ..) = open_writer(&path, Durability::Full, None).expect("a log");
        let aggregate = Aggregate::new("Todo", "1").expect("valid");
        insert_aggregate(&writer, &aggregate).expect("inserted");
        let mut reader = Reader::open(&path).expect("opens");
        for limit in [1, 10, 100] {
            reader.load(&aggregate, Sequence::START, limit).expect("readable");
        }
        let load = reader.connection.prepare_cached(LOAD).expect("it is there");
        assert_eq!(load.get_status(StatementStatus::Run), 3, "it is the statement that was used");
        assert_eq!(load.get_status(StatementStatus::RePrepare), 0);
    }
}
