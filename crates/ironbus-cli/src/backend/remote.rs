//! A log behind a server: the HTTP API as seen by a client.

use std::sync::Arc;
use std::time::Duration;

use ironbus::migration::StepRequest;
use ironbus::store::{AggregatePage, AggregateWrite, Page};
use ironbus::{
    Aggregate, Append, Appended, Cursor, Epoch, EventId, ExpectedVersion, Json, KeyPattern, Position,
    Sequence, StoredEvent,
};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Refused;
use crate::failure::{Failure, Kind};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer may take, but for a stream's.
const ANSWER: Duration = Duration::from_secs(60);

/// How long a log may take to go elsewhere. The move goes on however long is waited.
const MOVE: Duration = Duration::from_secs(24 * 3600);

/// A stream on which not even a heartbeat came for so long is taken for broken.
const SILENCE: Duration = Duration::from_secs(60);

/// The most of a body of errors that is shown.
const SHOWN: usize = 300;

/// A server.
#[derive(Clone)]
pub(crate) struct Remote {
    http: reqwest::Client,
    base: Url,
    /// Whether somebody named the server; else the default was taken.
    named: bool,
    token: Option<String>,
}

/// What `/v1/status` says, as far as commands need it.
#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) epoch: Epoch,
    pub(crate) head: Position,
}

#[derive(Serialize)]
struct BatchDocument<'a> {
    writes: Vec<WriteDocument<'a>>,
}

#[derive(Serialize)]
struct WriteDocument<'a> {
    aggregate_type: &'a str,
    aggregate_id: &'a str,
    expected_version: ExpectedVersion,
    events: Vec<EventDocument<'a>>,
}

#[derive(Serialize)]
struct EventDocument<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<EventId>,
    event_type: &'a str,
    schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    metadata: &'a Json,
    payload: &'a Json,
}

impl<'a> WriteDocument<'a> {
    fn of(write: &'a AggregateWrite) -> Self {
        let events = write.events.iter().map(|event| EventDocument {
            event_id: event.event_id,
            event_type: &event.event_type,
            schema_version: event.schema_version,
            session_id: event.session_id.as_ref().map(|session| session.as_str()),
            metadata: event.metadata.json(),
            payload: &event.payload,
        });
        Self {
            aggregate_type: write.aggregate.aggregate_type(),
            aggregate_id: write.aggregate.aggregate_id(),
            expected_version: write.expected,
            events: events.collect(),
        }
    }
}

#[derive(Deserialize)]
struct EventsDocument<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    through: Option<Position>,
    head: Option<Position>,
    version: Option<Sequence>,
}

/// An error as the server tells it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    detail: String,
    event_id: Option<EventId>,
}

impl Remote {
    /// A server at a URL.
    pub(crate) fn new(url: &str, named: bool, token: Option<&str>) -> Result<Self, Failure> {
        let base = Url::parse(url).map_err(|error| {
            Failure::usage(format!("`{url}` is not a URL ({error}); an example is http://127.0.0.1:4466"))
        })?;
        match base.scheme() {
            "http" => {}
            "https" => {
                return Err(Failure::usage(format!(
                    "{url}: this build speaks no TLS; use an http URL, through a tunnel (ssh -L) if the server is elsewhere"
                )));
            }
            _ => {
                return Err(Failure::usage(format!(
                    "`{url}` begins with no http://; an example is http://127.0.0.1:4466"
                )));
            }
        }
        let Some(host) = base.host_str().map(str::to_owned) else {
            return Err(Failure::usage(format!(
                "`{url}` names no host; an example is http://127.0.0.1:4466"
            )));
        };
        let mut http = reqwest::Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE);
        // A proxy of the environment is for the way out, not for this machine itself.
        if host == "localhost" || host.starts_with("127.") || host == "[::1]" {
            http = http.no_proxy();
        }
        let http =
            http.build().map_err(|error| Failure::failed(format!("the HTTP client can't start: {error}")))?;
        let token = token.map(str::trim).filter(|token| !token.is_empty()).map(str::to_owned);
        Ok(Self { http, base, named, token })
    }

    /// Where the server is, as it was named.
    pub(crate) fn url(&self) -> &Url {
        &self.base
    }

    pub(crate) async fn append(&self, append: &Append) -> Result<Appended, Refused> {
        append.check().map_err(Failure::input)?;
        let document = BatchDocument { writes: append.writes.iter().map(WriteDocument::of).collect() };
        let body = serde_json::to_vec(&document).map_err(Failure::failed)?;
        let request = self.http.post(self.at(&["v1", "events"])).header("content-type", "application/json");
        let response = self.send(request.body(body).timeout(ANSWER)).await?;
        let status = response.status();
        let text = self.body(response).await?;
        if status.is_success() {
            return Ok(self.understood(&text)?);
        }
        let problem: Problem = serde_json::from_slice(&text).unwrap_or_default();
        let message = problem.detail.clone();
        Err(match problem.kind.as_str() {
            "urn:ironbus:problem:partly-stored" => Refused::PartlyStored(message),
            "urn:ironbus:problem:event-id-reused" => {
                Refused::EventIdReused { event_id: problem.event_id, message }
            }
            _ => Refused::Other(self.failure(status, &text)),
        })
    }

    pub(crate) async fn load(
        &self,
        aggregate: &Aggregate,
        after: Sequence,
        limit: usize,
    ) -> Result<AggregatePage, Failure> {
        let (kind, id) = (aggregate.aggregate_type(), aggregate.aggregate_id());
        if [kind, id].iter().any(|name| matches!(*name, "." | "..")) {
            return Err(Failure::usage(format!(
                "`{kind}` `{id}` can't be named in a URL, where `.` and `..` mean a folder; use --data, or `ironbus read`"
            )));
        }
        let mut url = self.at(&["v1", "aggregates", kind, id, "events"]);
        url.query_pairs_mut()
            .append_pair("after_sequence", &after.to_string())
            .append_pair("limit", &limit.to_string());
        let text = self.get(url).await?;
        let document: EventsDocument<'_> = self.understood(&text)?;
        let events = self.events(&document)?;
        let version = document.version.or(events.last().map(|last| last.sequence)).unwrap_or(after);
        Ok(AggregatePage { events, version })
    }

    pub(crate) async fn read(
        &self,
        after: Position,
        pattern: &KeyPattern,
        limit: usize,
    ) -> Result<Page, Failure> {
        let mut url = self.at(&["v1", "events"]);
        url.query_pairs_mut()
            .append_pair("after", &after.to_string())
            .append_pair("pattern", pattern.as_str())
            .append_pair("limit", &limit.to_string());
        let text = self.get(url).await?;
        let document: EventsDocument<'_> = self.understood(&text)?;
        let (Some(through), Some(head)) = (document.through, document.head) else {
            return Err(self.not_ours("its page doesn't say how far it looked"));
        };
        Ok(Page { events: self.events(&document)?, through, head })
    }

    /// What the server says of itself, as JSON.
    pub(crate) async fn status_document(&self) -> Result<Vec<u8>, Failure> {
        self.get(self.at(&["v1", "status"])).await
    }

    pub(crate) async fn status(&self) -> Result<Status, Failure> {
        self.understood(&self.status_document().await?)
    }

    /// Opens the live stream after a cursor.
    pub(crate) async fn stream(&self, pattern: &KeyPattern, cursor: Cursor) -> Result<Response, Failure> {
        let mut url = self.at(&["v1", "stream"]);
        url.query_pairs_mut()
            .append_pair("pattern", pattern.as_str())
            .append_pair("last_event_id", &cursor.to_string());
        self.open(url).await
    }

    /// How the log's migration is, what could be done, and its last steps.
    pub(crate) async fn migration(&self, history: usize) -> Result<Value, Failure> {
        let mut url = self.at(&["v1", "migration"]);
        url.query_pairs_mut().append_pair("history", &history.to_string());
        self.understood(&self.get(url).await?)
    }

    /// Takes a step of the migration: `advance` or `rollback`.
    pub(crate) async fn take_step(&self, way: &str, step: &StepRequest) -> Result<Value, Failure> {
        let document = json!({ "to": step.to, "log": step.log, "by": step.by, "reason": step.reason });
        self.migrate(way, &document).await
    }

    /// Asks something of the migration. A step with which the log moves is answered when it is there.
    pub(crate) async fn migrate(&self, what: &str, document: &Value) -> Result<Value, Failure> {
        let request = self.http.post(self.at(&["v1", "migration", what]));
        let request = request.header("content-type", "application/json").body(document.to_string());
        let patience = if document["to"] == "zenoh_storage" || what == "rollback" { MOVE } else { ANSWER };
        let response = self.send(request.timeout(patience)).await?;
        let status = response.status();
        let text = self.body(response).await?;
        if status.is_success() { self.understood(&text) } else { Err(self.failure(status, &text)) }
    }

    /// Opens the stream of the migration's status.
    pub(crate) async fn watch_migration(&self) -> Result<Response, Failure> {
        self.open(self.at(&["v1", "migration", "watch"])).await
    }

    async fn open(&self, url: Url) -> Result<Response, Failure> {
        let response = self.send(self.http.get(url).header("accept", "text/event-stream")).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let text = self.body(response).await?;
        Err(self.failure(status, &text))
    }

    fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.set_query(None);
        url.path_segments_mut().expect("an http URL has a path").pop_if_empty().extend(segments);
        url
    }

    async fn get(&self, url: Url) -> Result<Vec<u8>, Failure> {
        let request = self.http.get(url).header("accept", "application/json").timeout(ANSWER);
        let response = self.send(request).await?;
        let status = response.status();
        let text = self.body(response).await?;
        if status.is_success() { Ok(text) } else { Err(self.failure(status, &text)) }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.map_err(|error| self.unreachable(&error))
    }

    async fn body(&self, response: Response) -> Result<Vec<u8>, Failure> {
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Ok(body.into())
    }

    fn understood<'a, T: Deserialize<'a>>(&self, text: &'a [u8]) -> Result<T, Failure> {
        serde_json::from_slice(text).map_err(|error| self.not_ours(&error.to_string()))
    }

    fn events(&self, document: &EventsDocument<'_>) -> Result<Vec<Arc<StoredEvent>>, Failure> {
        let read = |event: &&RawValue| StoredEvent::from_json(event.get().as_bytes()).map(Arc::new);
        let events: Result<_, _> = document.events.iter().map(read).collect();
        events.map_err(|error| self.not_ours(&error.to_string()))
    }

    fn not_ours(&self, reason: &str) -> Failure {
        Failure::failed(format!("{} doesn't answer as an ironbus server does: {reason}", self.base))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let reason = root_cause(error);
        let message = if !error.is_connect() {
            format!("the connection to {} broke ({reason}); try again", self.base)
        } else if self.named {
            format!("no server answers at {} ({reason}); start it, or name another with --url", self.base)
        } else {
            format!(
                "no server answers at {} ({reason}); start one with `ironbus serve`, name another with --url, \
                 or work straight on a data directory with --data",
                self.base
            )
        };
        Failure::new(Kind::Unavailable, message)
    }

    /// An answer that is no success.
    fn failure(&self, status: StatusCode, text: &[u8]) -> Failure {
        let Ok(problem) = serde_json::from_slice::<Problem>(text) else {
            let text: String = String::from_utf8_lossy(text).chars().take(SHOWN).collect();
            return self.not_ours(&format!("it said {status} {}", crate::output::shown(text.trim())));
        };
        let kind = match status {
            StatusCode::CONFLICT => Kind::Conflict,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Failed,
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::INSUFFICIENT_STORAGE => Kind::Unavailable,
            status if status.is_client_error() => Kind::Input,
            _ => Kind::Failed,
        };
        let said = if problem.detail.is_empty() { problem.title } else { problem.detail };
        Failure::new(kind, if said.is_empty() { format!("the server said {status}") } else { said })
    }
}

/// The innermost reason of an error: what the operating system said.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        match Remote::new(url, true, None) {
            Ok(_) => panic!("{url} was taken for a server's URL"),
            Err(failure) => failure.message,
        }
    }

    #[test]
    fn a_url_that_cannot_be_spoken_to_is_refused_with_what_to_do() {
        assert!(refused("https://example.org").contains("no TLS"));
        assert!(refused("localhost:4466").contains("http://127.0.0.1:4466"));
        assert!(refused("ftp://example.org").contains("no http://"));
        assert!(refused("nonsense").contains("not a URL"));
    }

    #[test]
    fn names_of_any_kind_stay_one_segment_of_the_path() {
        let remote = Remote::new("http://127.0.0.1:1/below/", true, None).expect("a URL");
        let url = remote.at(&["v1", "aggregates", "To do", "a/b#?%é", "events"]);
        assert_eq!(
            url.as_str(),
            "http://127.0.0.1:1/below/v1/aggregates/To%20do/a%2Fb%23%3F%25%C3%A9/events"
        );
    }
}
