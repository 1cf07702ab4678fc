//! `ironbus import`: a file into the log, one batch after the other so that order is kept.
//!
//! Where a batch is stored in part (a former run used other batches), it is halved until each part is
//! either new or known; a batch of one event is never stored in part.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ironbus::{Appended, Position};
use serde_json::json;

use crate::args;
use crate::backend::{Backend, Refused, Use};
use crate::config::Client;
use crate::failure::{Failure, Kind};
use crate::import::batch::{Batches, Numbered, append_of};
use crate::import::source::place;
use crate::output::{Form, count, grouped, out};

pub(crate) async fn run(args: args::Import, config: &Client) -> Result<(), Failure> {
    let mut batches = Batches::read(&args.file, usize::from(args.batch))?;
    let backend = Backend::find(&args.target, config, Use::Write).await?;
    let mut import = Import::begin(&backend, &batches).await?;
    let ended = import.all(&mut batches).await;
    import.progress.bar.finish_and_clear();
    let counts = import.counts;
    report(counts, &batches.name, Form::choose(args.form), ended.is_err())?;
    ended
}

/// What was done.
#[derive(Clone, Copy)]
struct Counts {
    imported: u64,
    already_there: u64,
    began: Instant,
}

struct Import<'a> {
    backend: &'a Backend,
    name: String,
    counts: Counts,
    /// The highest position heard of: an event above it is new, one at or below it was there before.
    frontier: Position,
    progress: Progress,
}

impl<'a> Import<'a> {
    async fn begin(backend: &'a Backend, batches: &Batches) -> Result<Self, Failure> {
        Ok(Self {
            backend,
            name: batches.name.clone(),
            counts: Counts { imported: 0, already_there: 0, began: Instant::now() },
            frontier: backend.head().await?,
            progress: Progress::new(batches.size),
        })
    }

    async fn all(&mut self, batches: &mut Batches) -> Result<(), Failure> {
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            self.counts.already_there += batch.repeated;
            self.store(&batch.events).await?;
            self.progress.tell(batch.read, self.counts);
        }
        Ok(())
    }

    /// Stores events in order, in halves where only some of them are new.
    async fn store(&mut self, events: &[Numbered]) -> Result<(), Failure> {
        let mut parts = vec![events];
        while let Some(part) = parts.pop() {
            match self.backend.append(append_of(part)).await {
                Ok(appended) => self.note(&appended),
                Err(Refused::PartlyStored(_)) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.push(second);
                    parts.push(first);
                }
                Err(refused) => return Err(self.explain(refused, part)),
            }
        }
        Ok(())
    }

    fn note(&mut self, appended: &Appended) {
        for event in &appended.events {
            if event.position > self.frontier {
                self.frontier = event.position;
                self.counts.imported += 1;
            } else {
                self.counts.already_there += 1;
            }
        }
    }

    fn explain(&self, refused: Refused, part: &[Numbered]) -> Failure {
        if let Refused::EventIdReused { event_id: Some(event_id), .. } = &refused
            && let Some(numbered) = part.iter().find(|numbered| numbered.event.event_id == Some(*event_id))
        {
            let message = format!(
                "{}: the event id {event_id} is already stored for another event; is this a changed copy of what was \
                 imported before?",
                place(&self.name, numbered.line)
            );
            return Failure::new(Kind::Conflict, message);
        }
        let failure = Failure::from(refused);
        if failure.kind != Kind::Unavailable {
            return failure;
        }
        let from = part.first().map_or(0, |numbered| numbered.line);
        let message = format!(
            "{}; the same command goes on from {} when it is run again",
            failure.message,
            place(&self.name, from)
        );
        Failure::new(failure.kind, message)
    }
}

/// A bar on a terminal; nothing elsewhere.
struct Progress {
    bar: ProgressBar,
    sized: bool,
}

impl Progress {
    fn new(size: Option<u64>) -> Self {
        let bar = match size {
            Some(size) => ProgressBar::new(size),
            None => ProgressBar::no_length(),
        };
        bar.set_draw_target(if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        });
        let template = if size.is_some() {
            "{bar:24} {percent:>3}%  {msg}  {eta} left"
        } else {
            "{spinner} {msg}  {elapsed}"
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is well-formed"));
        Self { bar, sized: size.is_some() }
    }

    fn tell(&self, read: u64, counts: Counts) {
        let done = counts.imported + counts.already_there;
        if self.sized {
            self.bar.set_position(read);
        } else {
            self.bar.tick();
        }
        self.bar.set_message(format!("{}  {}/s", count(done, "event"), grouped(rate(done, counts.began))));
    }
}

fn rate(done: u64, began: Instant) -> u64 {
    (done as f64 / began.elapsed().as_secs_f64().max(0.001)) as u64
}

fn report(counts: Counts, name: &str, form: Form, failed: bool) -> Result<(), Failure> {
    let seconds = counts.began.elapsed().as_secs_f64();
    let Counts { imported, already_there, began } = counts;
    let rate = rate(imported + already_there, began);
    let mut out = out();
    match form {
        Form::Lines => writeln!(
            out,
            "{}",
            json!({
                "complete": !failed,
                "imported": imported,
                "already_there": already_there,
                "seconds": (seconds * 1000.0).round() / 1000.0,
                "events_per_second": rate,
            })
        )?,
        Form::Human => {
            let until = if failed { " before it ended early" } else { "" };
            writeln!(
                out,
                "imported {} from {name}{until}; {} already there; {seconds:.1} s, {} events/s",
                count(imported, "event"),
                grouped(already_there),
                grouped(rate)
            )?;
        }
    }
    out.flush()?;
    Ok(())
}
