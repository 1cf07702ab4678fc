//! The operator's token: whoever has it sees everything.

use std::fmt;

use http::request::Parts;
use ironbus::Entitlement;

use super::{Access, Denied, Grant, bearer};

/// Whoever sends `Authorization: Bearer <token>` is an operator and sees everything; others see what is
/// public.
#[derive(Clone)]
pub struct OperatorToken(blake3::Hash);

impl OperatorToken {
    /// Access by this token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self(blake3::hash(token.as_bytes()))
    }
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorToken(…)")
    }
}

impl Access for OperatorToken {
    fn grant(&self, request: &Parts) -> Result<Grant, Denied> {
        let Some(token) = bearer(&request.headers).transpose()? else { return Ok(Grant::default()) };
        // Hashes are compared in constant time, so that the time taken tells nothing of the token.
        if blake3::hash(token.as_bytes()) == self.0 {
            Ok(Entitlement::Everything.into())
        } else {
            Err(Denied::Unknown)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_sees_everything() {
        let access = OperatorToken::new("secret");
        let entitlement = |header: Option<&str>| {
            let mut request = http::Request::builder();
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let request = request.body(()).expect("valid").into_parts().0;
            access.grant(&request).map(|grant| grant.entitlement)
        };
        assert_eq!(entitlement(None), Ok(Entitlement::Public));
        assert_eq!(entitlement(Some("Bearer secret")), Ok(Entitlement::Everything));
        assert_eq!(entitlement(Some("Bearer wrong")), Err(Denied::Unknown));
        assert_eq!(entitlement(Some("Basic c2VjcmV0")), Err(Denied::Unknown));
    }
}
