//! What went wrong, told as problem+json (RFC 9457): what it is, and what to do.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ironbus::event::InvalidName;
use ironbus::key::InvalidPattern;
use ironbus::store::InvalidAppend;
use ironbus::{AppendError, ReadError};
use serde_json::{Map, Value, json};

const CONTENT_TYPE: &str = "application/problem+json";

/// An error as a client sees it.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    more: Map<String, Value>,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self { status, kind, title, detail: detail.into(), more: Map::new() }
    }

    /// The same problem with a further member.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn bad_request(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, kind, "The request can't be understood", detail)
    }
}

impl Problem {
    /// A request's head that didn't arrive in time.
    pub(crate) fn head_timeout(patience: Duration) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "head-timeout",
            "The request took too long",
            format!("the request's head didn't arrive within {} s; send it again", patience.as_secs_f32()),
        )
    }

    /// The whole answer as HTTP/1.1, for a connection that no request came through on. Ends it.
    pub(crate) fn into_http1(self) -> String {
        let (status, body) = (self.status, self.document());
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {CONTENT_TYPE}\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        )
    }

    fn document(self) -> String {
        let mut document = json!({
            "type": format!("urn:ironbus:problem:{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        document.as_object_mut().expect("made as an object above").extend(self.more);
        document.to_string()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = (status, self.document()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        let detail = error.to_string();
        let refused = |status, kind, title| Self::new(status, kind, title, detail.clone());
        match error {
            AppendError::Conflict { aggregate, expected, actual } => {
                refused(StatusCode::CONFLICT, "conflict", "The aggregate isn't at the expected version")
                    .with("aggregate_type", aggregate.aggregate_type())
                    .with("aggregate_id", aggregate.aggregate_id())
                    .with("expected", json!(expected))
                    .with("actual", actual.0)
            }
            AppendError::EventIdReused { event_id } => {
                refused(StatusCode::CONFLICT, "event-id-reused", "The event id belongs to another event")
                    .with("event_id", event_id.to_string())
            }
            AppendError::PartlyStored { stored, total } => {
                refused(StatusCode::CONFLICT, "partly-stored", "Some of the events are stored already")
                    .with("stored", stored)
                    .with("total", total)
            }
            AppendError::Invalid(InvalidAppend::TooManyEvents { limit, .. }) => {
                refused(StatusCode::PAYLOAD_TOO_LARGE, "too-many-events", "The batch is too large")
                    .with("limit", limit)
            }
            AppendError::Invalid(InvalidAppend::TooManyBytes { limit, .. }) => {
                refused(StatusCode::PAYLOAD_TOO_LARGE, "too-many-bytes", "The batch is too large")
                    .with("limit", limit)
            }
            AppendError::Invalid(_) => {
                refused(StatusCode::UNPROCESSABLE_ENTITY, "invalid-event", "The events can't be stored")
            }
            AppendError::StorageFull => {
                refused(StatusCode::INSUFFICIENT_STORAGE, "storage-full", "There is no space left")
            }
            AppendError::Closed => {
                refused(StatusCode::SERVICE_UNAVAILABLE, "closing", "The server is shutting down")
            }
            AppendError::Unavailable { .. } => {
                refused(StatusCode::SERVICE_UNAVAILABLE, "log-away", "The log can't be reached")
            }
            AppendError::Superseded { .. } => {
                refused(StatusCode::SERVICE_UNAVAILABLE, "superseded", "Another store node has the log")
            }
            AppendError::Unknown(_) => refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "outcome-unknown",
                "Whether the events were stored is unknown",
            ),
            AppendError::ReadOnly => {
                refused(StatusCode::SERVICE_UNAVAILABLE, "read-only", "The log is open for reading only")
            }
            other => {
                tracing::error!(error = %other, "an append failed");
                refused(StatusCode::INTERNAL_SERVER_ERROR, "storage", "The log failed")
            }
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let unavailable = match &error {
            ReadError::Closed => Some(("closing", "The server is shutting down")),
            ReadError::Unavailable { .. } => Some(("log-away", "The log can't be reached")),
            _ => None,
        };
        if let Some((kind, title)) = unavailable {
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, error.to_string());
        }
        tracing::error!(%error, "the log could not be read");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "storage", "The log can't be read", error.to_string())
    }
}

impl From<InvalidName> for Problem {
    fn from(error: InvalidName) -> Self {
        let detail = error.to_string();
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-name", "A name can't be used", detail)
    }
}

impl From<InvalidPattern> for Problem {
    fn from(error: InvalidPattern) -> Self {
        let detail = error.to_string();
        Self::new(StatusCode::BAD_REQUEST, "invalid-pattern", "The pattern is invalid", detail)
            .with("pattern", error.pattern)
            .with("part", error.part)
    }
}
