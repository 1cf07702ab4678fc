//! The migration: how it is, what could be done, and taking its steps.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use ironbus::Migration;
use ironbus::migration::{JournalError, JournalStep, Phase, StepError, StepRequest};
use ironbus::moving::{LogPlace, MoveError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::query::Strict;
use crate::sse::event_stream;
use crate::{App, Problem, body};

/// How many steps are shown where the query doesn't say.
const USUAL_HISTORY: usize = 50;

/// The most steps that are shown.
const MOST_HISTORY: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MigrationQuery {
    history: Option<usize>,
}

/// `GET /v1/migration`
pub(super) async fn show(
    State(app): State<App>,
    Strict(query): Strict<MigrationQuery>,
) -> Result<Json<Value>, Problem> {
    let migration = migration(&app)?;
    let last = query.history.unwrap_or(USUAL_HISTORY);
    if last > MOST_HISTORY {
        let detail = format!("`history` is {last}; it must be at most {MOST_HISTORY}");
        return Err(Problem::bad_request("invalid-query", detail));
    }
    let history = migration.history(last).await?;
    Ok(Json(json!({ "status": *migration.status(), "plan": migration.plan(), "history": history })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepDocument {
    to: Option<Phase>,
    log: Option<LogPlace>,
    by: String,
    reason: String,
}

/// `POST /v1/migration/advance`
pub(super) async fn advance(State(app): State<App>, request: Request) -> Result<Json<Value>, Problem> {
    let asked = asked(&app, request).await?;
    let migration = migration(&app)?;
    told(migration, migration.advance(asked).await)
}

/// `POST /v1/migration/rollback`
pub(super) async fn rollback(State(app): State<App>, request: Request) -> Result<Json<Value>, Problem> {
    let asked = asked(&app, request).await?;
    let migration = migration(&app)?;
    told(migration, migration.rollback(asked).await)
}

async fn asked(app: &App, request: Request) -> Result<StepRequest, Problem> {
    let (parts, body) = request.into_parts();
    app.options.operators.check(app, &parts)?;
    // A page of another origin can't send this type without asking first, which it isn't allowed.
    body::expect_type(&parts, &["application/json"])?;
    let StepDocument { to, log, by, reason } = body::json(&body::read(app, body).await?)?;
    Ok(StepRequest { to, log, by, reason })
}

/// `POST /v1/migration/cancel`: takes back a move of the log that is still copying.
pub(super) async fn cancel(State(app): State<App>, request: Request) -> Result<Json<Value>, Problem> {
    entitled(&app, request).await?;
    Ok(Json(json!({ "cancelled": migration(&app)?.cancel_move() })))
}

/// `POST /v1/migration/settle`: the log that was left is no longer kept up to date.
pub(super) async fn settle(State(app): State<App>, request: Request) -> Result<Json<Value>, Problem> {
    entitled(&app, request).await?;
    Ok(Json(json!({ "settled": migration(&app)?.end_mirror().await? })))
}

/// An operator, with an empty JSON document: a page of another origin can't send this type unasked.
async fn entitled(app: &App, request: Request) -> Result<(), Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    let (parts, body) = request.into_parts();
    app.options.operators.check(app, &parts)?;
    body::expect_type(&parts, &["application/json"])?;
    let Nothing {} = body::json(&body::read(app, body).await?)?;
    Ok(())
}

fn told(migration: &Migration, taken: Result<JournalStep, StepError>) -> Result<Json<Value>, Problem> {
    let step = taken?;
    Ok(Json(json!({ "step": step, "status": *migration.status() })))
}

/// `GET /v1/migration/watch`: the status by Server-Sent Events, about once a second and after every step.
pub(super) async fn watch(State(app): State<App>) -> Result<Response, Problem> {
    let mut status = migration(&app)?.watch();
    status.mark_changed();
    let (draining, retry) = (app.draining.token().clone(), app.options.retry.as_millis());
    let hello = format!("retry: {retry}\n\n");
    let frames = stream::unfold(Some((status, draining, Some(hello))), |state| async {
        let (mut status, draining, mut hello) = state?;
        if let Some(hello) = hello.take() {
            return Some((frame(hello), Some((status, draining, None))));
        }
        match draining.run_until_cancelled(status.changed()).await {
            Some(Ok(())) => {
                let document = json!(**status.borrow_and_update());
                Some((frame(format!("data: {document}\n\n")), Some((status, draining, None))))
            }
            Some(Err(_)) | None => {
                Some((frame(": the server is shutting down; reconnect\n\n".to_owned()), None))
            }
        }
    });
    Ok(event_stream(Body::from_stream(frames)))
}

fn frame(text: String) -> Result<Bytes, std::convert::Infallible> {
    Ok(text.into())
}

fn migration(app: &App) -> Result<&Migration, Problem> {
    app.node.migration().ok_or_else(|| {
        let detail = if app.node.own_log().is_some() {
            "the program that serves this log hasn't started its migration".to_owned()
        } else {
            format!("this node has no log of its own ({}); ask the store node", app.node.log_access())
        };
        Problem::new(StatusCode::NOT_FOUND, "no-migration", "No migration is controlled here", detail)
    })
}

impl From<StepError> for Problem {
    fn from(error: StepError) -> Self {
        let detail = error.to_string();
        let refused = |status, kind, title| Self::new(status, kind, title, detail.clone());
        match error {
            StepError::Refused { phase, obstacles } => {
                refused(StatusCode::CONFLICT, "step-refused", "Something is in the way of the step")
                    .with("phase", json!(phase))
                    .with("obstacles", json!(obstacles))
            }
            StepError::Moved { expected, actual } => {
                refused(StatusCode::CONFLICT, "step-overtaken", "Another step was faster")
                    .with("expected", json!(expected))
                    .with("actual", json!(actual))
            }
            StepError::Invalid(_) => {
                refused(StatusCode::UNPROCESSABLE_ENTITY, "invalid-step", "The step can't be recorded")
            }
            StepError::Journal(JournalError::StorageFull) => {
                refused(StatusCode::INSUFFICIENT_STORAGE, "storage-full", "There is no space left")
            }
            StepError::Journal(JournalError::Unknown(_)) => refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "outcome-unknown",
                "Whether the step was recorded is unknown",
            ),
            StepError::Journal(JournalError::Superseded { .. }) => {
                refused(StatusCode::SERVICE_UNAVAILABLE, "superseded", "Another store node has the log")
            }
            StepError::Switch { phase, .. } => {
                refused(StatusCode::SERVICE_UNAVAILABLE, "bus-not-switched", "The bus can't follow the step")
                    .with("phase", json!(phase))
            }
            StepError::Move(MoveError::Cancelled) => {
                refused(StatusCode::CONFLICT, "move-cancelled", "The move was cancelled")
            }
            StepError::Move(MoveError::UnderWay { .. } | MoveError::Already(_)) => {
                refused(StatusCode::CONFLICT, "step-refused", "The log can't move there now")
            }
            StepError::Move(_) => {
                refused(StatusCode::SERVICE_UNAVAILABLE, "log-not-moved", "The log stays where it was")
            }
            StepError::Read(error) => error.into(),
            StepError::Closed => {
                refused(StatusCode::SERVICE_UNAVAILABLE, "closing", "The server is shutting down")
            }
            other => {
                tracing::error!(error = %other, "a step of the migration failed");
                refused(StatusCode::INTERNAL_SERVER_ERROR, "storage", "The log failed")
            }
        }
    }
}
