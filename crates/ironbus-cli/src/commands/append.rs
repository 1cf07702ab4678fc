//! `ironbus append`: one event.

use std::io::{Read, Write};

use ironbus::{Aggregate, Append, Json, Metadata, NewEvent};
use serde_json::json;

use crate::args;
use crate::backend::{Backend, Use};
use crate::config::Client;
use crate::failure::Failure;
use crate::output::{Form, out};

pub(crate) async fn run(args: args::Append, config: &Client) -> Result<(), Failure> {
    let aggregate = Aggregate::new(args.aggregate_type, args.aggregate_id).map_err(Failure::input)?;
    let event = NewEvent {
        event_id: args.event_id,
        schema_version: args.schema_version,
        metadata: metadata(args.metadata.as_deref())?,
        session_id: args.session,
        ..NewEvent::new(args.event_type, payload(&args.payload)?)
    };
    event.check().map_err(Failure::input)?;
    let backend = Backend::find(&args.target, config, Use::Write).await?;
    let appended = backend.append(Append::to(aggregate.clone(), args.expected, vec![event])).await;
    let appended = appended.map_err(Failure::from)?;
    let mut out = out();
    match Form::choose(args.form) {
        Form::Lines => writeln!(out, "{}", json!({ "events": appended.events, "head": appended.head }))?,
        Form::Human => {
            for event in &appended.events {
                let (position, sequence, id) = (event.position, event.sequence, event.event_id);
                let aggregate = crate::output::shown(&aggregate.to_string());
                writeln!(out, "stored at position {position}, as {aggregate} #{sequence}, id {id}")?;
            }
        }
    }
    out.flush()?;
    Ok(())
}

/// The payload itself, a file's content, or what stands on standard input.
fn payload(said: &str) -> Result<Json, Failure> {
    let (text, place) = if said == "-" {
        let mut text = Vec::new();
        std::io::stdin()
            .read_to_end(&mut text)
            .map_err(|error| Failure::input(format!("standard input can't be read: {error}")))?;
        (text, "standard input".to_owned())
    } else if let Some(path) = said.strip_prefix('@') {
        let text =
            std::fs::read(path).map_err(|error| Failure::input(format!("{path} can't be read: {error}")))?;
        (text, path.to_owned())
    } else {
        (said.to_owned().into_bytes(), "--payload".to_owned())
    };
    Json::parse(text).map_err(|error| {
        Failure::input(format!("{place} isn't JSON: {error}; a text needs its quotes: '\"like this\"'"))
    })
}

fn metadata(said: Option<&str>) -> Result<Metadata, Failure> {
    let Some(text) = said else { return Ok(Metadata::default()) };
    let json = Json::parse(text.to_owned())
        .map_err(|error| Failure::input(format!("--metadata isn't JSON: {error}")))?;
    Metadata::new(json)
        .map_err(|_| Failure::input("--metadata must be a JSON object, for example '{\"by\":\"me\"}'"))
}
