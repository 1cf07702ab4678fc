//! Notices that only one browser sees, although all of them stand in one log.
//!
//! ```text
//! cargo run -p ironbus-examples --bin notices -- [--listen 127.0.0.1:3001] [--data DIRECTORY]
//! ```
//!
//! Whoever comes without a session gets one: a cookie with a token that this program has signed. A notice is
//! appended with the session's id, and the page's `EventSource` follows that session's stream, to which the
//! browser sends the cookie. What a page asks for entitles it to nothing; only the cookie does.

use std::time::Duration;

use axum::extract::{Form, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, get_service, post};
use ironbus::{Aggregate, Append, ExpectedVersion, Json, NewEvent, Node, NodeOptions, SessionId};
use ironbus_server::{ServerOptions, SessionSecret, SessionTokens};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a session lasts after its page last asked for a new cookie.
const LASTS: Duration = Duration::from_secs(3600);

#[derive(Clone)]
struct App {
    node: Node,
    tokens: SessionTokens,
}

impl App {
    /// The session of a request, if its cookie is valid.
    fn session(&self, headers: &HeaderMap) -> Option<SessionId> {
        self.tokens.of_request(headers).ok().flatten().map(|token| token.session_id)
    }

    /// The session's cookie. Behind HTTPS it is to be `Secure` too.
    fn cookie(&self, session: &SessionId) -> [(header::HeaderName, String); 1] {
        let (name, token) = (SessionTokens::COOKIE, self.tokens.mint(session, LASTS));
        let lasts = LASTS.as_secs();
        let cookie = format!("{name}={token}; Max-Age={lasts}; Path=/; HttpOnly; SameSite=Lax");
        [(header::SET_COOKIE, cookie)]
    }
}

async fn page(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    let session = match app.session(&headers) {
        Some(session) => session,
        None => SessionId::new(Uuid::new_v4().to_string())?,
    };
    // The id is a UUID of our own, and so needs no escaping.
    let page = include_str!("notices.html").replace("{session}", session.as_str());
    Ok((app.cookie(&session), Html(page)).into_response())
}

/// A new cookie for the same session, as long as the old one is valid.
async fn renew(State(app): State<App>, headers: HeaderMap) -> Response {
    match app.session(&headers) {
        Some(session) => (StatusCode::NO_CONTENT, app.cookie(&session)).into_response(),
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}

#[derive(Deserialize)]
struct Notice {
    text: String,
}

async fn note(
    State(app): State<App>,
    headers: HeaderMap,
    Form(notice): Form<Notice>,
) -> Result<StatusCode, Problem> {
    let Some(session) = app.session(&headers) else { return Ok(StatusCode::UNAUTHORIZED) };
    let payload = Json::parse(serde_json::json!({ "text": notice.text }).to_string())?;
    let event = NewEvent { session_id: Some(session), ..NewEvent::new("Noted", payload) };
    let aggregate = Aggregate::new("Notice", Uuid::now_v7().to_string())?;
    app.node.store().append(Append::to(aggregate, ExpectedVersion::NoStream, vec![event])).await?;
    Ok(StatusCode::NO_CONTENT)
}

struct Problem(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.0.to_string()).into_response()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut options = pico_args::Arguments::from_env();
    let listen = options.opt_value_from_str("--listen")?.unwrap_or_else(|| "127.0.0.1:3001".to_owned());
    let data = options.opt_value_from_str("--data")?.unwrap_or_else(|| "notices-data".to_owned());

    let node = Node::open(NodeOptions::new(data)).await?;
    // An application keeps its secret, so that sessions outlive a restart. These end with the program.
    let secret = SessionSecret::new(format!("{}{}", Uuid::new_v4(), Uuid::new_v4()))?;
    let tokens = SessionTokens::new(secret);
    let draining = CancellationToken::new();
    let options = ServerOptions { access: std::sync::Arc::new(tokens.clone()), ..Default::default() };
    let events = ironbus_server::router(node.clone(), options, draining.clone());

    let app = axum::Router::new()
        .route("/", get(page))
        .route("/session", post(renew))
        .route("/notices", post(note))
        // Browsers may read what ironbus shows them, but append nothing past `note`.
        .fallback_service(get_service(events))
        .with_state(App { node: node.clone(), tokens });
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);

    tokio::select! {
        served = axum::serve(listener, app) => served?,
        stop = tokio::signal::ctrl_c() => stop?,
    }
    draining.cancel();
    node.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
