//! S3 and what is compatible with it.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::{ClientOptions, RetryConfig};

use super::object::{ObjectLog, ProbeError};

/// Where a log is in S3.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// The bucket. It must exist.
    pub bucket: String,
    /// What the names of the log's objects begin with; one log for each.
    pub prefix: String,
    /// The address of a server that is compatible with S3; `None` for Amazon's own.
    pub endpoint: Option<String>,
    /// The region; `None` takes it from the environment.
    pub region: Option<String>,
    /// Who asks; `None` takes it from the environment (`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or
    /// what the machine's role gives).
    pub credentials: Option<S3Credentials>,
    /// Whether a server may be talked to without TLS. Only for one on this machine.
    pub allow_http: bool,
    /// How long the server may take to answer, and then to send more of its answer: a large one takes as long as it
    /// takes.
    pub timeout: Duration,
}

/// A key to S3.
#[derive(Clone)]
pub struct S3Credentials {
    /// Its id.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
}

impl std::fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

impl S3Options {
    /// The defaults for a bucket of Amazon's.
    #[must_use]
    pub fn new(bucket: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: prefix.into(),
            endpoint: None,
            region: None,
            credentials: None,
            allow_http: false,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Makes `ring` the process's provider of cryptography for TLS, unless it has one. In a build with the
/// feature `s3` every HTTP client on reqwest needs one: call this before the first is made.
pub fn provide_tls() {
    // There is one already: that is what was asked for.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl ObjectLog {
    /// A log in S3, after a probe of whether the server can hold one.
    ///
    /// # Errors
    ///
    /// [`ProbeError`] with what to do.
    pub async fn open_s3(options: &S3Options) -> Result<Self, ProbeError> {
        provide_tls();
        let client = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(options.timeout)
            .with_read_timeout(options.timeout)
            .with_allow_http(options.allow_http);
        // The committing task tries again by itself, and tells its callers when it has lost patience.
        let retry = RetryConfig { max_retries: 1, retry_timeout: options.timeout, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&options.bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(retry)
            .with_client_options(client);
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &options.region {
            builder = builder.with_region(region);
        }
        if let Some(credentials) = &options.credentials {
            builder = builder
                .with_access_key_id(&credentials.access_key_id)
                .with_secret_access_key(&credentials.secret_access_key);
        }
        let unusable =
            |source| ProbeError::Unusable { store: format!("the bucket {}", options.bucket), source };
        let store = builder.build().map_err(unusable)?;
        Self::open(Arc::new(store), &options.prefix).await
    }
}
