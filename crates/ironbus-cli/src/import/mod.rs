//! From a file to events: `line` understands one line, `source` reads lines from wherever they are,
//! `batch` gathers them into appends.

pub(crate) mod batch;
pub(crate) mod line;
pub(crate) mod source;
