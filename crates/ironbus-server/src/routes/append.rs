//! Appending: one aggregate's events, or a batch over several; JSON or CloudEvents.

use std::time::Instant;

use axum::Json as JsonResponse;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use ironbus::{Aggregate, Append, EventId, ExpectedVersion, Json, Metadata, NewEvent, SessionId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cloudevents::from_cloudevent;
use crate::{App, Problem, body};

const JSON: &str = "application/json";
const CLOUDEVENT: &str = "application/cloudevents+json";
const CLOUDEVENTS: &str = "application/cloudevents-batch+json";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventDocument {
    event_id: Option<EventId>,
    event_type: String,
    payload: Json,
    schema_version: Option<u32>,
    metadata: Option<Json>,
    session_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AggregateDocument {
    #[serde(default)]
    expected_version: ExpectedVersion,
    events: Vec<EventDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteDocument {
    aggregate_type: String,
    aggregate_id: String,
    #[serde(default)]
    expected_version: ExpectedVersion,
    events: Vec<EventDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchDocument {
    writes: Vec<WriteDocument>,
}

impl EventDocument {
    fn into_event(self) -> Result<NewEvent, Problem> {
        let invalid = |detail: String| {
            Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid-event",
                "The events can't be stored",
                detail,
            )
        };
        let metadata = self.metadata.map(Metadata::new).transpose().map_err(|e| invalid(e.to_string()))?;
        let session_id = self.session_id.map(SessionId::new).transpose()?;
        Ok(NewEvent {
            event_id: self.event_id,
            schema_version: self.schema_version.unwrap_or(1),
            metadata: metadata.unwrap_or_default(),
            session_id,
            ..NewEvent::new(self.event_type, self.payload)
        })
    }
}

fn into_events(documents: Vec<EventDocument>) -> Result<Vec<NewEvent>, Problem> {
    documents.into_iter().map(EventDocument::into_event).collect()
}

/// `POST /v1/aggregates/{type}/{id}/events`
pub(super) async fn to_aggregate(
    State(app): State<App>,
    Path((kind, id)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, content) = request.into_parts();
    body::expect_type(&parts, &[JSON])?;
    let aggregate = Aggregate::new(kind, id)?;
    let document: AggregateDocument = body::json(&body::read(&app, content).await?)?;
    let events = into_events(document.events)?;
    append(&app, Append::to(aggregate, document.expected_version, events)).await
}

/// `POST /v1/events`
pub(super) async fn batch(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let (parts, content) = request.into_parts();
    if parts.headers.contains_key("ce-specversion") {
        let event = binary_cloudevent(&app, &parts, content).await?;
        return append(&app, event).await;
    }
    let kind = body::expect_type(&parts, &[JSON, CLOUDEVENT, CLOUDEVENTS])?;
    let content = body::read(&app, content).await?;
    let batch = match kind.as_str() {
        CLOUDEVENT => {
            let document: Box<RawValue> = body::json(&content)?;
            one_cloudevent(Append::default(), &document)?
        }
        CLOUDEVENTS => {
            let documents: Vec<Box<RawValue>> = body::json(&content)?;
            let mut documents = documents.iter();
            documents.try_fold(Append::default(), |batch, document| one_cloudevent(batch, document))?
        }
        _ => {
            let document: BatchDocument = body::json(&content)?;
            let mut batch = Append::default();
            for write in document.writes {
                let aggregate = Aggregate::new(write.aggregate_type, write.aggregate_id)?;
                batch = batch.and(aggregate, write.expected_version, into_events(write.events)?);
            }
            batch
        }
    };
    append(&app, batch).await
}

fn one_cloudevent(batch: Append, document: &RawValue) -> Result<Append, Problem> {
    let (aggregate, event) = from_cloudevent(document.get().as_bytes())
        .map_err(|error| Problem::bad_request("invalid-cloudevent", error.to_string()))?;
    Ok(batch.and(aggregate, ExpectedVersion::Any, vec![event]))
}

/// A CloudEvent in binary mode: its attributes are headers, its data is the body.
async fn binary_cloudevent(
    app: &App,
    parts: &http::request::Parts,
    content: Body,
) -> Result<Append, Problem> {
    body::expect_type(parts, &[JSON])?;
    let mut attributes = serde_json::Map::new();
    for (name, value) in &parts.headers {
        let Some(name) = name.as_str().strip_prefix("ce-") else { continue };
        let value = value.to_str().map_err(|_| {
            Problem::bad_request("invalid-cloudevent", format!("the header `ce-{name}` isn't readable text"))
        })?;
        attributes.insert(name.to_owned(), value.into());
    }
    let data: Box<RawValue> = body::json(&body::read(app, content).await?)?;
    let mut document = serde_json::to_string(&attributes).expect("texts are always JSON");
    document.truncate(document.len() - 1);
    document.push_str(",\"datacontenttype\":\"application/json\",\"data\":");
    document.push_str(data.get());
    document.push('}');
    let document = RawValue::from_string(document)
        .map_err(|error| Problem::bad_request("invalid-cloudevent", error.to_string()))?;
    one_cloudevent(Append::default(), &document)
}

async fn append(app: &App, append: Append) -> Result<Response, Problem> {
    let (count, began) = (append.len(), Instant::now());
    match app.node.store().append(append).await {
        Ok(appended) => {
            app.metrics.append_accepted(count, began.elapsed());
            Ok((StatusCode::CREATED, JsonResponse(appended)).into_response())
        }
        Err(error) => {
            app.metrics.append_refused();
            Err(error.into())
        }
    }
}
