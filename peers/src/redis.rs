//! Redis Streams: an event goes into the stream of its aggregate, whose number has to be the next, and into one of all.

use std::path::Path;
use std::process::Command;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamRangeReply;
use redis::{AsyncCommands, Client, Script};

use crate::peer::{Failure, Peer, ROUND};
use crate::program::{Program, find, port};

pub struct Redis {
    connection: MultiplexedConnection,
    append: Script,
    _program: Program,
}

impl Redis {
    pub async fn start(folder: &Path) -> Result<Self, Failure> {
        let port = port()?;
        let mut command = Command::new(find("redis-server").ok_or("redis-server is missing")?);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder);
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        let program = Program::start(&mut command, folder, port).await?;
        let client = Client::open(format!("redis://127.0.0.1:{port}"))?;
        let connection = client.get_multiplexed_async_connection().await?;
        // The version is checked and both streams written at once.
        let append = Script::new(
            "if redis.call('XLEN', KEYS[1]) ~= tonumber(ARGV[1]) then return redis.error_reply('version') end
             redis.call('XADD', KEYS[1], (ARGV[1] + 1) .. '-0', 'type', 'Measured', 'payload', ARGV[2])
             redis.call('XADD', KEYS[2], '*', 'stream', KEYS[1], 'sequence', ARGV[1] + 1, 'type', 'Measured',
                 'payload', ARGV[2])
             return 1",
        );
        Ok(Self { connection, append, _program: program })
    }
}

#[async_trait]
impl Peer for Redis {
    fn survives(&self) -> &'static str {
        "its file synced before each answer (appendfsync always); all of it in memory; each event kept twice"
    }

    async fn append(
        &self,
        _: usize,
        aggregate: &str,
        version: u64,
        _: u64,
        payload: &str,
    ) -> Result<u64, Failure> {
        let mut connection = self.connection.clone();
        let mut call = self.append.prepare_invoke();
        call.key(aggregate).key("all").arg(version).arg(payload);
        Ok(call.invoke_async(&mut connection).await?)
    }

    async fn fill(&self, first: u64, payload: &str) -> Result<(), Failure> {
        let mut connection = self.connection.clone();
        let mut batch = redis::pipe();
        batch.atomic();
        for number in 0..ROUND {
            let (stream, sequence) = ((first + number / 10).to_string(), number % 10 + 1);
            let fields = [("type", "Measured"), ("payload", payload)];
            batch.xadd(&stream, format!("{sequence}-0"), &fields).ignore();
            let sequence = sequence.to_string();
            let fields =
                [("stream", &*stream), ("sequence", &*sequence), ("type", "Measured"), ("payload", payload)];
            batch.xadd("all", "*", &fields).ignore();
        }
        Ok(batch.query_async(&mut connection).await?)
    }

    async fn load(&self, aggregate: &str) -> Result<u64, Failure> {
        let events: StreamRangeReply = self.connection.clone().xrange_all(aggregate).await?;
        Ok(events.ids.len() as u64)
    }

    async fn replay(&self, count: u64) -> Result<u64, Failure> {
        let (mut connection, mut seen, mut from) = (self.connection.clone(), 0, "-".to_owned());
        while seen < count {
            let page: StreamRangeReply = connection.xrange_count("all", &from, "+", ROUND as usize).await?;
            let Some(last) = page.ids.last() else { break };
            from = format!("({}", last.id);
            seen += page.ids.len() as u64;
        }
        Ok(seen)
    }
}
