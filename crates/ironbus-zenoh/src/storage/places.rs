//! Opens logs of slots by their addresses.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ironbus::moving::{Found, LogPlace, LogPlaces};
use ironbus::store::{CopyOf, Log, OpenError};
use ironbus::tail::Tail;

use super::own::StorageCopy;
use super::{CommitLog, StorageOptions, ZenohStorageEventStore};

/// Opens logs of slots: `folder:DIRECTORY`, `rocksdb:DIRECTORY` (feature `rocksdb`), and `s3://BUCKET/PREFIX` (feature
/// `s3`) with the parameters `endpoint`, `region` and `allow_http=true`, each as it is written. Credentials are taken
/// from the environment (`S3Options`).
#[derive(Clone, Debug)]
pub struct StoragePlaces {
    /// Where paths begin that aren't absolute.
    pub data: PathBuf,
    /// How the logs behave. Their tail, what they are copies of, and whether they are begun is asked for with each.
    pub options: StorageOptions,
}

impl StoragePlaces {
    async fn log_at(&self, place: &LogPlace) -> Result<Arc<dyn CommitLog>, OpenError> {
        match place.kind() {
            #[cfg(feature = "object-store")]
            "folder" => {
                let folder = place.path_in(&self.data);
                Ok(Arc::new(super::ObjectLog::open_folder(&folder).await.map_err(|e| refused(place, e))?))
            }
            #[cfg(feature = "s3")]
            "s3" => {
                let options = s3_options(place.rest()).map_err(|reason| refused(place, reason))?;
                Ok(Arc::new(super::ObjectLog::open_s3(&options).await.map_err(|e| refused(place, e))?))
            }
            #[cfg(feature = "rocksdb")]
            "rocksdb" => {
                let opened = super::RocksLog::open(place.path_in(&self.data)).await;
                Ok(Arc::new(opened.map_err(|error| match error {
                    super::RocksOpenError::Locked { path, holder } => OpenError::Locked { path, holder },
                    error => refused(place, error),
                })?))
            }
            #[cfg(not(feature = "object-store"))]
            "folder" => Err(refused(
                place,
                "this build has no object stores; use one with the feature `object-store`",
            )),
            #[cfg(not(feature = "s3"))]
            "s3" => Err(refused(place, "this build has no S3; use one with the feature `s3`")),
            #[cfg(not(feature = "rocksdb"))]
            "rocksdb" => Err(refused(place, "this build has no RocksDB; use one with the feature `rocksdb`")),
            _ => Err(refused(place, "it isn't the address of a log of slots")),
        }
    }

    /// Reads the whole log at a place and checks everything that can be checked ([`super::verify`]).
    ///
    /// # Errors
    ///
    /// [`OpenError`] with the first slot that is wrong, or why the log can't be read.
    pub async fn verify(&self, place: &LogPlace) -> Result<Option<super::StorageVerification>, OpenError> {
        let log = self.log_at(place).await?;
        let found = super::verify(&*log).await;
        log.close().await;
        found.map_err(|trouble| refused(place, trouble))
    }

    async fn store_at(
        &self,
        place: &LogPlace,
        tail: Arc<Tail>,
        copy_of: Option<CopyOf>,
    ) -> Result<ZenohStorageEventStore, OpenError> {
        let log = self.log_at(place).await?;
        let options = StorageOptions { tail: Some(tail), copy_of, create: true, ..self.options.clone() };
        let opened = ZenohStorageEventStore::open(Arc::clone(&log), options).await;
        match opened {
            Ok(store) => Ok(store),
            Err(error) => {
                log.close().await;
                Err(refused(place, error))
            }
        }
    }
}

#[async_trait]
impl LogPlaces for StoragePlaces {
    async fn open(&self, place: &LogPlace, tail: Arc<Tail>) -> Result<Arc<dyn Log>, OpenError> {
        Ok(Arc::new(self.store_at(place, tail, None).await?))
    }

    async fn copy(&self, place: &LogPlace, of: &CopyOf, tail: Arc<Tail>) -> Result<Found, OpenError> {
        let store = self.store_at(place, tail, Some(of.clone())).await?;
        let reason = match found(&store, of) {
            Standing::Copy => return Ok(Found::Copy(Box::new(StorageCopy(store)))),
            Standing::Opened => {
                store.close().await;
                return Ok(Found::Opened);
            }
            Standing::Other(reason) => reason,
        };
        store.close().await;
        Err(refused(
            place,
            format!("it is no copy of this log ({reason}); name another place, or move it away"),
        ))
    }
}

/// What is there, beside the log that is to be copied.
enum Standing {
    /// A copy in the making, or a sealed log that becomes one when it is told to follow.
    Copy,
    /// The copy was opened.
    Opened,
    /// Something else, and what.
    Other(&'static str),
}

fn found(store: &ZenohStorageEventStore, of: &CopyOf) -> Standing {
    let state = store.folded();
    if state.is_copying() || state.is_sealed() {
        let follows = state.can_follow(&of.lineage);
        return if follows { Standing::Copy } else { Standing::Other("its epochs are others") };
    }
    match state.lineage().starts().strip_prefix(of.lineage.starts()) {
        Some([_, ..]) => Standing::Opened,
        _ => Standing::Other("it accepts appends itself"),
    }
}

fn refused(place: &LogPlace, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OpenError {
    OpenError::Elsewhere { place: place.to_string(), source: why.into() }
}

/// What follows `s3:` in an address.
#[cfg(any(feature = "s3", test))]
fn s3_parts(rest: &str) -> Result<S3Parts, String> {
    let (path, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.strip_prefix("//").unwrap_or(path);
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    if bucket.is_empty() {
        return Err("it names no bucket; write s3://BUCKET/PREFIX".into());
    }
    let mut parts =
        S3Parts { bucket: bucket.into(), prefix: prefix.trim_matches('/').into(), ..S3Parts::default() };
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("endpoint", value)) => parts.endpoint = Some(value.into()),
            Some(("region", value)) => parts.region = Some(value.into()),
            Some(("allow_http", "true")) => parts.allow_http = true,
            Some(("allow_http", "false")) => parts.allow_http = false,
            _ => {
                return Err(format!(
                    "`{parameter}` isn't known; the parameters are endpoint=URL, region=NAME and allow_http=true"
                ));
            }
        }
    }
    Ok(parts)
}

#[cfg(any(feature = "s3", test))]
#[derive(Debug, Default, PartialEq, Eq)]
struct S3Parts {
    bucket: String,
    prefix: String,
    endpoint: Option<String>,
    region: Option<String>,
    allow_http: bool,
}

#[cfg(feature = "s3")]
fn s3_options(rest: &str) -> Result<super::S3Options, String> {
    let S3Parts { bucket, prefix, endpoint, region, allow_http } = s3_parts(rest)?;
    Ok(super::S3Options { endpoint, region, allow_http, ..super::S3Options::new(bucket, prefix) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_s3_says_bucket_prefix_and_server() {
        let plain = s3_parts("//bucket/logs/main/").expect("an address");
        let expected = S3Parts { bucket: "bucket".into(), prefix: "logs/main".into(), ..S3Parts::default() };
        assert_eq!(plain, expected);
        let full = s3_parts("//b?endpoint=http://127.0.0.1:9000&region=eu-west-1&allow_http=true");
        let expected = S3Parts {
            bucket: "b".into(),
            prefix: String::new(),
            endpoint: Some("http://127.0.0.1:9000".into()),
            region: Some("eu-west-1".into()),
            allow_http: true,
        };
        assert_eq!(full, Ok(expected));
    }

    #[test]
    fn an_address_in_s3_that_says_nonsense_is_refused() {
        for rest in ["//", "///prefix", "//b/p?allow_http=yes", "//b/p?regoin=x", "//b/p?endpoint"] {
            assert!(s3_parts(rest).is_err(), "{rest:?} was taken for an address");
        }
    }
}
