//! A client that knows only Zenoh, and nothing of ironbus.
//!
//! `plain put tcp/10.0.0.3:7447 KEY` puts each line of its input at the key; `plain sub tcp/10.0.0.3:7447 KEY`
//! prints `KEY PAYLOAD` for what arrives. Both say `ready` first, go on through cuts of the network, and take
//! settings as `router` does. The one ends with its input, the other when it is killed.

use std::error::Error;
use std::io::Write as _;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use zenoh::Session;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(what), Some(router), Some(key)) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("usage: plain put|sub tcp/ADDRESS:PORT KEY [SETTING=JSON5 …]".into());
    };
    let mut config = zenoh::Config::default();
    config.insert_json5("mode", "'client'")?;
    config.insert_json5("connect/endpoints", &format!("['{router}']"))?;
    config.insert_json5("scouting/multicast/enabled", "false")?;
    for argument in arguments {
        let (setting, value) = argument.split_once('=').ok_or("a setting is SETTING=JSON5")?;
        config.insert_json5(setting, value)?;
    }
    let session = zenoh::open(config).await?;
    match what.as_str() {
        "put" => put(&session, key).await?,
        "sub" => sub(&session, key).await?,
        other => return Err(format!("{other:?} is neither put nor sub").into()),
    }
    session.close().await
}

async fn put(session: &Session, key: String) -> Result<(), Failure> {
    let publisher = session.declare_publisher(key).await?;
    println!("ready");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        publisher.put(line).await?;
    }
    Ok(())
}

async fn sub(session: &Session, key: String) -> Result<(), Failure> {
    let subscriber = session.declare_subscriber(key).await?;
    println!("ready");
    loop {
        let sample = subscriber.recv_async().await?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{} {}", sample.key_expr(), sample.payload().try_to_string()?)?;
    }
}
