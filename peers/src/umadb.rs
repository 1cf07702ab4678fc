//! UmaDB: an aggregate is a tag, and an append goes through only if nothing with that tag came since.

use std::path::Path;
use std::process::Command;

use async_trait::async_trait;
use futures_util::StreamExt;
use umadb_client::{AsyncUmaDbClient, UmaDbClient};
use umadb_dcb::{DcbAppendCondition, DcbEvent, DcbEventStoreAsync, DcbQuery, DcbQueryItem};
use umadb_server::{ServerOptions, StorageOptions, start_server_with_options};
use uuid::Uuid;

use crate::peer::{Failure, Peer, ROUND};
use crate::program::{Program, port};

/// The first argument of the process that is its server.
pub const SERVER: &str = "umadb-server";

/// Runs the server.
pub async fn serve(folder: &str, address: &str) -> Result<(), Failure> {
    let (_stop, stopped) = tokio::sync::oneshot::channel();
    let storage = StorageOptions::default().db_path(folder);
    let options = ServerOptions { listen_addr: address.to_owned(), tls: None, api_key: None, storage };
    start_server_with_options(options, stopped).await.map_err(|error| error.to_string().into())
}

pub struct Uma {
    client: AsyncUmaDbClient,
    _program: Program,
}

impl Uma {
    pub async fn start(folder: &Path) -> Result<Self, Failure> {
        let (data, port) = (folder.join("umadb"), port()?);
        std::fs::create_dir_all(&data)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(SERVER).arg(&data).arg(format!("127.0.0.1:{port}"));
        let program = Program::start(&mut command, folder, port).await?;
        let client = UmaDbClient::new(format!("http://127.0.0.1:{port}")).connect_async().await?;
        Ok(Self { client, _program: program })
    }
}

fn event(aggregate: &str, payload: &str) -> DcbEvent {
    DcbEvent::default().event_type("Measured").tags([aggregate]).data(payload).uuid(Uuid::now_v7())
}

fn of(aggregate: &str) -> DcbQuery {
    DcbQuery::new().item(DcbQueryItem::new().tags([aggregate]))
}

#[async_trait]
impl Peer for Uma {
    fn survives(&self) -> &'static str {
        "each commit synced; versions by a condition on a tag"
    }

    async fn append(
        &self,
        _: usize,
        aggregate: &str,
        _: u64,
        after: u64,
        payload: &str,
    ) -> Result<u64, Failure> {
        let condition = DcbAppendCondition::new(of(aggregate)).after((after > 0).then_some(after));
        Ok(self.client.append(vec![event(aggregate, payload)], Some(condition), None).await?)
    }

    async fn fill(&self, first: u64, payload: &str) -> Result<(), Failure> {
        let events = (0..ROUND).map(|number| event(&(first + number / 10).to_string(), payload)).collect();
        self.client.append(events, None, None).await?;
        Ok(())
    }

    async fn load(&self, aggregate: &str) -> Result<u64, Failure> {
        let (events, _) = self.client.read_with_head(Some(of(aggregate)), None, false, None).await?;
        Ok(events.len() as u64)
    }

    async fn replay(&self, count: u64) -> Result<u64, Failure> {
        let limit = u32::try_from(count)?;
        let mut events = self.client.read(None, None, false, Some(limit)).await?;
        let mut seen = 0;
        while let Some(event) = events.next().await {
            seen += u64::from(!event?.event.data.is_empty());
        }
        Ok(seen)
    }
}
