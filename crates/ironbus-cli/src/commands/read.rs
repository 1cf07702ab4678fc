//! `ironbus read`: events of the whole log.

use std::io::Write;

use crate::args;
use crate::backend::{Backend, Use};
use crate::config::Client;
use crate::failure::Failure;
use crate::output::{Columns, EventTable, Form, count, grouped, out, write_line};

const PAGE: u64 = 1000;

pub(crate) async fn run(args: args::Read, config: &Client) -> Result<(), Failure> {
    let backend = Backend::find(&args.target, config, Use::Read).await?;
    let (form, mut out) = (Form::choose(args.form), out());
    let mut table = EventTable::new(Columns::Log);
    let (mut after, mut left, mut seen) = (args.after, args.limit, 0);
    let mut head = after;
    // A page may hold less than was asked for and not be the last: what it looked through decides.
    while left > 0 {
        let page = backend.read(after, &args.pattern, left.min(PAGE) as usize).await?;
        for event in &page.events {
            match form {
                Form::Lines => write_line(&mut out, event)?,
                Form::Human => table.push(event),
            }
        }
        let events = page.events.len() as u64;
        (left, seen) = (left - events, seen + events);
        (after, head) = (page.through.max(after), page.head);
        if after >= head {
            break;
        }
    }
    if form == Form::Human {
        if seen > 0 {
            write!(out, "{table}")?;
        }
        let (seen, end) = (count(seen, "event"), grouped(head.0));
        if after < head {
            writeln!(out, "{seen}; more with --after {after} (the log ends at {end})")?;
        } else {
            writeln!(out, "{seen}; the log ends at {end}")?;
        }
    }
    out.flush()?;
    Ok(())
}
