//! Reading: one aggregate's history, and pages of the whole log; JSON, NDJSON or CloudEvents.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, StatusCode, header};
use ironbus::store::AggregatePage;
use ironbus::{
    Aggregate, Entitlement, EventFilter, EventStore, Position, ReadError, Sequence, StoreId, StoredEvent,
};
use serde::Deserialize;

use super::query::{MOST, Strict, entitlement, filter, page_size, pattern};
use crate::cloudevents::to_cloudevent;
use crate::{App, Problem};

const THROUGH: HeaderName = HeaderName::from_static("ironbus-through");
const HEAD: HeaderName = HeaderName::from_static("ironbus-head");
const VERSION: HeaderName = HeaderName::from_static("ironbus-version");

/// How a client wants its events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Lines,
    CloudEvents,
}

impl Form {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Lines => "application/x-ndjson",
            Self::CloudEvents => "application/cloudevents-batch+json",
        }
    }

    /// The first form that `Accept` names; JSON where it names none in particular.
    fn wanted(request: &Request) -> Result<Self, Problem> {
        let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
        let Some(accept) = accept else { return Ok(Self::Json) };
        for part in accept.split(',') {
            let kind = part.split(';').next().unwrap_or_default().trim();
            match kind {
                "application/x-ndjson" | "application/jsonl" => return Ok(Self::Lines),
                "application/cloudevents-batch+json" => return Ok(Self::CloudEvents),
                "application/json" | "application/*" | "*/*" | "text/html" => return Ok(Self::Json),
                _ => {}
            }
        }
        let known = [Self::Json, Self::Lines, Self::CloudEvents].map(Self::content_type).join(", ");
        Err(Problem::new(
            StatusCode::NOT_ACCEPTABLE,
            "accept",
            "No such form",
            format!("`Accept: {accept}` names no form that is given here; these are: {known}"),
        ))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AggregateQuery {
    after_sequence: Option<Sequence>,
    limit: Option<usize>,
}

/// `GET /v1/aggregates/{type}/{id}/events`
pub(super) async fn aggregate(
    State(app): State<App>,
    Path((kind, id)): Path<(String, String)>,
    Strict(query): Strict<AggregateQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let form = Form::wanted(&request)?;
    let aggregate =
        Aggregate::new(kind, id).map_err(|error| Problem::bad_request("invalid-name", error.to_string()))?;
    let (parts, _) = request.into_parts();
    let entitlement = entitlement(&app, &parts)?;
    let store = app.node.store();
    let after = query.after_sequence.unwrap_or_default();
    let page = load_visible(&*store, &aggregate, after, page_size(query.limit)?, &entitlement).await?;
    let version = page.version.0;
    let body = match form {
        Form::Json => document(&page.events, &format!(",\"version\":{version}")),
        Form::Lines => lines(&page.events),
        Form::CloudEvents => cloudevents(&page.events, store.head().await?.store_id),
    };
    Ok(answer(form, body, [(VERSION, version)]))
}

/// A page of those events that may be seen. It is empty only where no more of them follow: a client that
/// saw nothing could not ask for what comes after it.
async fn load_visible(
    store: &dyn EventStore,
    aggregate: &Aggregate,
    mut after: Sequence,
    limit: usize,
    entitlement: &Entitlement,
) -> Result<AggregatePage, ReadError> {
    let mut size = limit;
    loop {
        let mut page = store.load(aggregate, after, size).await?;
        let through = page.events.last().map_or(page.version, |last| last.sequence);
        page.events.retain(|event| entitlement.allows(event.session_id.as_ref()));
        page.events.truncate(limit);
        if !page.events.is_empty() || through >= page.version {
            return Ok(page);
        }
        (after, size) = (through, MOST);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    after: Option<Position>,
    pattern: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/events`
pub(super) async fn events(
    State(app): State<App>,
    Strict(query): Strict<EventsQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let form = Form::wanted(&request)?;
    let (parts, _) = request.into_parts();
    let (filter, _) = filter(&app, &parts, pattern(query.pattern.as_deref())?)?;
    let store = app.node.store();
    let after = query.after.unwrap_or_default();
    if form == Form::Lines && query.limit.is_none() {
        return whole_log(app, after, filter).await;
    }
    let page = store.read(after, &filter, page_size(query.limit)?).await?;
    let (through, head) = (page.through.0, page.head.0);
    let body = match form {
        Form::Json => document(&page.events, &format!(",\"through\":{through},\"head\":{head}")),
        Form::Lines => lines(&page.events),
        Form::CloudEvents => cloudevents(&page.events, store.head().await?.store_id),
    };
    Ok(answer(form, body, [(THROUGH, through), (HEAD, head)]))
}

/// Every matching event up to the head at the start, page by page, as lines. If the log can't be read any
/// further the connection is cut, so that a client sees that it hasn't everything.
async fn whole_log(app: App, after: Position, filter: EventFilter) -> Result<Response, Problem> {
    let head = app.node.store().head().await?.position;
    let pages = stream::try_unfold((app, after, filter), move |(app, after, filter)| async move {
        if after >= head {
            return Ok(None);
        }
        let page = app.node.store().read(after, &filter, MOST).await.inspect_err(|error| {
            tracing::error!(%error, "reading the whole log ended early");
        })?;
        let until = page.events.partition_point(|event| event.position <= head);
        let lines = Bytes::from(lines(&page.events[..until]));
        Ok::<_, ReadError>(Some((lines, (app, page.through, filter))))
    });
    let mut response = Body::from_stream(pages).into_response();
    describe(&mut response, Form::Lines);
    for name in [THROUGH, HEAD] {
        response.headers_mut().insert(name, HeaderValue::from(head.0));
    }
    Ok(response)
}

fn document(events: &[Arc<StoredEvent>], more: &str) -> Vec<u8> {
    let mut out = b"{\"events\":[".to_vec();
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        event.write_json(&mut out);
    }
    out.push(b']');
    out.extend_from_slice(more.as_bytes());
    out.push(b'}');
    out
}

fn lines(events: &[Arc<StoredEvent>]) -> Vec<u8> {
    let mut out = Vec::new();
    for event in events {
        out.extend_from_slice(&event.json_line());
        out.push(b'\n');
    }
    out
}

fn cloudevents(events: &[Arc<StoredEvent>], store_id: StoreId) -> Vec<u8> {
    let documents: Vec<Vec<u8>> = events.iter().map(|event| to_cloudevent(event, store_id)).collect();
    let mut out = b"[".to_vec();
    out.extend(documents.join(&b","[..]));
    out.push(b']');
    out
}

fn answer<const N: usize>(form: Form, body: Vec<u8>, numbers: [(HeaderName, u64); N]) -> Response {
    let mut response = body.into_response();
    describe(&mut response, form);
    for (name, number) in numbers {
        response.headers_mut().insert(name, HeaderValue::from(number));
    }
    response
}

fn describe(response: &mut Response, form: Form) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    // What is shown depends on who asks: no cache may keep it for somebody else.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
