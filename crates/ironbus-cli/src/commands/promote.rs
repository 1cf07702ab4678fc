//! `ironbus promote`: begins a new epoch of a log, so that it is the one that counts.

use std::path::Path;

use ironbus::NodeOptions;
use ironbus::moving::Whereabouts;
use ironbus::store::sqlite::raise_epoch;

use crate::args;
use crate::backend::{node_options, opened};
use crate::config::Serve;
use crate::failure::Failure;

pub(crate) async fn run(args: args::Promote, config: &Serve) -> Result<(), Failure> {
    let data = config.data(args.data.data);
    let path = NodeOptions::new(&data).log_path();
    if !path.exists() {
        if NodeOptions::new(&data).has_log()? {
            return promote_slots(&data).await;
        }
        return Err(Failure::usage(format!(
            "there is no log at {}; name its directory (--data)",
            path.display()
        )));
    }
    let raising = path.clone();
    let raised = tokio::task::spawn_blocking(move || raise_epoch(&raising)).await;
    let epoch = raised.map_err(|error| Failure::failed(error.to_string()))??;
    // Wherever the log had gone, or was going: it is here again.
    if Whereabouts::read(&data)?.is_some() {
        Whereabouts::usual().write(&data)?;
    }
    println!("{} is in epoch {epoch} now; start its node (`ironbus serve`)", path.display());
    Ok(())
}

/// A log in slots of which no SQLite file is kept: it stays where it is.
async fn promote_slots(data: &Path) -> Result<(), Failure> {
    let log = opened(node_options(data).open_log().await?);
    let begun = log.current().begin_epoch("an operator promoted this log").await;
    let place = log.place();
    let epoch = begun.map_err(|error| Failure::failed(error.to_string()))?.epoch;
    println!("{place} is in epoch {epoch} now; start its node (`ironbus serve`)");
    Ok(())
}
