//! A to-do list in which every browser sees every change at once, on an embedded log.
//!
//! ```text
//! cargo run -p ironbus-examples --bin todo -- [--listen 127.0.0.1:3000] [--data DIRECTORY]
//! ```
//!
//! Commands come in by POST and go through the repository: load, decide, append, and again on a conflict.
//! The list is a projection in memory, fed by a subscription from the beginning of the log; whenever it
//! changes it is rendered once, and every browser gets the fragment by SSE.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{Stream, StreamExt};
use ironbus::typed::{CommandContext, ExecuteError, TypedDelivery};
use ironbus::{Decider, DomainEvent, Node, NodeOptions, Repository, Start, TypedSubscription};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

/// What can happen to a to-do.
#[derive(Serialize, Deserialize)]
enum TodoEvent {
    Added { title: String },
    Completed,
}

impl DomainEvent for TodoEvent {
    const AGGREGATE_TYPE: &'static str = "Todo";
}

/// What can be asked for.
enum Command {
    Add { title: String },
    Complete,
}

#[derive(Clone, Default)]
struct Todo {
    title: Option<String>,
    done: bool,
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("a to-do needs a title")]
    NoTitle,
    #[error("there is a to-do with this id already")]
    Exists,
    #[error("there is no such to-do")]
    Missing,
}

impl Decider for Todo {
    type State = Self;
    type Command = Command;
    type Event = TodoEvent;
    type Error = Refusal;

    fn decide(todo: &Self, command: &Command) -> Result<Vec<TodoEvent>, Refusal> {
        match command {
            Command::Add { .. } if todo.title.is_some() => Err(Refusal::Exists),
            Command::Add { title } if title.trim().is_empty() => Err(Refusal::NoTitle),
            Command::Add { title } => Ok(vec![TodoEvent::Added { title: title.trim().to_owned() }]),
            Command::Complete if todo.title.is_none() => Err(Refusal::Missing),
            // Done is done: completing twice is no error, and nothing happens the second time.
            Command::Complete if todo.done => Ok(vec![]),
            Command::Complete => Ok(vec![TodoEvent::Completed]),
        }
    }

    fn evolve(mut todo: Self, event: &TodoEvent) -> Self {
        match event {
            TodoEvent::Added { title } => todo.title = Some(title.clone()),
            TodoEvent::Completed => todo.done = true,
        }
        todo
    }
}

#[derive(Clone)]
struct App {
    todos: Repository<Todo>,
    list: watch::Receiver<Arc<str>>,
}

#[derive(Deserialize)]
struct NewTodo {
    title: String,
}

async fn add(State(app): State<App>, Form(new): Form<NewTodo>) -> Result<StatusCode, Problem> {
    let id = uuid::Uuid::now_v7().to_string();
    app.todos.execute(&id, &Command::Add { title: new.title }, CommandContext::default()).await?;
    // 204 keeps a browser where it is: the change comes by the stream.
    Ok(StatusCode::NO_CONTENT)
}

async fn complete(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    app.todos.execute(&id, &Command::Complete, CommandContext::default()).await?;
    Ok(StatusCode::NO_CONTENT)
}

struct Problem(ExecuteError<Refusal>);

impl From<ExecuteError<Refusal>> for Problem {
    fn from(error: ExecuteError<Refusal>) -> Self {
        Self(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            ExecuteError::Refused(Refusal::Missing) => StatusCode::NOT_FOUND,
            ExecuteError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, self.0.to_string()).into_response()
    }
}

async fn page(State(app): State<App>) -> Html<String> {
    Html(include_str!("todo.html").replace("{list}", &app.list.borrow()))
}

/// The list now, and again after every change. A browser that is slow misses lists, never the last one.
async fn live(State(app): State<App>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let lists = WatchStream::new(app.list).map(|list| Ok(Event::default().data(&list)));
    Sse::new(lists).keep_alive(KeepAlive::default())
}

/// Keeps the rendered list up to date, until the log closes.
async fn project(
    mut events: TypedSubscription<TodoEvent>,
    list: watch::Sender<Arc<str>>,
) -> anyhow::Result<()> {
    let mut todos: BTreeMap<String, Todo> = BTreeMap::new();
    let mut replaying = true;
    while let Some(delivery) = events.next().await {
        match delivery? {
            TypedDelivery::Event(event) => {
                let todo = todos.entry(event.stored.aggregate.aggregate_id().to_owned()).or_default();
                *todo = Todo::evolve(std::mem::take(todo), &event.event);
            }
            TypedDelivery::CaughtUp(_) => replaying = false,
            TypedDelivery::Reset(_) => todos.clear(),
            TypedDelivery::Watermark(_) => {}
        }
        // While the log is replayed nobody needs to see what was.
        if !replaying {
            list.send_replace(render(&todos).into());
        }
    }
    Ok(())
}

fn render(todos: &BTreeMap<String, Todo>) -> String {
    let mut html = String::from("<ul>\n");
    for (id, todo) in todos {
        let title = escape(todo.title.as_deref().unwrap_or_default());
        // Writing into a String can't fail.
        let _ = if todo.done {
            writeln!(html, "<li><s>{title}</s></li>")
        } else {
            let id = escape(id);
            writeln!(
                html,
                "<li><form method=\"post\" action=\"/todos/{id}/complete\">{title} <button>Done</button></form></li>"
            )
        };
    }
    html.push_str("</ul>");
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut options = pico_args::Arguments::from_env();
    let listen = options.opt_value_from_str("--listen")?.unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let data = options.opt_value_from_str("--data")?.unwrap_or_else(|| "todo-data".to_owned());

    let node = Node::open(NodeOptions::new(data)).await?;
    let store = node.store();
    let events = TypedSubscription::of_all(&*store, Start::Beginning)?.with_caught_up();
    let (sender, list) = watch::channel(Arc::from(render(&BTreeMap::new())));
    let projection = tokio::spawn(project(events, sender));

    let app = axum::Router::new()
        .route("/", get(page))
        .route("/live", get(live))
        .route("/todos", post(add))
        .route("/todos/{id}/complete", post(complete))
        .with_state(App { todos: Repository::new(store), list });
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);

    tokio::select! {
        served = axum::serve(listener, app) => served?,
        // An event that this program can't read ends the projection: better to say so than to show a
        // list that isn't true.
        ended = projection => ended??,
        stop = tokio::signal::ctrl_c() => stop?,
    }
    node.shutdown(std::time::Duration::from_secs(5)).await;
    Ok(())
}
