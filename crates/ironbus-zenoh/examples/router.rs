//! A Zenoh router in a process of its own, as `zenohd` is one, without plugins, multicast and gossip.
//!
//! `router tcp/10.0.0.3:7447 [SETTING=JSON5 …]` says `listening on …` once it does, and ends at SIGTERM. A
//! setting is a path into Zenoh's configuration: `transport/link/tx/lease=2000`.

use std::error::Error;

use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().ok_or("usage: router tcp/ADDRESS:PORT [SETTING=JSON5 …]")?;
    let mut config = zenoh::Config::default();
    config.insert_json5("mode", "'router'")?;
    config.insert_json5("listen/endpoints", &format!("['{listen}']"))?;
    config.insert_json5("scouting/multicast/enabled", "false")?;
    config.insert_json5("scouting/gossip/enabled", "false")?;
    for argument in arguments {
        let (setting, value) = argument.split_once('=').ok_or("a setting is SETTING=JSON5")?;
        config.insert_json5(setting, value)?;
    }
    let session = zenoh::open(config).await?;
    println!("listening on {listen}");
    terminated.recv().await;
    session.close().await
}
