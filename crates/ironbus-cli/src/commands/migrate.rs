//! `ironbus migrate`: takes a log from one process to many nodes, step by step, and back.
//!
//! Steps are taken by the server that serves the log. Straight on a data directory there is only the
//! record: it can be shown, and rolled back where no server runs, so that a log in a phase that needs Zenoh
//! comes back without it.

use std::io::Write;
use std::time::Duration;

use futures_util::StreamExt;
use ironbus::NodeLog;
use ironbus::migration::{Journal, JournalPage, StepError, StepRequest, roll_back_record};
use serde_json::{Value, json};

use crate::args::{MigrateAction, MigrateLook, MigrateStatus, MigrateStep};
use crate::backend::{Backend, Frame, Parser, Remote, Use};
use crate::config::Client;
use crate::failure::{Failure, Kind};
use crate::output::{Form, Out, cut, out, pairs, shown, table, width};

/// How long to wait before a stream that broke is opened again.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) async fn run(action: MigrateAction, config: &Client) -> Result<(), Failure> {
    match action {
        MigrateAction::Status(args) => status(args, config).await,
        MigrateAction::Plan(args) => plan(args, config).await,
        MigrateAction::Advance(args) => take(args, config, "advance").await,
        MigrateAction::Rollback(args) => take(args, config, "rollback").await,
        MigrateAction::Cancel(args) => ask(args, config, "cancel", "cancelled").await,
        MigrateAction::Settle(args) => ask(args, config, "settle", "settled").await,
        MigrateAction::Watch(args) => watch(args, config).await,
    }
}

async fn status(args: MigrateStatus, config: &Client) -> Result<(), Failure> {
    let document = match Backend::find(&args.target, config, Use::Read).await? {
        Backend::Remote(remote) => {
            let mut document = remote.migration(args.history).await?;
            if let Some(members) = document.as_object_mut() {
                members.remove("plan");
            }
            document
        }
        Backend::Local(store) => {
            let JournalPage { phase, taken, steps } = store.journal(args.history).await?;
            let status = json!({ "phase": phase, "phase_number": phase.number(), "taken": taken });
            json!({ "status": status, "history": steps })
        }
    };
    let mut out = out();
    match Form::choose(args.form) {
        Form::Lines => writeln!(out, "{document}")?,
        Form::Human => tell_status(&mut out, &document)?,
    }
    out.flush()?;
    Ok(())
}

async fn plan(args: MigrateLook, config: &Client) -> Result<(), Failure> {
    let remote = server(Backend::find(&args.target, config, Use::Read).await?, "a plan is made")?;
    let document = remote.migration(0).await?;
    let plan = &document["plan"];
    let mut out = out();
    match Form::choose(args.form) {
        Form::Lines => writeln!(out, "{plan}")?,
        Form::Human => tell_plan(&mut out, plan)?,
    }
    out.flush()?;
    Ok(())
}

async fn take(args: MigrateStep, config: &Client, way: &str) -> Result<(), Failure> {
    let by = match args.by {
        Some(by) => by,
        None => whoami::username().map_err(|error| {
            Failure::usage(format!(
                "it isn't known who you are ({error}), and every step is recorded with who took it: say --by NAME"
            ))
        })?,
    };
    let request = StepRequest { to: args.to, log: args.log_at, by, reason: args.reason };
    // Not read first: on a full disk only who writes is given room to open the log, out of its reserve.
    let purpose = if way == "advance" { Use::Read } else { Use::Change };
    let mut document = match Backend::find(&args.target, config, purpose).await? {
        Backend::Remote(remote) => {
            let taken = remote.take_step(way, &request);
            showing_progress(&remote, taken).await?["step"].take()
        }
        Backend::Local(_) if way == "advance" => {
            return Err(Failure::usage(
                "a step forward is taken by the server that serves the log: name it with --url",
            ));
        }
        Backend::Local(store) => roll_back(&store, request).await?,
    };
    let mut out = out();
    match Form::choose(args.form) {
        Form::Lines => {
            // Long, and of interest later: `migrate status --history` has them.
            document.as_object_mut().and_then(|step| step.remove("figures"));
            writeln!(out, "{document}")?;
        }
        Form::Human => {
            let (from, to) = (text(&document["from"]), text(&document["to"]));
            writeln!(out, "step {}: the log went from {from} to {to}", document["step"])?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Waits for a step; where the log moves with it, with a bar that says how far it is.
async fn showing_progress(
    remote: &Remote,
    taken: impl Future<Output = Result<Value, Failure>>,
) -> Result<Value, Failure> {
    let bar = crate::output::events_bar();
    let watching = async {
        loop {
            tokio::time::sleep(AGAIN).await;
            // The step says what is wrong; this only shows how far it is.
            let Ok(document) = remote.migration(0).await else { continue };
            let moving = &document["status"]["moving"];
            if let (Some(copied), Some(head)) = (moving["copied"].as_u64(), moving["head"].as_u64()) {
                bar.set_length(head);
                bar.set_position(copied);
            }
        }
    };
    let taken = tokio::select! {
        taken = taken => taken,
        () = watching => unreachable!("it doesn't end"),
    };
    bar.finish_and_clear();
    taken
}

/// Asks something that needs nothing to be said, and tells whether it made a difference.
async fn ask(args: MigrateLook, config: &Client, what: &str, done: &str) -> Result<(), Failure> {
    let remote = server(Backend::find(&args.target, config, Use::Read).await?, "this is done")?;
    let answer = remote.migrate(what, &json!({})).await?;
    let mut out = out();
    match Form::choose(args.form) {
        Form::Lines => writeln!(out, "{answer}")?,
        Form::Human if answer[done] == true => writeln!(out, "{done}")?,
        Form::Human => writeln!(out, "there was nothing to {what}")?,
    }
    out.flush()?;
    Ok(())
}

async fn roll_back(store: &NodeLog, request: StepRequest) -> Result<Value, Failure> {
    let place = store.place();
    if !place.is_database() {
        return Err(Failure::usage(format!(
            "the log is at {place}; start its server, and go back there (`ironbus migrate rollback --url …`): the log \
             moves with that step"
        )));
    }
    Ok(json!(roll_back_record(store, request).await?))
}

async fn watch(args: MigrateLook, config: &Client) -> Result<(), Failure> {
    let remote = server(Backend::find(&args.target, config, Use::Read).await?, "the status is told")?;
    let (form, mut out, width) = (Form::choose(args.form), out(), width());
    let mut last = String::new();
    // The first connection has to succeed: a wrong address isn't retried for ever.
    let mut response = Some(remote.watch_migration().await?);
    loop {
        let body = match response.take() {
            Some(response) => Some(response),
            None => remote.watch_migration().await.ok(),
        };
        if let Some(body) = body {
            let (mut body, mut parser, mut frames) = (body.bytes_stream(), Parser::default(), Vec::new());
            while let Some(Ok(bytes)) = body.next().await {
                if parser.take(&bytes, &mut frames).is_err() {
                    break;
                }
                for frame in frames.drain(..) {
                    tell_frame(&mut out, form, &frame, width, &mut last)?;
                }
                out.flush()?;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Writes a status: as it came, or, for people, as a line when it differs from the last one.
fn tell_frame(
    out: &mut Out,
    form: Form,
    frame: &Frame,
    width: usize,
    last: &mut String,
) -> Result<(), Failure> {
    let Some(data) = &frame.data else { return Ok(()) };
    if form == Form::Lines {
        writeln!(out, "{data}")?;
        return Ok(());
    }
    let status: Value = serde_json::from_str(data)
        .map_err(|error| Failure::failed(format!("the server told no status: {error}")))?;
    let line = one_line(&status);
    if line != *last {
        let now = jiff::Timestamp::now().strftime("%H:%M:%S").to_string();
        writeln!(out, "{}", cut(&format!("{now}  {line}"), width))?;
        *last = line;
    }
    Ok(())
}

fn server(backend: Backend, what: &str) -> Result<Remote, Failure> {
    match backend {
        Backend::Remote(remote) => Ok(remote),
        Backend::Local(_) => Err(Failure::usage(format!(
            "{what} by the server that serves the log: name it with --url (`ironbus migrate status` works \
             straight on a data directory)"
        ))),
    }
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        let kind = match &error {
            StepError::Refused { .. } | StepError::Moved { .. } => Kind::Conflict,
            StepError::Invalid(_) => Kind::Usage,
            StepError::Closed => Kind::Unavailable,
            _ => Kind::Failed,
        };
        Self::new(kind, error)
    }
}

fn text(value: &Value) -> String {
    shown(value.as_str().unwrap_or_default())
}

fn figure(value: &Value) -> String {
    value.as_f64().map_or_else(|| "–".to_owned(), |number| format!("{number:.0}"))
}

/// A duration in seconds as people read it.
fn latency(value: &Value) -> String {
    let seconds = |name: &str| value[name].as_f64();
    let said = |seconds: f64| match seconds {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.1} s"),
    };
    seconds("p50")
        .zip(seconds("p99"))
        .map_or_else(|| "–".to_owned(), |(p50, p99)| format!("p50 {}, p99 {}", said(p50), said(p99)))
}

fn messages(reasons: &Value) -> Vec<String> {
    reasons.as_array().into_iter().flatten().map(|reason| text(&reason["message"])).collect()
}

fn phase_of(status: &Value) -> String {
    format!("{} {}", status["phase_number"], text(&status["phase"]))
}

/// The comparison of both buses in a few words.
fn parity_of(parity: &Value) -> String {
    let why_not = messages(&parity["why_not"]);
    let compared = format!("{} of {} events on both buses", parity["both"], parity["compared"]);
    match why_not.first() {
        None => format!("reached: {compared}"),
        Some(first) => format!("not yet: {first} ({compared})"),
    }
}

/// What becomes of the log, if it moves or is mirrored.
fn move_of(status: &Value) -> Option<String> {
    let moving = &status["moving"];
    let to = text(&moving["to"]);
    let (copied, head) = (&moving["copied"], &moving["head"]);
    let mut said = match moving["stage"].as_str()? {
        "copying" => {
            let rate = figure(&moving["per_second"]);
            let left =
                moving["seconds_left"].as_f64().map_or_else(String::new, |s| format!(", {s:.0} s left"));
            format!("going to {to}: {copied} of {head} events, {rate} a second{left}")
        }
        "mirroring" => format!("{to} is kept up to date for the way back: {copied} of {head} events"),
        _ => format!("going over to {to}; appends wait"),
    };
    if let Some(trouble) = moving["trouble"].as_str() {
        said.push_str(&format!("; in the way: {}", shown(trouble)));
    }
    Some(said)
}

fn one_line(status: &Value) -> String {
    let mut line = phase_of(status);
    // In the last phase events travel as in the one before.
    let follows = status["phase"] == "zenoh_storage" && status["bus"] == "zenoh";
    if status["bus"] != status["phase"] && !follows {
        line.push_str(&format!(", but the bus is {}", text(&status["bus"])));
    }
    if let Some(moving) = move_of(status) {
        line.push_str(&format!("  {moving}"));
    }
    let nodes = status["edge_nodes"].as_array().map_or(0, Vec::len);
    line.push_str(&format!("  edge nodes {nodes}"));
    if status["parity"].is_object() {
        line.push_str(&format!("  parity {}", parity_of(&status["parity"])));
    }
    line.push_str(&format!("  {}", text(&status["advice"]["text"])));
    line
}

fn tell_status(out: &mut Out, document: &Value) -> Result<(), Failure> {
    let status = &document["status"];
    let mut rows = vec![("phase", phase_of(status))];
    if let Some(bus) = status["bus"].as_str() {
        rows.push(("bus", bus.to_owned()));
        rows.push(("Zenoh", if status["zenoh"] == true { "there" } else { "not there" }.to_owned()));
        if let Some(place) = status["log"].as_str() {
            rows.push(("log", shown(place)));
        }
        rows.extend(move_of(status).map(|moving| ("move", moving)));
        if let Some(pause) = status["pause_seconds"].as_f64() {
            rows.push(("appends waited", format!("{:.0} ms when the log last went over", pause * 1e3)));
        }
        rows.push(("advice", text(&status["advice"]["text"])));
    }
    let parity = &status["parity"];
    if parity.is_object() {
        rows.push(("parity", parity_of(parity)));
        rows.push(("in-process bus", latency(&parity["broadcast_latency_seconds"])));
        rows.push(("Zenoh bus", latency(&parity["zenoh_latency_seconds"])));
    }
    rows.push(("steps taken", status["taken"].to_string()));
    write!(out, "{}", pairs(&rows))?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let triggers = list(&status["triggers"]);
    if !triggers.is_empty() {
        let rows = triggers.iter().map(|one| {
            let since = one["exceeded_since"].as_str().unwrap_or("–");
            let name = text(&one["trigger"]).replace('_', " ");
            [name, figure(&one["measured"]), figure(&one["threshold"]), moment(since), text(&one["advice"])]
        });
        write!(out, "\n{}", table(&["TRIGGER", "MEASURED", "THRESHOLD", "MORE SINCE", "ADVICE"], rows))?;
    }
    let nodes = list(&status["edge_nodes"]);
    if !nodes.is_empty() {
        let rows = nodes.iter().map(|node| {
            let streams = node["sse_clients"].to_string();
            let (by_zenoh, from_log) = (node["by_zenoh"].to_string(), node["from_log"].to_string());
            [text(&node["node"]), streams, by_zenoh, from_log, latency(&node["latency_seconds"])]
        });
        write!(out, "\n{}", table(&["EDGE NODE", "STREAMS", "BY ZENOH", "FROM LOG", "LATENCY"], rows))?;
    }
    let history = list(&document["history"]);
    if !history.is_empty() {
        let rows = history.iter().map(|step| {
            let way = format!("{} → {}", text(&step["from"]), text(&step["to"]));
            [
                step["step"].to_string(),
                moment(step["at"].as_str().unwrap_or("–")),
                way,
                text(&step["by"]),
                text(&step["reason"]),
            ]
        });
        write!(out, "\n{}", table(&["STEP", "WHEN", "FROM → TO", "BY", "REASON"], rows))?;
    }
    Ok(())
}

/// A time as it fits into a table: to the second.
fn moment(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => shown(text),
    }
}

fn tell_plan(out: &mut Out, plan: &Value) -> Result<(), Failure> {
    writeln!(out, "the log is in phase {}", text(&plan["phase"]))?;
    let back = plan["rollback"].as_array().into_iter().flatten().map(|step| ("rollback", step));
    let forward = plan["advance"].as_object().map(|_| ("advance", &plan["advance"]));
    for (way, step) in forward.into_iter().chain(back) {
        writeln!(out, "\n{way} to {}", text(&step["to"]))?;
        writeln!(out, "  does      {}", text(&step["does"]))?;
        for consequence in messages(&step["consequences"]) {
            writeln!(out, "  know      {consequence}")?;
        }
        let obstacles = messages(&step["obstacles"]);
        if obstacles.is_empty() {
            let log = if step["needs_log"] == true { " --log-at PLACE" } else { "" };
            writeln!(
                out,
                "  possible  now: ironbus migrate {way} --to {}{log} --reason …",
                text(&step["to"])
            )?;
        }
        for obstacle in obstacles {
            writeln!(out, "  in the way  {obstacle}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_matters_of_a_status() {
        let mut status = json!({
            "phase": "dual", "phase_number": 2, "bus": "dual", "edge_nodes": [{}],
            "parity": { "both": 90, "compared": 100, "why_not": [{ "kind": "x", "message": "10 are missing" }] },
            "advice": { "text": "stay in dual" },
        });
        assert_eq!(
            one_line(&status),
            "2 dual  edge nodes 1  parity not yet: 10 are missing (90 of 100 events on both buses)  stay in dual"
        );
        (status["bus"], status["parity"]) = (json!("broadcast"), Value::Null);
        assert_eq!(one_line(&status), "2 dual, but the bus is broadcast  edge nodes 1  stay in dual");
    }

    #[test]
    fn latencies_are_said_in_a_unit_that_fits() {
        assert_eq!(latency(&json!({ "p50": 0.000_069, "p99": 0.0042 })), "p50 69 µs, p99 4.2 ms");
        assert_eq!(latency(&Value::Null), "–");
    }
}
