//! How a command ends when it doesn't end well: a message that says what to do, and an exit code that
//! scripts can use. The codes are part of the interface: they are documented in `--help` and never change.

use std::fmt::Display;
use std::process::ExitCode;

/// What `--help` says of exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, or the log is not sound, or a replica not complete
  2  the command line or the configuration is wrong
  3  conflict: another version than expected, an event id that is taken, or something in the way of a step
  4  the server or the log can't be reached or used now; try again later
  5  the events given can't be stored (a bad line, a long name, not JSON)
  6  the log isn't the one that was being read (it was replaced): begin anew";

/// Which kind of end it is; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Failed,
    Usage,
    Conflict,
    Unavailable,
    Input,
    Reset,
    /// Whoever read our output has enough: a good and quiet end.
    OutputClosed,
}

/// Why a command ends early.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Display) -> Self {
        Self { kind, message: message.to_string() }
    }

    pub(crate) fn failed(message: impl Display) -> Self {
        Self::new(Kind::Failed, message)
    }

    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn input(message: impl Display) -> Self {
        Self::new(Kind::Input, message)
    }

    /// Says what is wrong, where something is, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if self.kind != Kind::OutputClosed {
            eprintln!("error: {}", self.message);
        }
        ExitCode::from(match self.kind {
            Kind::OutputClosed => 0,
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Conflict => 3,
            Kind::Unavailable => 4,
            Kind::Input => 5,
            Kind::Reset => 6,
        })
    }
}

/// Writing to standard output failed.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(Kind::OutputClosed, "");
        }
        Self::failed(format!("the output can't be written: {error}"))
    }
}

impl From<ironbus::store::OpenError> for Failure {
    fn from(error: ironbus::store::OpenError) -> Self {
        use ironbus::store::OpenError;
        let kind = match &error {
            OpenError::Locked { .. } => Kind::Unavailable,
            OpenError::Io { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                let message = format!(
                    "there is no log at {}; `ironbus serve --data DIR` or `ironbus import FILE --data DIR` creates one",
                    path.display()
                );
                return Self::new(Kind::Unavailable, message);
            }
            _ => Kind::Failed,
        };
        Self::new(kind, error)
    }
}

impl From<ironbus::migration::StartError> for Failure {
    fn from(error: ironbus::migration::StartError) -> Self {
        use ironbus::migration::StartError;
        match error {
            StartError::Read(error) => error.into(),
            StartError::NoZenoh { .. } => Self::usage(error),
            other => Self::failed(other),
        }
    }
}

impl From<ironbus_zenoh::replica::ReplicaError> for Failure {
    fn from(error: ironbus_zenoh::replica::ReplicaError) -> Self {
        use ironbus_zenoh::replica::ReplicaError;
        let kind = match error {
            ReplicaError::NoSuchStorage { .. } | ReplicaError::Several { .. } => Kind::Usage,
            _ => Kind::Unavailable,
        };
        Self::new(kind, error)
    }
}

impl From<ironbus::ReadError> for Failure {
    fn from(error: ironbus::ReadError) -> Self {
        let kind = match error {
            ironbus::ReadError::Closed | ironbus::ReadError::Unavailable { .. } => Kind::Unavailable,
            _ => Kind::Failed,
        };
        Self::new(kind, error)
    }
}
