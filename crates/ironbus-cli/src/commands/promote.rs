//! `ironbus promote`: begins a new epoch of a log, so that it is the one that counts.

use ironbus::NodeOptions;
use ironbus::moving::Whereabouts;
use ironbus::store::sqlite::raise_epoch;

use crate::args;
use crate::config::Serve;
use crate::failure::Failure;

pub(crate) async fn run(args: args::Promote, config: &Serve) -> Result<(), Failure> {
    let data = config.data(args.data.data);
    let path = NodeOptions::new(&data).log_path();
    if !path.exists() {
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
