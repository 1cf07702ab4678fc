//! Following a log as it grows: a subscription on a data directory, a stream of a server.
//!
//! A stream that breaks is opened again after the last event seen. Its cursor (epoch and position) is known
//! before it is first opened, so nothing is lost even where it breaks before the first event.
//!
//! Invariant: events are given out by strictly ascending position.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ironbus::{
    Cursor, Delivery, EventFilter, EventStore, KeyPattern, NodeLog, Position, Start, StoredEvent,
    Subscription,
};
use serde::Deserialize;

use super::Remote;
use super::sse::{Frame, Parser};
use crate::args::After;
use crate::failure::{Failure, Kind};

/// The longest wait between two tries to reconnect.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long to wait before the first try where the server doesn't say it.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// What is heard while following.
#[derive(Debug)]
pub(crate) enum Followed {
    /// A matching event.
    Event(Arc<StoredEvent>),
    /// Everything that was stored has been given out; from here on it is live.
    CaughtUp,
}

/// A log that is followed.
pub(crate) enum Follow {
    Local(Box<Subscription>),
    Remote(Box<RemoteFollow>),
}

impl Follow {
    pub(super) fn local(store: &NodeLog, filter: EventFilter, after: Option<After>) -> Self {
        let start = match after {
            None => Start::Live,
            Some(After::Position(position)) => Start::After(position),
            Some(After::Cursor(cursor)) => Start::Resume(cursor),
        };
        Self::Local(Box::new(store.subscribe(filter, start).with_caught_up()))
    }

    pub(super) async fn remote(
        remote: Remote,
        pattern: &KeyPattern,
        after: Option<After>,
    ) -> Result<Self, Failure> {
        let status = remote.status().await?;
        let cursor = match after {
            None => Cursor { epoch: status.epoch, position: status.head },
            Some(After::Position(position)) => Cursor { epoch: status.epoch, position },
            Some(After::Cursor(cursor)) => cursor,
        };
        let mut follow = RemoteFollow {
            remote,
            pattern: pattern.clone(),
            cursor,
            connection: None,
            heard: VecDeque::new(),
            retry: FIRST_WAIT,
            failed: 0,
        };
        // The first connection has to succeed: a wrong address isn't retried for ever.
        follow.connect().await?;
        Ok(Self::Remote(Box::new(follow)))
    }

    /// What comes next; waits for it. It may be dropped while it waits and nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Followed, Failure> {
        match self {
            Self::Remote(follow) => follow.next().await,
            Self::Local(events) => loop {
                match events.next().await {
                    Some(Ok(Delivery::Event(event))) => return Ok(Followed::Event(event)),
                    Some(Ok(Delivery::CaughtUp(_))) => return Ok(Followed::CaughtUp),
                    Some(Ok(Delivery::Reset(reason))) => return Err(reset(&reason.to_string())),
                    Some(Ok(Delivery::Watermark(_))) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(Failure::new(Kind::Unavailable, "the log was closed")),
                }
            },
        }
    }
}

fn reset(reason: &str) -> Failure {
    Failure::new(
        Kind::Reset,
        format!(
            "the log can't be followed from there: {reason}; forget what was read, and begin with --after 0"
        ),
    )
}

type Body = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

/// A server's stream that survives its connections.
pub(crate) struct RemoteFollow {
    remote: Remote,
    pattern: KeyPattern,
    cursor: Cursor,
    connection: Option<(Body, Parser)>,
    /// What one piece of the stream brought and nobody has taken yet: bounded by the size of a piece.
    heard: VecDeque<Frame>,
    retry: Duration,
    /// How many tries in a row have failed.
    failed: u32,
}

#[derive(Deserialize)]
struct CaughtUp {
    position: Position,
}

#[derive(Deserialize)]
struct Reset {
    reason: String,
}

impl RemoteFollow {
    async fn connect(&mut self) -> Result<(), Failure> {
        let response = self.remote.stream(&self.pattern, self.cursor).await?;
        self.connection = Some((Box::pin(response.bytes_stream()), Parser::default()));
        Ok(())
    }

    async fn next(&mut self) -> Result<Followed, Failure> {
        loop {
            while let Some(frame) = self.heard.pop_front() {
                if let Some(followed) = self.understand(frame)? {
                    return Ok(followed);
                }
            }
            let Some((body, parser)) = &mut self.connection else {
                self.reconnect().await?;
                continue;
            };
            match body.next().await {
                Some(Ok(piece)) => {
                    let mut frames = Vec::new();
                    if let Err(error) = parser.take(&piece, &mut frames) {
                        let message = format!("{} sends no event stream: {error}", self.remote.url());
                        return Err(Failure::failed(message));
                    }
                    self.heard.extend(frames);
                }
                Some(Err(error)) => self.broken(&error.to_string()),
                None => self.broken("the server ended the stream"),
            }
        }
    }

    fn broken(&mut self, reason: &str) {
        tracing::info!(reason, cursor = %self.cursor, "the connection is gone; connecting again");
        self.connection = None;
    }

    /// Waits, then tries once. Only what trying again can't help is an error.
    async fn reconnect(&mut self) -> Result<(), Failure> {
        let wait = self.retry.saturating_mul(1 << self.failed.min(8)).min(LONGEST_WAIT);
        tokio::time::sleep(wait).await;
        match self.connect().await {
            Ok(()) => Ok(()),
            Err(failure) if failure.kind == Kind::Unavailable => {
                if self.failed == 0 {
                    tracing::warn!("{failure}; trying until it is back");
                }
                self.failed += 1;
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// What a frame means, if it means anything to whoever follows.
    fn understand(&mut self, frame: Frame) -> Result<Option<Followed>, Failure> {
        // Something came: the server is back.
        self.failed = 0;
        if let Some(retry) = frame.retry {
            self.retry = Duration::from_millis(retry).min(LONGEST_WAIT);
        }
        let data = frame.data.unwrap_or_default();
        match frame.event.as_str() {
            "reset" => {
                let said = serde_json::from_str::<Reset>(&data);
                return Err(reset(&said.map_or(data, |said| said.reason)));
            }
            "caught_up" => {
                let said: CaughtUp = serde_json::from_str(&data).map_err(|error| self.garbled(&error))?;
                self.cursor.position = self.cursor.position.max(said.position);
                return Ok(Some(Followed::CaughtUp));
            }
            "" => {}
            _ => return Ok(None),
        }
        let Some(id) = frame.id else { return Ok(None) };
        let cursor: Cursor = id.parse().map_err(|error| self.garbled(&error))?;
        if data.is_empty() {
            self.cursor = Cursor { position: cursor.position.max(self.cursor.position), ..cursor };
            return Ok(None);
        }
        let event = StoredEvent::from_json(data.as_bytes()).map_err(|error| self.garbled(&error))?;
        // A server sends nothing twice; should one do so, nobody shall see it.
        if event.position <= self.cursor.position {
            return Ok(None);
        }
        self.cursor = cursor;
        Ok(Some(Followed::Event(Arc::new(event))))
    }

    fn garbled(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::failed(format!("{} sends no events of ironbus: {error}", self.remote.url()))
    }
}
