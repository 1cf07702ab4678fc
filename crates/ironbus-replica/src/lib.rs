//! A Zenoh router in this process, with the stock storage manager and its memory volume: what tests need of a
//! downstream replica where RocksDB isn't built. The storage manager is linked in instead of loaded.
//!
//! Unpublished, and a crate of its own: it asks Zenoh for features that nothing else of ours needs.

mod client;

use zenoh::Wait as _;
use zenoh::internal::plugins::PluginsManager;
use zenoh::internal::runtime::{Runtime, RuntimeBuilder};
use zenoh_plugin_storage_manager::StoragesPlugin;

pub use client::Client;

/// The plugin's name in a configuration.
const PLUGIN: &str = "storage_manager";

/// A router whose storages are in memory; gone when it is closed.
pub struct MemoryReplica {
    runtime: Runtime,
}

impl MemoryReplica {
    /// Listens on `endpoint` and stores what is put on `keys`, under the name `name`. Needs a runtime of tokio's
    /// with several threads.
    ///
    /// # Errors
    ///
    /// What Zenoh said.
    pub async fn start(endpoint: &str, name: &str, keys: &str) -> Result<Self, zenoh::Error> {
        let mut config = zenoh::Config::default();
        config.insert_json5("mode", "'router'")?;
        config.insert_json5("listen/endpoints", &format!("['{endpoint}']"))?;
        config.insert_json5("scouting/multicast/enabled", "false")?;
        config.insert_json5("scouting/gossip/enabled", "false")?;
        config.insert_json5("adminspace/enabled", "true")?;
        let storages = format!("{{ storages: {{ '{name}': {{ key_expr: '{keys}', volume: 'memory' }} }} }}");
        config.insert_json5(&format!("plugins/{PLUGIN}"), &storages)?;
        let mut plugins = PluginsManager::static_plugins_only();
        plugins.declare_static_plugin::<StoragesPlugin, _>(PLUGIN, true);
        let mut runtime = RuntimeBuilder::new(config).plugins_manager(plugins).build().await?;
        runtime.start().await?;
        Ok(Self { runtime })
    }

    /// Stops listening and forgets everything.
    ///
    /// # Errors
    ///
    /// What Zenoh said.
    pub fn close(self) -> Result<(), zenoh::Error> {
        self.runtime.close().wait()
    }
}
