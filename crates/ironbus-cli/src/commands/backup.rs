//! `ironbus backup` and `ironbus restore`: a copy of a log beside its running server, and a log out of a copy.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ironbus::moving::{self, LogPlace, Whereabouts};
use ironbus::store::sqlite::{Copied, CopyError, back_up, back_up_log, restore};
use ironbus::{NodeOptions, SqliteEventStore, SqliteOptions};
use ironbus_zenoh::storage::{StorageOptions, StoragePlaces};
use serde_json::json;
use tokio::runtime::Handle;

use crate::args;
use crate::backend::{node_options, opened};
use crate::config::Serve;
use crate::failure::{Failure, Kind};
use crate::output::{Form, count, events_bar, out};

pub(crate) async fn back_up_to(args: args::Backup, config: &Serve) -> Result<(), Failure> {
    let data = config.data(args.data.data);
    let to = place_in(&args.to)?;
    let name = to.clone();
    let (copied, seconds) = match file_of(&data)? {
        Some(from) => with_bar(move |bar| back_up(&from, &name, bar)).await?,
        None => {
            let log = opened(node_options(&data).open_log_read_only().await?);
            let (current, runtime) = (log.current(), Handle::current());
            with_bar(move |bar| back_up_log(current, runtime, &name, bar)).await?
        }
    };
    tell(args.form, &copied, &to.display().to_string(), |events| {
        format!(
            "copied {events} in {seconds:.1} s; {} holds the log up to position {}",
            args.to.display(),
            copied.head
        )
    })
}

pub(crate) async fn restore_from(args: args::Restore, config: &Serve) -> Result<(), Failure> {
    let data = config.data(args.data.data);
    let (from, place) =
        (NodeOptions::new(&args.from).log_path(), args.log_at.unwrap_or_else(LogPlace::database));
    place_in(&data)?;
    if node_options(&data).has_log()? {
        return Err(CopyError::Occupied { path: data }.into());
    }
    let (copied, seconds) = if place.is_database() {
        let to = place.path_in(&data);
        with_bar(move |bar| restore(&from, &to, bar)).await?
    } else {
        restore_into(&data, from, &place).await?
    };
    if place != LogPlace::database() {
        Whereabouts { log: place.clone(), ..Whereabouts::usual() }.write(&data)?;
    }
    tell(args.form, &copied, &place.to_string(), |events| {
        format!(
            "restored {events} in {seconds:.1} s; the log of {} at {place} begins epoch {} after position {}; start its \
             node (`ironbus serve`)",
            data.display(),
            copied.epoch,
            copied.head
        )
    })
}

/// Makes a log in slots out of a copy.
async fn restore_into(data: &Path, from: PathBuf, place: &LogPlace) -> Result<(Copied, f64), Failure> {
    if !from.exists() {
        return Err(CopyError::NoSource { path: from }.into());
    }
    let (bar, began) = (events_bar(), Instant::now());
    let told = bar.clone();
    let copy = SqliteEventStore::open_read_only(SqliteOptions::new(from)).await?;
    let places = StoragePlaces { data: data.to_owned(), options: StorageOptions::default() };
    let made = moving::restore(&places, &copy, place, |done, of| {
        told.set_length(of);
        told.set_position(done);
    });
    let copied = made.await.map_err(Failure::failed)?;
    bar.finish_and_clear();
    Ok((copied, began.elapsed().as_secs_f64()))
}

/// The SQLite file that a directory's log is copied from: the log itself; or what is kept up to date beside one that no
/// other process can open while its server runs. Other logs are read where they are.
fn file_of(data: &Path) -> Result<Option<PathBuf>, Failure> {
    let said = Whereabouts::read(data)?.unwrap_or_else(Whereabouts::usual);
    let mirror = said.mirror.filter(|_| said.log.kind() == "rocksdb");
    let file = Some(said.log).into_iter().chain(mirror).find(LogPlace::is_database);
    Ok(file.map(|place| place.path_in(data)))
}

/// Where a log lies in a directory, which is made if it isn't there.
fn place_in(directory: &Path) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(directory)
        .map_err(|error| Failure::failed(format!("{} can't be made: {error}", directory.display())))?;
    Ok(NodeOptions::new(directory).log_path())
}

/// Copies on a thread where it may block; gives the time it took, in seconds.
async fn with_bar(
    copy: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<Copied, CopyError> + Send + 'static,
) -> Result<(Copied, f64), Failure> {
    let (bar, began) = (events_bar(), Instant::now());
    let told = bar.clone();
    let copying = tokio::task::spawn_blocking(move || {
        copy(&mut |done, of| {
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
    place: &str,
    in_words: impl FnOnce(&str) -> String,
) -> Result<(), Failure> {
    let mut out = out();
    match Form::choose(form) {
        Form::Lines => {
            let document = json!({
                "place": place,
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
