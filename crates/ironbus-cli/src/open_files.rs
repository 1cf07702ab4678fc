//! How many connections the limit on open files leaves room for.

use std::num::NonZeroUsize;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many are served at the same time where nothing is said.
const CONNECTIONS: usize = 16_384;

/// What else a node opens: its log, the connections to other nodes, and what the runtime needs.
const OTHERS: usize = 128;

/// How many connections to serve at the same time: as many as are `wanted`, as far as files may be open. The soft limit
/// is raised as far as the system lets a process raise it itself.
pub(crate) fn connections(wanted: Option<NonZeroUsize>) -> usize {
    let count = wanted.map_or(CONNECTIONS, NonZeroUsize::get);
    let most = raise(count.saturating_add(OTHERS));
    let room = most.saturating_sub(OTHERS).max(1);
    if room >= count {
        return count;
    }
    if wanted.is_some() {
        tracing::warn!(
            "at most {most} files may be open, so {room} connections are served at the same time instead of {count}; \
             raise the hard limit (`ulimit -Hn`, LimitNOFILE= in a unit of systemd)"
        );
    }
    room
}

/// How many files may be open, once the soft limit is raised towards `needed`.
pub(crate) fn raise(needed: usize) -> usize {
    let count =
        |limit: Option<u64>| limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if count(current) >= needed {
        return count(current);
    }
    // No further than is needed: not every system takes its own hard limit for a soft one.
    let wanted = needed.min(count(maximum));
    match setrlimit(Resource::Nofile, Rlimit { current: u64::try_from(wanted).ok(), maximum }) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::debug!(%error, "the limit on open files can't be raised");
            count(current)
        }
    }
}
