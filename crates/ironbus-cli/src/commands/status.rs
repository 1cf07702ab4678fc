//! `ironbus status`: how the server, or the log of a data directory, is.

use std::io::Write;

use ironbus::EventStore;
use serde_json::{Value, json};

use crate::args;
use crate::backend::{Backend, Use};
use crate::config::Client;
use crate::failure::Failure;
use crate::output::{Form, bytes, grouped, out, pairs};

pub(crate) async fn run(args: args::Status, config: &Client) -> Result<(), Failure> {
    let backend = Backend::find(&args.target, config, Use::Read).await?;
    let (document, place) = match &backend {
        Backend::Remote(remote) => {
            let document: Value =
                serde_json::from_slice(&remote.status_document().await?).map_err(|error| {
                    Failure::failed(format!(
                        "{} doesn't answer as an ironbus server does: {error}",
                        remote.url()
                    ))
                })?;
            (document, ("server", remote.url().to_string()))
        }
        Backend::Local(store) => {
            let head = store.head().await?;
            let document = json!({
                "store_id": head.store_id,
                "epoch": head.lineage.epoch(),
                "epoch_began": store.current().epoch_began(),
                "head": head.position,
                "earliest": head.earliest,
                "place": store.place(),
                "data": store.path(),
                "log_bytes": store.path().and_then(|path| std::fs::metadata(path).ok()).map(|file| file.len()),
            });
            (document, ("log", store.current().place()))
        }
    };
    let mut out = out();
    match Form::choose(args.form) {
        Form::Lines => writeln!(out, "{document}")?,
        Form::Human => write!(out, "{}", for_people(&document, place))?,
    }
    out.flush()?;
    Ok(())
}

fn for_people(document: &Value, place: (&str, String)) -> String {
    let number = |name: &str| document[name].as_u64();
    let text = |name: &str| document[name].as_str().map(str::to_owned);
    let mut rows = vec![place];
    let mut row = |name: &'static str, value: Option<String>| rows.extend(value.map(|value| (name, value)));
    row("version", text("version"));
    row("store", text("store_id"));
    let began = text("epoch_began").map_or(String::new(), |why| format!(", which began because {why}"));
    row("epoch", number("epoch").map(|epoch| grouped(epoch) + &began));
    row("events", number("head").map(grouped));
    if document.get("version").is_some() {
        row("log", text("data"));
    }
    row("size", number("log_bytes").map(bytes));
    row("mode", text("mode"));
    row("up", number("uptime_seconds").map(duration));
    row("streams", number("sse_clients").map(grouped));
    row("subscriptions", number("subscriptions").map(grouped));
    let rates = &document["events_per_second"];
    let rate = |name: &str| rates[name].as_f64().map(|rate| format!("{rate:.1}"));
    row(
        "events/s",
        rate("1s").zip(rate("60s")).map(|(now, minute)| format!("{now} now, {minute} in the last minute")),
    );
    let appends = &document["appends"];
    row(
        "appends",
        appends["accepted"].as_u64().map(|accepted| {
            format!(
                "{} accepted, {} refused",
                grouped(accepted),
                grouped(appends["refused"].as_u64().unwrap_or(0))
            )
        }),
    );
    let milliseconds = |name: &str| appends["seconds"][name].as_f64().map(|seconds| seconds * 1000.0);
    row(
        "append time",
        milliseconds("p50")
            .zip(milliseconds("p99"))
            .map(|(p50, p99)| format!("p50 {p50:.1} ms, p99 {p99:.1} ms")),
    );
    if document["ready"] == false {
        row("ready", Some("no: it is shutting down".into()));
    }
    pairs(&rows)
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
