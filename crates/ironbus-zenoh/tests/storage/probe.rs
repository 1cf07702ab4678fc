//! What an object store has to show before it may hold a log.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use ironbus_zenoh::storage::{ObjectLog, ProbeError};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What a store does that is asked to create an object where one is.
#[derive(Clone, Copy, Debug)]
enum Creating {
    Rightly,
    /// It takes the new one.
    Overwrites,
    /// It says that it has, and keeps the old one.
    Pretends,
    /// It refuses, and takes the new one all the same.
    OverwritesAndRefuses,
    /// It can't be asked.
    Unknown,
}

#[derive(Debug)]
struct Store(InMemory, Creating);

impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a store that {:?}", self.1)
    }
}

#[async_trait]
impl ObjectStore for Store {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let overwrite = || PutOptions { mode: PutMode::Overwrite, ..options.clone() };
        let created = self.0.put_opts(at, payload.clone(), options.clone()).await;
        match self.1 {
            Creating::Rightly => created,
            Creating::Overwrites => self.0.put_opts(at, payload, overwrite()).await,
            Creating::Pretends => Ok(created.unwrap_or(PutResult {
                e_tag: None,
                version: None,
                extensions: Default::default(),
            })),
            Creating::OverwritesAndRefuses => {
                self.0.put_opts(at, payload, overwrite()).await?;
                created
            }
            Creating::Unknown => {
                Err(Error::NotImplemented { operation: "creating".into(), implementer: self.to_string() })
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(at, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

async fn open(creating: Creating) -> std::result::Result<ObjectLog, ProbeError> {
    ObjectLog::open(Arc::new(Store(InMemory::new(), creating)), "a/log").await
}

#[tokio::test]
async fn a_store_that_creates_an_object_twice_is_refused() {
    assert!(open(Creating::Rightly).await.is_ok());
    for creating in [Creating::Overwrites, Creating::Pretends, Creating::OverwritesAndRefuses] {
        let refused = open(creating).await.expect_err("it can't hold a log");
        assert!(matches!(refused, ProbeError::CreatesTwice { .. }), "{creating:?}: {refused}");
    }
    let refused = open(Creating::Unknown).await.expect_err("it can't hold a log");
    assert!(matches!(refused, ProbeError::CannotCreate { .. }), "{refused}");
}
