//! One file for each command.

pub(crate) mod append;
pub(crate) mod completions;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod load;
pub(crate) mod read;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod tail;
pub(crate) mod verify;
