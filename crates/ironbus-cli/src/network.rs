//! How a node reaches others: what the flags, the environment and `[zenoh]` in the file come to.

use std::path::PathBuf;

use ironbus_zenoh::{Role, Tls, UserPassword, ZenohOptions};
use serde::Deserialize;

use crate::args::Network;
use crate::failure::Failure;

/// The section `[zenoh]` of a configuration file.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Zenoh {
    pub(crate) name: Option<String>,
    pub(crate) listen: Vec<String>,
    pub(crate) connect: Vec<String>,
    pub(crate) client: bool,
    pub(crate) config: Option<PathBuf>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) mtls: bool,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) users: Option<PathBuf>,
}

impl Zenoh {
    /// The files that are named, which are relative to the configuration's own.
    pub(crate) fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.config, &mut self.ca, &mut self.cert, &mut self.key, &mut self.users].into_iter().flatten()
    }
}

/// The session that a node is to open; `None` where nothing of it is asked for.
pub(crate) fn options(
    args: &Network,
    file: &Zenoh,
    allow_plaintext_remote: bool,
) -> Result<Option<ZenohOptions>, Failure> {
    let either =
        |flag: &[String], file: &[String]| if flag.is_empty() { file.to_vec() } else { flag.to_vec() };
    let path = |flag: &Option<PathBuf>, file: &Option<PathBuf>| flag.clone().or_else(|| file.clone());
    let password = std::env::var("IRONBUS_ZENOH_PASSWORD").ok().or_else(|| file.password.clone());
    let user = match (args.zenoh_user.clone().or_else(|| file.user.clone()), password) {
        (None, None) => None,
        (user, password) => {
            Some(UserPassword { user: user.unwrap_or_default(), password: password.unwrap_or_default() })
        }
    };
    let tls = Tls {
        ca: path(&args.zenoh_ca, &file.ca),
        certificate: path(&args.zenoh_cert, &file.cert),
        key: path(&args.zenoh_key, &file.key),
        mutual: args.zenoh_mtls || file.mtls,
    };
    let options = ZenohOptions {
        role: if args.zenoh_client || file.client { Role::Client } else { Role::Peer },
        connect: either(&args.zenoh_connect, &file.connect),
        listen: either(&args.zenoh_listen, &file.listen),
        tls: (tls != Tls::default()).then_some(tls),
        user,
        users: path(&args.zenoh_users, &file.users),
        allow_plaintext_remote,
        file: path(&args.zenoh_config, &file.config),
    };
    let asked = options != ZenohOptions { allow_plaintext_remote, ..ZenohOptions::default() };
    if args.edge && options.connect.is_empty() && options.listen.is_empty() && options.file.is_none() {
        return Err(Failure::usage(
            "an edge node has no database and needs a store node: say where it is, for example \
             --connect tcp/10.0.0.1:7447",
        ));
    }
    // Checked before anything is opened.
    options.config().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(asked.then_some(options))
}

/// For whom an edge node waits, in words.
pub(crate) fn whom(options: &ZenohOptions) -> String {
    match options.connect.as_slice() {
        [] => "a store node to connect to it".to_owned(),
        endpoints => format!("a store node at {}", endpoints.join(" or ")),
    }
}

/// What the node is called.
pub(crate) fn name(args: &Network, file: &Zenoh) -> String {
    let machine = || {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = name.trim();
        format!("{}-{}", if name.is_empty() { "node" } else { name }, std::process::id())
    };
    args.name.clone().or_else(|| file.name.clone()).unwrap_or_else(machine)
}
