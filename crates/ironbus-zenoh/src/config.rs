//! How a node reaches others: where it listens, whom it connects to, and how that is protected.
//!
//! What isn't said is off: no multicast, no gossip, no listening but where told. A setting that is half
//! there is refused with what is missing, because half a protection is none.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a node is to the Zenoh network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Talks to other peers and to routers, and may be connected to.
    #[default]
    Peer,
    /// Talks through the router that it connects to.
    Client,
}

/// Certificates for `tls/…` endpoints: files in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authority that others' certificates are checked against.
    pub ca: Option<PathBuf>,
    /// This node's certificate.
    pub certificate: Option<PathBuf>,
    /// The private key of the certificate.
    pub key: Option<PathBuf>,
    /// Whether whoever connects has to show a certificate of the authority too (mutual TLS).
    pub mutual: bool,
}

/// A user name and its password, for Zenoh's user-password authentication.
#[derive(Clone, PartialEq, Eq)]
pub struct UserPassword {
    /// The name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for UserPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserPassword").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How to open a Zenoh session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZenohOptions {
    /// What the node is to the network.
    pub role: Role,
    /// Whom to connect to, for example `tcp/10.0.0.1:7447`, `tls/…` or `unixsock-stream//run/bus.sock`.
    /// What isn't there yet is tried again and again.
    pub connect: Vec<String>,
    /// Where to listen, for example `tcp/127.0.0.1:7447`.
    pub listen: Vec<String>,
    /// Certificates for `tls/…` endpoints.
    pub tls: Option<Tls>,
    /// Who this node is to others.
    pub user: Option<UserPassword>,
    /// A file of `name:password` lines: who may connect to this node.
    pub users: Option<PathBuf>,
    /// Whether to listen beyond loopback although nothing is encrypted.
    pub allow_plaintext_remote: bool,
    /// A Zenoh configuration (JSON5): everything that Zenoh can do, access control included. What is set
    /// above wins over it; what it doesn't say is as where there is no file.
    pub file: Option<PathBuf>,
}

/// Why a session can't be opened as asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A client listens nowhere and needs somebody to connect to.
    #[error("a Zenoh client connects to a router; name one (for example `tcp/10.0.0.1:7447`)")]
    ClientWithoutRouter,
    /// A client doesn't listen.
    #[error("a Zenoh client doesn't listen; drop the listening endpoint `{endpoint}`, or be a peer")]
    ClientListens {
        /// The endpoint.
        endpoint: String,
    },
    /// An endpoint that isn't one.
    #[error("`{endpoint}` isn't a Zenoh endpoint ({reason}); write for example `tcp/127.0.0.1:7447`")]
    Endpoint {
        /// The text.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// An unencrypted endpoint that other machines reach.
    #[error(
        "`{endpoint}` can be reached from other machines, and nothing on it is encrypted; use a `tls/…` endpoint with certificates, listen on 127.0.0.1, or allow it explicitly (--allow-plaintext-remote)"
    )]
    Plaintext {
        /// The endpoint.
        endpoint: String,
    },
    /// TLS is half configured.
    #[error("TLS is half configured: {missing}")]
    HalfTls {
        /// What is missing, and for what.
        missing: String,
    },
    /// Certificates without an endpoint that uses them.
    #[error("certificates are given, but no `tls/…` endpoint uses them: nothing would be encrypted")]
    UnusedTls,
    /// A user without a password, or the other way round.
    #[error("a user name and a password belong together; give both, or neither")]
    HalfUser,
    /// A file that can't be read.
    #[error("{path} can't be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A Zenoh configuration that Zenoh doesn't take.
    #[error("Zenoh doesn't take the configuration{of}: {reason}")]
    Zenoh {
        /// Of which file, if of one.
        of: String,
        /// What it said.
        reason: String,
    },
    /// The session couldn't be opened.
    #[error("the Zenoh session can't be opened: {reason}")]
    Open {
        /// What it said.
        reason: String,
    },
}

/// How long a connection may be silent before it counts as broken.
const LEASE: Duration = Duration::from_secs(3);

/// How long opening a connection may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a publisher may be held up by a receiver that stalls before its connection is closed.
const STALL: Duration = Duration::from_secs(5);

/// The largest message that is taken from others: an append's limit and room for its names.
const MAX_MESSAGE: usize = 64 << 20;

impl ZenohOptions {
    /// No network at all: a session within this process.
    #[must_use]
    pub fn embedded() -> Self {
        Self::default()
    }

    /// A peer that listens and connects there.
    #[must_use]
    pub fn peer(listen: &[&str], connect: &[&str]) -> Self {
        let texts = |endpoints: &[&str]| endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
        Self { listen: texts(listen), connect: texts(connect), ..Self::default() }
    }

    /// A client of a router.
    #[must_use]
    pub fn client(router: &str) -> Self {
        Self { role: Role::Client, connect: vec![router.to_owned()], ..Self::default() }
    }

    /// Opens a session.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with what to do.
    pub async fn open(&self) -> Result<zenoh::Session, ConfigError> {
        let config = self.config()?;
        zenoh::open(config).await.map_err(|error| ConfigError::Open { reason: error.to_string() })
    }

    /// Everything checked and put together as Zenoh's own configuration.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with what to do.
    pub fn config(&self) -> Result<zenoh::Config, ConfigError> {
        self.check()?;
        let (mut config, file) = match &self.file {
            Some(path) => from_file(path)?,
            None => (zenoh::Config::default(), serde_json::Value::Null),
        };
        let mut set = |key: &str, value: serde_json::Value| {
            config
                .insert_json5(key, &value.to_string())
                .map_err(|error| ConfigError::Zenoh { of: String::new(), reason: format!("{key}: {error}") })
        };
        // What the file doesn't say is as where there is none.
        for (key, value) in self.defaults() {
            if !says(&file, key) {
                set(key, value)?;
            }
        }
        if self.role == Role::Client {
            set("mode", "client".into())?;
        }
        if !self.listen.is_empty() {
            set("listen/endpoints", self.listen.clone().into())?;
        }
        if !self.connect.is_empty() {
            set("connect/endpoints", self.connect.clone().into())?;
        }
        // Who isn't there yet is waited for, in the background.
        set("connect/timeout_ms", (-1).into())?;
        set("connect/exit_on_failure", false.into())?;
        if let Some(tls) = &self.tls {
            self.set_tls(tls, &mut set)?;
        }
        if let Some(user) = &self.user {
            set("transport/auth/usrpwd/user", user.user.clone().into())?;
            set("transport/auth/usrpwd/password", user.password.clone().into())?;
        }
        if let Some(users) = &self.users {
            set("transport/auth/usrpwd/dictionary_file", users.display().to_string().into())?;
        }
        self.check_listening(&config)?;
        Ok(config)
    }

    /// What isn't said is off, and what is broken is noticed soon.
    fn defaults(&self) -> [(&'static str, serde_json::Value); 12] {
        let stall = u64::try_from(STALL.as_micros()).expect("a few seconds");
        [
            ("mode", "peer".into()),
            ("listen/endpoints", serde_json::json!([])),
            ("scouting/multicast/enabled", false.into()),
            ("scouting/gossip/enabled", false.into()),
            ("transport/link/tx/lease", millis(LEASE)),
            ("transport/unicast/open_timeout", millis(OPEN_TIMEOUT)),
            ("transport/unicast/accept_timeout", millis(OPEN_TIMEOUT)),
            ("transport/link/tx/queue/congestion_control/block/wait_before_close", stall.into()),
            ("transport/link/rx/max_message_size", MAX_MESSAGE.into()),
            ("timestamping/enabled", false.into()),
            // Read only: who subscribes to events is counted from it.
            ("adminspace/enabled", true.into()),
            (
                "connect/retry",
                serde_json::json!({
                    "period_init_ms": 200, "period_max_ms": 1000, "period_increase_factor": 2
                }),
            ),
        ]
    }

    /// Whether others could read what goes over an endpoint, wherever that was said.
    fn check_listening(&self, config: &zenoh::Config) -> Result<(), ConfigError> {
        let listening = config.get_json("listen/endpoints").unwrap_or_default();
        let mut endpoints = Vec::new();
        texts(&serde_json::from_str(&listening).unwrap_or_default(), &mut endpoints);
        match endpoints.into_iter().find(|endpoint| is_remote_plaintext(endpoint)) {
            Some(endpoint) if !self.allow_plaintext_remote => Err(ConfigError::Plaintext { endpoint }),
            _ => Ok(()),
        }
    }

    fn set_tls(
        &self,
        tls: &Tls,
        set: &mut impl FnMut(&str, serde_json::Value) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        let mut file = |key: &str, path: &Option<PathBuf>| match path {
            Some(path) => set(&format!("transport/link/tls/{key}"), path.display().to_string().into()),
            None => Ok(()),
        };
        file("root_ca_certificate", &tls.ca)?;
        if self.listen.iter().any(|endpoint| is_tls(endpoint)) {
            file("listen_certificate", &tls.certificate)?;
            file("listen_private_key", &tls.key)?;
        }
        if tls.mutual && self.connect.iter().any(|endpoint| is_tls(endpoint)) {
            file("connect_certificate", &tls.certificate)?;
            file("connect_private_key", &tls.key)?;
        }
        set("transport/link/tls/enable_mtls", tls.mutual.into())
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.role == Role::Client {
            if let Some(endpoint) = self.listen.first() {
                return Err(ConfigError::ClientListens { endpoint: endpoint.clone() });
            }
            if self.connect.is_empty() && self.file.is_none() {
                return Err(ConfigError::ClientWithoutRouter);
            }
        }
        for endpoint in self.connect.iter().chain(&self.listen) {
            endpoint.parse::<zenoh::config::EndPoint>().map_err(|error| ConfigError::Endpoint {
                endpoint: endpoint.clone(),
                reason: error.to_string(),
            })?;
        }
        if let Some(user) = &self.user
            && (user.user.is_empty() || user.password.is_empty())
        {
            return Err(ConfigError::HalfUser);
        }
        if let Some(users) = &self.users {
            readable(users)?;
        }
        self.check_tls()
    }

    fn check_tls(&self) -> Result<(), ConfigError> {
        let listens = self.listen.iter().find(|endpoint| is_tls(endpoint));
        let connects = self.connect.iter().find(|endpoint| is_tls(endpoint));
        let half = |missing: String| Err(ConfigError::HalfTls { missing });
        let Some(tls) = &self.tls else {
            return match listens.or(connects) {
                Some(endpoint) if self.file.is_none() => {
                    half(format!("the endpoint `{endpoint}` needs certificates, and none are given"))
                }
                _ => Ok(()),
            };
        };
        for path in [&tls.ca, &tls.certificate, &tls.key].into_iter().flatten() {
            readable(path)?;
        }
        if listens.is_none() && connects.is_none() {
            return Err(ConfigError::UnusedTls);
        }
        match (&tls.certificate, &tls.key) {
            (Some(_), None) => return half("the certificate has no private key beside it".into()),
            (None, Some(_)) => return half("the private key has no certificate beside it".into()),
            (None, None) if tls.mutual => {
                return half("mutual TLS needs a certificate and its private key for this node".into());
            }
            (None, None) => {
                if let Some(endpoint) = listens {
                    return half(format!(
                        "listening on `{endpoint}` needs a certificate and its private key"
                    ));
                }
            }
            (Some(_), Some(_)) => {}
        }
        if tls.ca.is_none() && (connects.is_some() || tls.mutual) {
            return half(
                "the authority's certificate (CA) is missing, which others' are checked against".into(),
            );
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> serde_json::Value {
    u64::try_from(duration.as_millis()).expect("a few seconds").into()
}

/// A file's configuration as Zenoh reads it, and what the file itself says.
fn from_file(path: &Path) -> Result<(zenoh::Config, serde_json::Value), ConfigError> {
    let refused = |reason: String| ConfigError::Zenoh { of: format!(" of {}", path.display()), reason };
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
    let config = zenoh::Config::from_json5(&text).map_err(|error| refused(error.to_string()))?;
    let said = json5::from_str(&text).map_err(|error| refused(error.to_string()))?;
    Ok((config, said))
}

/// Whether a document says anything at a path.
fn says(document: &serde_json::Value, path: &str) -> bool {
    let mut at = document;
    for member in path.split('/') {
        match at {
            serde_json::Value::Object(members) => match members.get(member) {
                Some(value) => at = value,
                None => return false,
            },
            serde_json::Value::Null => return false,
            _ => return true,
        }
    }
    true
}

/// All texts within a value: endpoints may be given for each mode.
fn texts(value: &serde_json::Value, out: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => out.push(text.clone()),
        serde_json::Value::Array(values) => values.iter().for_each(|value| texts(value, out)),
        serde_json::Value::Object(members) => members.values().for_each(|value| texts(value, out)),
        _ => {}
    }
}

fn readable(path: &Path) -> Result<(), ConfigError> {
    std::fs::File::open(path).map(drop).map_err(|source| ConfigError::File { path: path.to_owned(), source })
}

fn protocol(endpoint: &str) -> &str {
    endpoint.split('/').next().unwrap_or_default()
}

fn is_tls(endpoint: &str) -> bool {
    matches!(protocol(endpoint), "tls" | "quic")
}

/// Whether what goes over the endpoint can be read by others on the way.
fn is_remote_plaintext(endpoint: &str) -> bool {
    if is_tls(endpoint) || protocol(endpoint).starts_with("unix") {
        return false;
    }
    let address = endpoint.split('/').nth(1).unwrap_or_default();
    let address = address.split(['?', '#']).next().unwrap_or_default();
    let loopback = match address.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
    };
    !loopback
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(options: &ZenohOptions) -> String {
        options.config().expect_err("refused").to_string()
    }

    #[test]
    fn a_peer_and_a_client_and_none_are_taken() {
        ZenohOptions::embedded().config().expect("nothing is asked for");
        ZenohOptions::peer(&["tcp/127.0.0.1:0"], &["tcp/10.0.0.1:7447"])
            .config()
            .expect("explicit endpoints");
        ZenohOptions::client("tcp/router.example:7447").config().expect("a router is named");
        ZenohOptions::peer(&["unixsock-stream//tmp/a.sock"], &[]).config().expect("a Unix socket is local");
    }

    #[test]
    fn what_others_could_read_is_refused_unless_it_is_allowed() {
        for endpoint in ["tcp/0.0.0.0:7447", "tcp/[::]:7447", "tcp/10.0.0.1:7447", "udp/0.0.0.0:1"] {
            let mut options = ZenohOptions::peer(&[endpoint], &[]);
            assert!(refused(&options).contains("nothing on it is encrypted"), "{endpoint}");
            options.allow_plaintext_remote = true;
            options.config().expect("allowed");
        }
        ZenohOptions::peer(&["tcp/localhost:0", "tcp/[::1]:0"], &[]).config().expect("loopback");
    }

    #[test]
    fn half_a_protection_is_refused_with_what_is_missing() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let some = || Some(file.path().to_owned());
        let listen =
            |tls: Option<Tls>| ZenohOptions { tls, ..ZenohOptions::peer(&["tls/0.0.0.0:7447"], &[]) };
        assert!(refused(&listen(None)).contains("needs certificates"));
        assert!(refused(&listen(Some(Tls::default()))).contains("needs a certificate and its private key"));
        let only_certificate = Tls { certificate: some(), ..Tls::default() };
        assert!(refused(&listen(Some(only_certificate))).contains("no private key beside it"));
        let only_key = Tls { key: some(), ..Tls::default() };
        assert!(refused(&listen(Some(only_key))).contains("no certificate beside it"));
        let no_ca = Tls { certificate: some(), key: some(), mutual: true, ..Tls::default() };
        assert!(refused(&listen(Some(no_ca))).contains("(CA) is missing"));
        let nowhere = Tls { ca: Some("/nowhere/ca.pem".into()), ..Tls::default() };
        assert!(refused(&listen(Some(nowhere))).contains("/nowhere/ca.pem can't be read"));
        let unused = ZenohOptions {
            tls: Some(Tls { ca: some(), ..Tls::default() }),
            ..ZenohOptions::peer(&["tcp/127.0.0.1:0"], &[])
        };
        assert!(refused(&unused).contains("nothing would be encrypted"));
        let user = UserPassword { user: "edge".into(), password: String::new() };
        let half = ZenohOptions { user: Some(user), ..ZenohOptions::embedded() };
        assert!(refused(&half).contains("belong together"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let client = ZenohOptions { role: Role::Client, ..ZenohOptions::embedded() };
        assert!(refused(&client).contains("name one"));
        let listening =
            ZenohOptions { listen: vec!["tcp/127.0.0.1:1".into()], ..ZenohOptions::client("tcp/a:1") };
        assert!(refused(&listening).contains("doesn't listen"));
        assert!(refused(&ZenohOptions::peer(&[], &["10.0.0.1:7447"])).contains("isn't a Zenoh endpoint"));
        let mut file = tempfile::NamedTempFile::with_suffix(".json5").expect("a temporary file");
        std::io::Write::write_all(&mut file, b"{ no such }").expect("written");
        let wrong = ZenohOptions { file: Some(file.path().to_owned()), ..ZenohOptions::embedded() };
        assert!(refused(&wrong).contains("Zenoh doesn't take the configuration of"));
    }

    #[test]
    fn what_a_file_does_not_say_is_as_without_one_and_its_endpoints_are_looked_at_too() {
        let with = |text: &str| {
            let mut file = tempfile::NamedTempFile::with_suffix(".json5").expect("a temporary file");
            std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
            let options = ZenohOptions { file: Some(file.path().to_owned()), ..ZenohOptions::embedded() };
            (options.config(), file)
        };
        let (config, _file) = with("{ scouting: { gossip: { enabled: true } } }");
        let config = config.expect("taken");
        let said = |key: &str| config.get_json(key).expect("there");
        assert_eq!(said("scouting/gossip/enabled"), "true");
        assert_eq!(said("scouting/multicast/enabled"), "false");
        assert_eq!(said("transport/link/tx/lease"), "3000");
        assert_eq!(said("listen/endpoints"), "[]");
        let (remote, _file) = with("{ listen: { endpoints: { peer: ['tcp/0.0.0.0:7447'] } } }");
        assert!(remote.expect_err("refused").to_string().contains("nothing on it is encrypted"));
    }
}
