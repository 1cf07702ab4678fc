//! A projection that survives anything: its position is stored together with its effect.
//!
//! ```text
//! cargo run -p ironbus-examples --bin projection -- [--log todo-data/ironbus.db] [--into projection.db] [--once]
//! ```
//!
//! It counts the events of each type in a SQLite table of its own, beside whatever process writes the
//! log. Count and cursor change in one transaction, so however it is stopped, every event is counted
//! exactly once. `--once` ends it when it has caught up.

use std::time::Duration;

use ironbus::store::EventStore;
use ironbus::{Cursor, Delivery, EventFilter, SqliteEventStore, SqliteOptions, Start, StoredEvent};
use rusqlite::{Connection, OptionalExtension, Transaction};

/// The read model: a table with the counts, and one row that says how far it has come.
struct Projection(Connection);

impl Projection {
    fn open(path: &str) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE IF NOT EXISTS count (
                 aggregate_type TEXT, event_type TEXT, events INTEGER NOT NULL,
                 PRIMARY KEY (aggregate_type, event_type)
             ) STRICT;
             CREATE TABLE IF NOT EXISTS checkpoint (
                 only INTEGER PRIMARY KEY CHECK (only = 1), cursor TEXT NOT NULL
             ) STRICT;",
        )?;
        Ok(Self(connection))
    }

    fn cursor(&self) -> anyhow::Result<Option<Cursor>> {
        let text: Option<String> =
            self.0.query_row("SELECT cursor FROM checkpoint", [], |row| row.get(0)).optional()?;
        Ok(text.map(|text| text.parse()).transpose()?)
    }

    /// The effect and the position, or neither.
    fn apply(
        &mut self,
        cursor: Cursor,
        effect: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        let transaction = self.0.transaction()?;
        effect(&transaction)?;
        transaction.execute(
            "INSERT INTO checkpoint VALUES (1, ?1) ON CONFLICT DO UPDATE SET cursor = excluded.cursor",
            [cursor.to_string()],
        )?;
        transaction.commit()
    }

    fn print(&self) -> rusqlite::Result<()> {
        let mut select =
            self.0.prepare("SELECT aggregate_type, event_type, events FROM count ORDER BY 1, 2")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (aggregate, event): (String, String) = (row.get(0)?, row.get(1)?);
            println!("{aggregate} {event}: {}", row.get::<_, i64>(2)?);
        }
        Ok(())
    }
}

fn count(transaction: &Transaction<'_>, event: &StoredEvent) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO count VALUES (?1, ?2, 1) ON CONFLICT DO UPDATE SET events = events + 1")?
        .execute((event.aggregate.aggregate_type(), &*event.event_type))?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut options = pico_args::Arguments::from_env();
    let log = options.opt_value_from_str("--log")?.unwrap_or_else(|| "todo-data/ironbus.db".to_owned());
    let into = options.opt_value_from_str("--into")?.unwrap_or_else(|| "projection.db".to_owned());
    let once = options.contains("--once");

    let store = SqliteEventStore::open_read_only(SqliteOptions::new(log)).await?;
    let epoch = store.head().await?.lineage.epoch();
    let mut projection = Projection::open(&into)?;
    let start = projection.cursor()?.map_or(Start::Beginning, Start::Resume);
    println!("starting from {start:?}");

    // Everything, sessions included: a projection is trusted code.
    let mut events = store
        .subscribe(EventFilter::everything(), start)
        .with_caught_up()
        .with_watermarks(Duration::from_secs(1));
    while let Some(delivery) = events.next().await {
        match delivery? {
            Delivery::Event(event) => {
                let cursor = Cursor { epoch, position: event.position };
                projection.apply(cursor, |transaction| count(transaction, &event))?;
            }
            Delivery::Watermark(position) => projection.apply(Cursor { epoch, position }, |_| Ok(()))?,
            // The log isn't the one that was counted (a restored backup, say): begin anew.
            Delivery::Reset(reason) => {
                println!("starting anew: {reason}");
                let cursor = Cursor { epoch, position: ironbus::Position::START };
                projection
                    .apply(cursor, |transaction| transaction.execute("DELETE FROM count", []).map(|_| ()))?;
            }
            Delivery::CaughtUp(position) => {
                println!("caught up at position {position}");
                projection.print()?;
                if once {
                    break;
                }
            }
        }
    }
    Ok(())
}
