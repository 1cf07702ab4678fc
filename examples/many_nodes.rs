//! A store node and an edge node in one's own program: the edge has no database, and the same API.
//!
//! ```text
//! cargo run -p ironbus-examples --bin many_nodes -- store    # the first terminal
//! cargo run -p ironbus-examples --bin many_nodes -- edge     # the second one
//! ```
//!
//! The edge appends an event and shows everything of its kind, from the beginning and live. `--zenoh` names
//! the endpoint where both meet, `--data` the store's directory; `--once` ends the edge when it has seen its own
//! event.

use std::time::Duration;

use ironbus::migration::MigrationOptions;
use ironbus::{
    Aggregate, Append, Delivery, EventFilter, ExpectedVersion, Json, NewEvent, Node, NodeOptions, Start,
};
use ironbus_zenoh::{EdgeNode, EdgeOptions, StoreNode, StoreNodeOptions, ZenohOptions};

/// How long tasks may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Owns the log. A node like any other, joined to a session.
async fn store(data: &str, endpoint: &str) -> anyhow::Result<()> {
    let node = Node::open(NodeOptions::new(data)).await?;
    let session = ZenohOptions::peer(&[endpoint], &[]).open().await?;
    StoreNode::join(&node, session, StoreNodeOptions { name: "store".into() }).await?;
    let migration = node.start_migration(MigrationOptions::default()).await?;
    println!("listening on {endpoint}, in phase {}", migration.status().phase);
    tokio::signal::ctrl_c().await?;
    // Leaves the network and closes the log.
    node.shutdown(PATIENCE).await;
    Ok(())
}

/// Owns nothing, and may be started first: it waits for the store node.
async fn edge(endpoint: &str, once: bool) -> anyhow::Result<()> {
    let session = ZenohOptions::peer(&[], &[endpoint]).open().await?;
    let (node, edge) = EdgeNode::start(session, EdgeOptions::new("edge")).await?;
    edge.found().await;
    // A `ZenohEventStore`, behind the trait that every store has.
    let store = node.store();
    let mut events = store.subscribe(EventFilter::public("events/Todo/**".parse()?), Start::Beginning);
    let added = NewEvent::new("TodoAdded", Json::parse(r#"{"title":"from an edge node"}"#)?);
    let added = Append::to(Aggregate::new("Todo", "17")?, ExpectedVersion::Any, vec![added]);
    let own = store.append(added).await?.head;
    while let Some(delivery) = events.next().await {
        let Delivery::Event(event) = delivery? else { continue };
        println!("{} {} {}", event.position, event.event_type, event.payload.as_str());
        if once && event.position >= own {
            break;
        }
    }
    node.shutdown(PATIENCE).await;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut options = pico_args::Arguments::from_env();
    let endpoint = options.opt_value_from_str("--zenoh")?.unwrap_or_else(|| "tcp/127.0.0.1:7447".to_owned());
    let data = options.opt_value_from_str("--data")?.unwrap_or_else(|| "many-nodes-data".to_owned());
    let once = options.contains("--once");
    match options.subcommand()?.as_deref() {
        Some("store") => store(&data, &endpoint).await,
        Some("edge") => edge(&endpoint, once).await,
        _ => anyhow::bail!("say what this is: `store` or `edge`"),
    }
}
