//! NATS JetStream: one stream of a subject for each aggregate, whose last message has to be the expected one.

use std::path::Path;
use std::process::Command;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{self, Context};
use async_trait::async_trait;
use futures_util::StreamExt;

use crate::peer::{Failure, Peer, ROUND};
use crate::program::{Program, find, port};

pub struct Nats {
    context: Context,
    stream: Stream,
    _program: Program,
}

impl Nats {
    pub async fn start(folder: &Path) -> Result<Self, Failure> {
        let (port, file) = (port()?, folder.join("nats.conf"));
        let data = folder.join("nats");
        std::fs::write(
            &file,
            format!(
                "listen: \"127.0.0.1:{port}\"\njetstream {{\n  store_dir: {data:?}\n  sync_interval: always\n}}\n"
            ),
        )?;
        let mut command = Command::new(find("nats-server").ok_or("nats-server is missing")?);
        let program = Program::start(command.arg("-c").arg(&file), folder, port).await?;
        let context = jetstream::new(async_nats::connect(format!("127.0.0.1:{port}")).await?);
        let config = Config {
            name: "events".into(),
            subjects: vec!["events.>".into()],
            allow_direct: true,
            ..Config::default()
        };
        let stream = context.create_stream(config).await?;
        Ok(Self { context, stream, _program: program })
    }

    async fn read(&self, subject: String, count: u64) -> Result<u64, Failure> {
        let config = OrderedConfig {
            filter_subject: subject,
            deliver_policy: DeliverPolicy::All,
            ..OrderedConfig::default()
        };
        let consumer = self.stream.create_consumer(config).await?;
        let mut messages = consumer.messages().await?;
        let mut seen = 0;
        while let Some(message) = messages.next().await.transpose()? {
            seen += 1;
            if seen == count || message.info()?.pending == 0 {
                break;
            }
        }
        Ok(seen)
    }
}

#[async_trait]
impl Peer for Nats {
    fn survives(&self) -> &'static str {
        "each message synced (sync_interval: always); versions by the subject's last sequence"
    }

    async fn append(
        &self,
        _: usize,
        aggregate: &str,
        _: u64,
        after: u64,
        payload: &str,
    ) -> Result<u64, Failure> {
        let message =
            PublishMessage::build().payload(payload.to_owned().into()).expected_last_subject_sequence(after);
        Ok(self.context.send_publish(format!("events.{aggregate}"), message).await?.await?.sequence)
    }

    async fn fill(&self, first: u64, payload: &str) -> Result<(), Failure> {
        let mut answers = Vec::new();
        for number in 0..ROUND {
            let subject = format!("events.{}", first + number / 10);
            answers.push(self.context.publish(subject, payload.to_owned().into()).await?);
            // The client stands still with more than that under way.
            if answers.len() == 200 {
                for answer in answers.drain(..) {
                    answer.await?;
                }
            }
        }
        for answer in answers {
            answer.await?;
        }
        Ok(())
    }

    async fn load(&self, aggregate: &str) -> Result<u64, Failure> {
        self.read(format!("events.{aggregate}"), u64::MAX).await
    }

    async fn replay(&self, count: u64) -> Result<u64, Failure> {
        self.read("events.>".into(), count).await
    }
}
