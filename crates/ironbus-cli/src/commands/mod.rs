//! One file for each command.

pub(crate) mod append;
pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod load;
pub(crate) mod migrate;
pub(crate) mod promote;
pub(crate) mod read;
pub(crate) mod replica;
pub(crate) mod serve;
pub(crate) mod session_token;
pub(crate) mod status;
pub(crate) mod tail;
pub(crate) mod verify;
