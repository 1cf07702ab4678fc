//! `ironbus load`: one aggregate's events.

use std::io::Write;

use ironbus::{Aggregate, Sequence};

use crate::args;
use crate::backend::{Backend, Use};
use crate::config::Client;
use crate::failure::Failure;
use crate::output::{Columns, EventTable, Form, count, out, shown, write_line};

const PAGE: u64 = 1000;

pub(crate) async fn run(args: args::Load, config: &Client) -> Result<(), Failure> {
    let aggregate = Aggregate::new(args.aggregate_type, args.aggregate_id).map_err(Failure::input)?;
    let backend = Backend::find(&args.target, config, Use::Read).await?;
    let (form, mut out) = (Form::choose(args.form), out());
    let mut table = EventTable::new(Columns::Aggregate);
    let (mut after, mut left, mut seen) = (Sequence(args.after_sequence), args.limit.unwrap_or(u64::MAX), 0);
    let version = loop {
        let page = backend.load(&aggregate, after, left.min(PAGE) as usize).await?;
        for event in &page.events {
            match form {
                Form::Lines => write_line(&mut out, event)?,
                Form::Human => table.push(event),
            }
            after = event.sequence;
        }
        let events = page.events.len() as u64;
        (left, seen) = (left - events, seen + events);
        if events == 0 || left == 0 || after >= page.version {
            break page.version;
        }
    };
    if form == Form::Human {
        let aggregate = shown(&aggregate.to_string());
        if seen == 0 {
            writeln!(out, "no events of {aggregate} after {after}; it is at version {version}")?;
        } else {
            write!(out, "{table}")?;
            writeln!(out, "{} of {aggregate}, which is at version {version}", count(seen, "event"))?;
        }
    }
    out.flush()?;
    Ok(())
}
