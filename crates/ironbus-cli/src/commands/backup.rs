//! `ironbus backup` and `ironbus restore`: a copy of a log beside its running server, and a log out of a copy.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ironbus::NodeOptions;
use ironbus::moving::{LogPlace, Whereabouts};
use ironbus::store::sqlite::{Copied, CopyError, back_up, restore};
use serde_json::json;

use crate::args;
use crate::config::Serve;
use crate::failure::{Failure, Kind};
use crate::output::{Form, count, events_bar, out};

pub(crate) async fn back_up_to(args: args::Backup, config: &Serve) -> Result<(), Failure> {
    let from = source_in(&config.data(args.data.data))?;
    let to = place_in(&args.to)?;
    let (copied, seconds) = with_bar(from, to.clone(), |from, to, bar| back_up(from, to, bar)).await?;
    tell(args.form, &copied, &to, |events| {
        format!(
            "copied {events} in {seconds:.1} s; {} holds the log up to position {}",
            args.to.display(),
            copied.head
        )
    })
}

pub(crate) async fn restore_from(args: args::Restore, config: &Serve) -> Result<(), Failure> {
    let data = config.data(args.data.data);
    let (from, to) = (NodeOptions::new(&args.from).log_path(), place_in(&data)?);
    let (copied, seconds) = with_bar(from, to.clone(), |from, to, bar| restore(from, to, bar)).await?;
    tell(args.form, &copied, &to, |events| {
        format!(
            "restored {events} in {seconds:.1} s; the log in {} begins epoch {} after position {}; start its node \
             (`ironbus serve`)",
            data.display(),
            copied.epoch,
            copied.head
        )
    })
}

/// The SQLite file that holds a directory's log: the log itself, or what is kept up to date beside one of slots.
fn source_in(data: &Path) -> Result<PathBuf, Failure> {
    let said = Whereabouts::read(data)?.unwrap_or_else(Whereabouts::usual);
    let held = [Some(said.log.clone()), said.mirror].into_iter().flatten().find(LogPlace::is_database);
    held.map(|place| place.path_in(data)).ok_or_else(|| {
        Failure::usage(format!(
            "the log is at {}, and no SQLite file is kept up to date beside it; copy that place with its own means, or \
             go back first (`ironbus migrate rollback`)",
            said.log
        ))
    })
}

/// Where a log lies in a directory, which is made if it isn't there.
fn place_in(directory: &Path) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(directory)
        .map_err(|error| Failure::failed(format!("{} can't be made: {error}", directory.display())))?;
    Ok(NodeOptions::new(directory).log_path())
}

/// Copies on a thread where it may block; gives the time it took, in seconds.
async fn with_bar(
    from: PathBuf,
    to: PathBuf,
    copy: impl FnOnce(&Path, &Path, &mut dyn FnMut(u64, u64)) -> Result<Copied, CopyError> + Send + 'static,
) -> Result<(Copied, f64), Failure> {
    let (bar, began) = (events_bar(), Instant::now());
    let told = bar.clone();
    let copying = tokio::task::spawn_blocking(move || {
        copy(&from, &to, &mut |done, of| {
            told.set_length(of);
            told.set_position(done);
        })
    });
    let copied = copying.await.map_err(|error| Failure::failed(format!("the copy broke off: {error}")))??;
    bar.finish_and_clear();
    Ok((copied, began.elapsed().as_secs_f64()))
}

fn tell(
    form: args::Form,
    copied: &Copied,
    path: &Path,
    in_words: impl FnOnce(&str) -> String,
) -> Result<(), Failure> {
    let mut out = out();
    match Form::choose(form) {
        Form::Lines => {
            let document = json!({
                "path": path.display().to_string(),
                "copied": copied.events,
                "head": copied.head,
                "epoch": copied.epoch,
                "chain": copied.chain,
            });
            writeln!(out, "{document}")?;
        }
        Form::Human => {
            writeln!(out, "{}", in_words(&count(copied.events, "event")))?;
            writeln!(out, "chain  {}", copied.chain)?;
        }
    }
    out.flush()?;
    Ok(())
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Open(error) => error.into(),
            CopyError::NoSource { .. } => Self::new(Kind::Unavailable, error),
            CopyError::Occupied { .. } | CopyError::NotACopy { .. } => Self::usage(error),
            other => Self::failed(other),
        }
    }
}
