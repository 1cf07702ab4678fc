//! SQLite through sqlx: one connection that writes, as its users are advised to have, and four that read.

use std::path::Path;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{QueryBuilder, Row, Sqlite};
use uuid::Uuid;

use crate::peer::{Failure, Peer, ROUND};

pub struct Sqlx {
    writes: SqlitePool,
    reads: SqlitePool,
}

impl Sqlx {
    pub async fn open(folder: &Path) -> Result<Self, Failure> {
        let options = SqliteConnectOptions::new()
            .filename(folder.join("sqlx.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("mmap_size", "268435456");
        let writes = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        sqlx::query(
            "CREATE TABLE event (position INTEGER PRIMARY KEY, stream TEXT NOT NULL, sequence INTEGER NOT NULL,
                 event_id BLOB NOT NULL UNIQUE, type TEXT NOT NULL, payload TEXT NOT NULL,
                 UNIQUE (stream, sequence)) STRICT",
        )
        .execute(&writes)
        .await?;
        let reads = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        Ok(Self { writes, reads })
    }
}

#[async_trait]
impl Peer for Sqlx {
    fn survives(&self) -> &'static str {
        "each commit synced (FULL); versions by a unique index"
    }

    async fn append(
        &self,
        _: usize,
        aggregate: &str,
        version: u64,
        _: u64,
        payload: &str,
    ) -> Result<u64, Failure> {
        let done = sqlx::query(
            "INSERT INTO event (stream, sequence, event_id, type, payload) VALUES (?, ?, ?, 'Measured', ?)",
        )
        .bind(aggregate)
        .bind(version as i64 + 1)
        .bind(&Uuid::now_v7().as_bytes()[..])
        .bind(payload)
        .execute(&self.writes)
        .await?;
        Ok(done.last_insert_rowid() as u64)
    }

    async fn fill(&self, first: u64, payload: &str) -> Result<(), Failure> {
        let mut transaction = self.writes.begin().await?;
        let numbers: Vec<u64> = (0..ROUND).collect();
        for numbers in numbers.chunks(1000) {
            let mut insert =
                QueryBuilder::<Sqlite>::new("INSERT INTO event (stream, sequence, event_id, type, payload) ");
            insert.push_values(numbers, |mut row, number| {
                row.push_bind((first + number / 10).to_string())
                    .push_bind((number % 10 + 1) as i64)
                    .push_bind(Uuid::now_v7().as_bytes().to_vec())
                    .push_bind("Measured")
                    .push_bind(payload);
            });
            insert.build().execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn load(&self, aggregate: &str) -> Result<u64, Failure> {
        let select = "SELECT position, sequence, event_id, type, payload FROM event WHERE stream = ? ORDER BY sequence";
        Ok(sqlx::query(select).bind(aggregate).fetch_all(&self.reads).await?.len() as u64)
    }

    async fn replay(&self, count: u64) -> Result<u64, Failure> {
        let select =
            "SELECT position, stream, sequence, event_id, type, payload FROM event ORDER BY position LIMIT ?";
        let mut rows = sqlx::query(select).bind(count as i64).fetch(&self.reads);
        let mut seen = 0;
        while let Some(row) = rows.try_next().await? {
            seen += u64::from(!row.try_get::<&str, _>(5)?.is_empty());
        }
        Ok(seen)
    }
}
