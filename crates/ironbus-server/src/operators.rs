//! Who may take steps of the log's migration. Whoever can read can't do so for that alone.

use http::StatusCode;
use http::request::Parts;
use ironbus::Entitlement;

use crate::routes::entitlement;
use crate::{App, Problem};

/// Who may take steps of the log's migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operators {
    /// Whoever reaches the server: for one on loopback that knows no operators.
    Everybody,
    /// Whoever is entitled to everything, as one with the operator's token is. The default.
    #[default]
    Entitled,
}

impl Operators {
    /// Refuses a request that doesn't come from an operator.
    pub(crate) fn check(self, app: &App, request: &Parts) -> Result<(), Problem> {
        let entitlement = entitlement(app, request)?;
        if self == Self::Everybody || entitlement == Entitlement::Everything {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "operators-only",
            "Only operators take steps of the migration",
            "send the operator's token as `Authorization: Bearer …`; a server has one by `ironbus serve \
             --operator-token` or IRONBUS_OPERATOR_TOKEN",
        ))
    }
}
