//! PostgreSQL: one table, one insert for each event, whose version its unique index checks.

use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, Statement};
use uuid::Uuid;

use crate::peer::{Failure, Peer, ROUND};
use crate::program::{Program, find, port};

/// As many connections as there are ever clients.
const CONNECTIONS: usize = 64;

pub struct Postgres {
    clients: Vec<(Client, Statement)>,
    next: AtomicUsize,
    _program: Program,
}

impl Postgres {
    pub async fn start(folder: &Path) -> Result<Self, Failure> {
        let (data, port) = (folder.join("postgres"), port()?);
        std::fs::create_dir_all(&data)?;
        let bin =
            find("postgres").and_then(|path| Some(path.parent()?.to_owned())).ok_or("postgres is missing")?;
        // It refuses to run as root.
        let user = user_of("postgres").filter(|_| user_of("root") == Some(own_user()));
        if let Some((user, group)) = user {
            chown(&data, Some(user), Some(group))?;
            // Its way there must be open to that user.
            for above in
                folder.ancestors().take_while(|above| above.starts_with("/") && above.parent().is_some())
            {
                open_to_all(above)?;
            }
        }
        let of = |program: &str| match user {
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command.args([
                    format!("--reuid={user}"),
                    format!("--regid={group}"),
                    "--clear-groups".into(),
                ]);
                command.arg(bin.join(program));
                command
            }
            None => Command::new(bin.join(program)),
        };
        let made =
            of("initdb").args(["-A", "trust", "-U", "bench", "-E", "UTF8", "-D"]).arg(&data).output()?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).into());
        }
        let mut command = of("postgres");
        command.arg("-D").arg(&data).arg("-k").arg(&data).args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        command.args(["-c", "max_connections=200"]);
        let program = Program::start(&mut command, folder, port).await?;
        let at = format!("host=127.0.0.1 port={port} user=bench dbname=postgres");
        let mut clients = Vec::new();
        for number in 0..CONNECTIONS {
            // It listens before it can be connected to.
            let (client, connection) = loop {
                match tokio_postgres::connect(&at, NoTls).await {
                    Err(error) if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    connected => break connected?,
                }
            };
            tokio::spawn(connection);
            if number == 0 {
                client
                    .batch_execute(
                        "CREATE TABLE event (position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                             stream text NOT NULL, sequence bigint NOT NULL, event_id uuid NOT NULL UNIQUE,
                             type text NOT NULL, payload text NOT NULL, UNIQUE (stream, sequence))",
                    )
                    .await?;
            }
            let insert = client
                .prepare(
                    "INSERT INTO event (stream, sequence, event_id, type, payload)
                     VALUES ($1, $2, $3, 'Measured', $4) RETURNING position",
                )
                .await?;
            clients.push((client, insert));
        }
        Ok(Self { clients, next: AtomicUsize::new(0), _program: program })
    }

    fn any(&self) -> &Client {
        &self.clients[self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS].0
    }
}

fn own_user() -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").map_or((u32::MAX, u32::MAX), |own| (own.uid(), own.gid()))
}

fn user_of(name: &str) -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn open_to_all(folder: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    let mut permissions = std::fs::metadata(folder)?.permissions();
    if permissions.mode() & 0o001 == 0 {
        permissions.set_mode(permissions.mode() | 0o011);
        std::fs::set_permissions(folder, permissions)?;
    }
    Ok(())
}

#[async_trait]
impl Peer for Postgres {
    fn survives(&self) -> &'static str {
        "each commit synced (fsync); versions by a unique index, positions with holes"
    }

    async fn append(
        &self,
        client: usize,
        aggregate: &str,
        version: u64,
        _: u64,
        payload: &str,
    ) -> Result<u64, Failure> {
        let (client, insert) = &self.clients[client % CONNECTIONS];
        let row =
            client.query_one(insert, &[&aggregate, &(version as i64 + 1), &Uuid::now_v7(), &payload]).await?;
        Ok(row.get::<_, i64>(0) as u64)
    }

    async fn fill(&self, first: u64, payload: &str) -> Result<(), Failure> {
        let client = self.any();
        let last = first + ROUND / 10 - 1;
        client
            .execute(
                "INSERT INTO event (stream, sequence, event_id, type, payload)
                 SELECT stream::text, sequence, gen_random_uuid(), 'Measured', $1
                 FROM generate_series($2::bigint, $3::bigint) AS stream, generate_series(1, 10) AS sequence
                 ORDER BY stream, sequence",
                &[&payload, &(first as i64), &(last as i64)],
            )
            .await?;
        Ok(())
    }

    async fn load(&self, aggregate: &str) -> Result<u64, Failure> {
        let (client, _) = &self.clients[0];
        // As a program would: prepared once for a connection.
        let select = "SELECT position, sequence, event_id, type, payload FROM event WHERE stream = $1 ORDER BY sequence";
        static PREPARED: tokio::sync::OnceCell<Statement> = tokio::sync::OnceCell::const_new();
        let prepared = PREPARED.get_or_try_init(|| client.prepare(select)).await?;
        Ok(client.query(prepared, &[&aggregate]).await?.len() as u64)
    }

    async fn replay(&self, count: u64) -> Result<u64, Failure> {
        let select = "SELECT position, stream, sequence, event_id, type, payload FROM event ORDER BY position LIMIT $1";
        let rows = self.any().query_raw(select, [count as i64]).await?;
        let mut rows = std::pin::pin!(rows);
        let mut seen = 0;
        while let Some(row) = rows.try_next().await? {
            seen += u64::from(!row.get::<_, &str>(5).is_empty());
        }
        Ok(seen)
    }
}
