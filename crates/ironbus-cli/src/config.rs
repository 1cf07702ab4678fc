//! `ironbus.toml`, and which setting counts: flag, then environment, then file, then default.
//!
//! The file is `./ironbus.toml` where there is one, or what `--config` names. Relative paths in it are
//! relative to the file. An unknown key is an error, because a misspelt one would be a setting lost.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ironbus::{LogPlace, MigrationOptions};
use serde::Deserialize;

use crate::failure::Failure;
use crate::network::Zenoh;
use crate::secrets::Secret;

/// The file that is read when none is named.
const FILE: &str = "ironbus.toml";

/// The port that nobody has to name.
pub(crate) const PORT: u16 = 4466;

/// Where a server listens by default.
pub(crate) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);

/// The server that commands talk to by default.
pub(crate) const URL: &str = "http://127.0.0.1:4466";

/// The data directory of a server by default.
const DATA: &str = "./ironbus-data";

/// What a configuration file may say.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) log: Option<String>,
    pub(crate) serve: Serve,
    pub(crate) client: Client,
    pub(crate) zenoh: Zenoh,
}

/// The section `[serve]`: the server.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Serve {
    pub(crate) data: Option<PathBuf>,
    pub(crate) log_at: Option<LogPlace>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) durability: Option<Durability>,
    pub(crate) operator_token: Option<String>,
    pub(crate) session_secrets: Vec<Secret>,
    pub(crate) session_secret_file: Option<PathBuf>,
    pub(crate) cors_origins: Vec<String>,
    pub(crate) allow_plaintext_remote: bool,
    pub(crate) max_connections: Option<NonZeroUsize>,
    pub(crate) migration: Migration,
}

impl Serve {
    /// Where the log is: as the command line says, else the file, else the default.
    pub(crate) fn data(&self, given: Option<PathBuf>) -> PathBuf {
        given.or_else(|| self.data.clone()).unwrap_or_else(|| DATA.into())
    }
}

/// The section `[serve.migration]`: what is too much for one process, and what counts as parity of both
/// buses.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Migration {
    pub(crate) sse_clients: Option<u64>,
    pub(crate) events_per_second: Option<u64>,
    pub(crate) sustained_seconds: Option<NonZeroU32>,
    pub(crate) nodes: Option<u64>,
    pub(crate) foreign_subscribers: Option<u64>,
    pub(crate) parity_seconds: Option<NonZeroU32>,
    pub(crate) parity_events: Option<u64>,
}

impl From<&Migration> for MigrationOptions {
    fn from(file: &Migration) -> Self {
        let mut options = Self::default();
        let seconds = |seconds: NonZeroU32| Duration::from_secs(seconds.get().into());
        let (thresholds, parity) = (&mut options.thresholds, &mut options.parity);
        thresholds.sse_clients = file.sse_clients.unwrap_or(thresholds.sse_clients);
        thresholds.events_per_second = file.events_per_second.unwrap_or(thresholds.events_per_second);
        thresholds.sustained_over = file.sustained_seconds.map_or(thresholds.sustained_over, seconds);
        thresholds.nodes = file.nodes.unwrap_or(thresholds.nodes);
        thresholds.foreign_subscribers = file.foreign_subscribers.unwrap_or(thresholds.foreign_subscribers);
        parity.window = file.parity_seconds.map_or(parity.window, seconds);
        parity.min_events = file.parity_events.unwrap_or(parity.min_events);
        options
    }
}

/// The section `[client]`: where all other commands find the log.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Client {
    pub(crate) url: Option<String>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) token: Option<String>,
}

/// When an append counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    /// After a sync of the disk: what is acknowledged survives a power cut
    Full,
    /// After a write: what is acknowledged survives a crash of the process, but the last of it may be
    /// lost in a power cut
    Normal,
}

impl From<Durability> for ironbus::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Full => Self::Full,
            Durability::Normal => Self::Normal,
        }
    }
}

impl Config {
    /// Reads the file that is named, or `./ironbus.toml` if it exists.
    pub(crate) fn read(named: Option<&Path>) -> Result<Self, Failure> {
        let path = named.unwrap_or(Path::new(FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                let message = format!("the configuration {} can't be read: {error}", path.display());
                return Err(Failure::usage(message));
            }
        };
        let mut config =
            Self::parse(&text).map_err(|wrong| Failure::usage(format!("{}{wrong}", path.display())))?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let serve = &mut config.serve;
        let paths = [&mut serve.data, &mut serve.session_secret_file, &mut config.client.data];
        for path in paths.into_iter().flatten().chain(config.zenoh.files()) {
            *path = directory.join(&*path);
        }
        Ok(config)
    }

    /// Reads the text of a file. The error begins with the line: `:3: serve.listen: …`.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |key: &str, error: &toml::de::Error| {
            let line = error.span().map_or(1, |span| {
                let before = text.get(..span.start).unwrap_or(text);
                before.matches('\n').count() + 1
            });
            let key = if key.is_empty() || key == "." { String::new() } else { format!("{key}: ") };
            format!(":{line}: {key}{}", error.message().trim_end())
        };
        let document = toml::Deserializer::parse(text).map_err(|error| wrong("", &error))?;
        let config: Self = serde_path_to_error::deserialize(document)
            .map_err(|error| wrong(&error.path().to_string(), error.inner()))?;
        if config.client.url.is_some() && config.client.data.is_some() {
            return Err(": client: `url` and `data` exclude each other; keep one of them".into());
        }
        if !config.serve.session_secrets.is_empty() && config.serve.session_secret_file.is_some() {
            let keys = "`session_secrets` and `session_secret_file`";
            return Err(format!(": serve: {keys} exclude each other; keep one of them"));
        }
        Ok(config)
    }
}

/// Where a command finds the log.
#[derive(Debug, PartialEq)]
pub(crate) enum Target {
    /// A server at this URL.
    Server {
        url: String,
        /// Whether somebody named it; else it is only the default.
        named: bool,
    },
    /// A data directory, straight.
    Data(PathBuf),
}

impl Target {
    /// The flag decides, then `IRONBUS_URL`, then the file; else it is the server at the default URL.
    ///
    /// `IRONBUS_DATA` says where the log of a server is and doesn't count here: it would turn the
    /// clients of a server away from it wherever both share an environment.
    pub(crate) fn choose(
        url_flag: Option<&str>,
        data_flag: Option<&Path>,
        url_env: Option<&str>,
        file: &Client,
    ) -> Self {
        let server = |url: &str| Self::Server { url: url.to_owned(), named: true };
        if let Some(data) = data_flag {
            return Self::Data(data.to_owned());
        }
        if let Some(url) = url_flag.or(url_env) {
            return server(url);
        }
        match (&file.url, &file.data) {
            (_, Some(data)) => Self::Data(data.clone()),
            (Some(url), None) => server(url),
            (None, None) => Self::Server { url: URL.to_owned(), named: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        Config::parse(text).expect_err("refused")
    }

    #[test]
    fn a_whole_file_is_understood() {
        let config = Config::parse(
            r#"
            log = "debug"
            [serve]
            data = "here"
            listen = "127.0.0.1:1"
            durability = "normal"
            operator_token = "t"
            session_secrets = ["the newer one, which signs, of 32 bytes", "an older one, which verifies yet"]
            cors_origins = ["https://a.example"]
            allow_plaintext_remote = true
            [serve.migration]
            sse_clients = 50
            parity_seconds = 5
            [client]
            url = "http://127.0.0.1:2"
            token = "u"
            "#,
        )
        .expect("valid");
        assert_eq!(config.serve.durability, Some(Durability::Normal));
        assert_eq!(config.serve.listen, "127.0.0.1:1".parse().ok());
        assert_eq!(config.serve.session_secrets.len(), 2);
        let migration = MigrationOptions::from(&config.serve.migration);
        assert_eq!((migration.thresholds.sse_clients, migration.thresholds.events_per_second), (50, 800));
        assert_eq!(migration.parity.window, Duration::from_secs(5));
        assert_eq!(config.client.token.as_deref(), Some("u"));
        assert_eq!(Config::parse("").expect("valid"), Config::default());
    }

    #[test]
    fn errors_name_the_line_and_the_key() {
        let said = wrong("log = \"info\"\n[serve]\nlisten = \"nowhere\"\n");
        assert!(said.starts_with(":3: serve.listen: invalid socket address"), "{said}");
        let said = wrong("[serve]\n\nlisen = \"127.0.0.1:1\"\n");
        assert!(said.starts_with(":3: serve.lisen: unknown field `lisen`"), "{said}");
        let said = wrong("[serve]\ndurability = \"some\"\n");
        assert!(said.starts_with(":2: serve.durability: unknown variant `some`"), "{said}");
        let short =
            "[serve]\nsession_secrets = [\n  \"0123456789abcdef0123456789abcdef\",\n  \"secret\",\n]\n";
        let said = wrong(short);
        assert!(
            said.starts_with(":2: serve.session_secrets[1]: a secret of 6 bytes can be guessed"),
            "{said}"
        );
        let said = wrong("[client]\nurl = 7\n");
        assert!(said.starts_with(":2: client.url: invalid type"), "{said}");
        let said = wrong("[serve\n");
        assert!(said.starts_with(":1: "), "{said}");
        let said = wrong("[client]\nurl = \"a\"\ndata = \"b\"\n");
        assert!(said.contains("exclude each other"), "{said}");
        let secrets = "session_secrets = [\"0123456789abcdef0123456789abcdef\"]";
        let said = wrong(&format!("[serve]\n{secrets}\nsession_secret_file = \"f\"\n"));
        assert!(said.starts_with(": serve: `session_secrets` and"), "{said}");
    }

    #[test]
    fn the_flag_decides_then_the_environment_then_the_file() {
        let file = Client { url: Some("file".into()), ..Client::default() };
        let none = Client::default();
        let server = |url: &str, named| Target::Server { url: url.into(), named };
        let data = Path::new("d");
        assert_eq!(Target::choose(Some("flag"), None, Some("env"), &file), server("flag", true));
        assert_eq!(Target::choose(None, Some(data), Some("env"), &file), Target::Data("d".into()));
        assert_eq!(Target::choose(None, None, Some("env"), &file), server("env", true));
        assert_eq!(Target::choose(None, None, None, &file), server("file", true));
        assert_eq!(Target::choose(None, None, None, &none), server(URL, false));
        let file = Client { data: Some("f".into()), ..Client::default() };
        assert_eq!(Target::choose(None, None, None, &file), Target::Data("f".into()));
        assert_eq!(Target::choose(None, None, Some("env"), &file), server("env", true));
    }
}
