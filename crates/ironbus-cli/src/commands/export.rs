//! `ironbus export`: events as JSON lines, up to where the log ends when the export begins.
//!
//! Invariant: a file stands under its name only when it is whole and on the disk.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args;
use crate::backend::{Backend, Use};
use crate::config::Client;
use crate::failure::Failure;
use crate::output::{count, out, write_line};

/// How many events are read at a time.
const PAGE: usize = 2000;

pub(crate) async fn run(args: args::Export, config: &Client) -> Result<(), Failure> {
    let backend = Backend::find(&args.target, config, Use::Read).await?;
    let Some(path) = &args.output else {
        let mut out = out();
        write_events(&backend, &args, &mut out).await?;
        return Ok(());
    };
    let began = Instant::now();
    let partial = Partial::create(path)?;
    let mut file = BufWriter::with_capacity(256 * 1024, partial.file()?);
    let written = write_events(&backend, &args, &mut file).await?;
    drop(file);
    partial.complete()?;
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("exported {} to {} in {seconds:.1} s", count(written, "event"), path.display());
    Ok(())
}

async fn write_events(backend: &Backend, args: &args::Export, out: &mut impl Write) -> Result<u64, Failure> {
    let bar = ProgressBar::new(0);
    // Where events themselves go to the terminal, a bar among them would only disturb.
    let hidden =
        !std::io::stderr().is_terminal() || (args.output.is_none() && std::io::stdout().is_terminal());
    bar.set_draw_target(if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() });
    let style = ProgressStyle::with_template("{bar:24} {percent:>3}%  {msg}  {eta} left");
    bar.set_style(style.expect("the template is well-formed"));
    let (mut after, mut end, mut written) = (args.after, None, 0);
    loop {
        let page = backend.read(after, &args.pattern, PAGE).await?;
        let end = *end.get_or_insert(page.head);
        for event in page.events.iter().take_while(|event| event.position <= end) {
            write_line(out, event)?;
            written += 1;
        }
        bar.set_length(end.0.saturating_sub(args.after.0));
        bar.set_position(page.through.min(end).0.saturating_sub(args.after.0));
        bar.set_message(count(written, "event"));
        if page.through >= end {
            break;
        }
        after = page.through;
    }
    out.flush()?;
    bar.finish_and_clear();
    Ok(written)
}

/// A file that isn't whole yet, under a name of its own; removed unless it is completed.
struct Partial {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    completed: bool,
}

impl Partial {
    fn create(path: &Path) -> Result<Self, Failure> {
        let Some(name) = path.file_name() else {
            return Err(Failure::usage(format!("{} names no file", path.display())));
        };
        let mut partial = name.to_owned();
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(partial);
        let file = File::create(&partial)
            .map_err(|error| Failure::failed(format!("{} can't be written: {error}", partial.display())))?;
        Ok(Self { path: path.to_owned(), partial, file, completed: false })
    }

    fn file(&self) -> Result<File, Failure> {
        Ok(self.file.try_clone()?)
    }

    fn complete(mut self) -> Result<(), Failure> {
        self.file.sync_all()?;
        std::fs::rename(&self.partial, &self.path).map_err(|error| {
            Failure::failed(format!("{} can't get its name: {error}", self.path.display()))
        })?;
        self.completed = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.completed {
            // It may be gone already; there is nobody left to tell otherwise.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}
