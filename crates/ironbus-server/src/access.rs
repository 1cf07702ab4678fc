//! Which session-scoped events a request may see.
//!
//! An entitlement comes from the application: from a cookie or a token that it checks, never from what
//! the client asks for.

use std::fmt;

use http::request::Parts;
use ironbus::Entitlement;

/// Decides which session-scoped events a request may see.
pub trait Access: Send + Sync + 'static {
    /// The entitlement of whoever sent the request.
    ///
    /// # Errors
    ///
    /// [`Denied`] when the request carries credentials that aren't valid; it is answered with 401.
    fn entitlement(&self, request: &Parts) -> Result<Entitlement, Denied>;
}

/// The request's credentials aren't valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the credentials of this request aren't valid here")]
pub struct Denied;

/// Nobody sees session-scoped events. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublicAccess;

impl Access for PublicAccess {
    fn entitlement(&self, _request: &Parts) -> Result<Entitlement, Denied> {
        Ok(Entitlement::Public)
    }
}

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
    fn entitlement(&self, request: &Parts) -> Result<Entitlement, Denied> {
        let Some(header) = request.headers.get(http::header::AUTHORIZATION) else {
            return Ok(Entitlement::Public);
        };
        let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).ok_or(Denied)?;
        // Hashes are compared in constant time, so that the time taken tells nothing of the token.
        if blake3::hash(token.trim().as_bytes()) == self.0 {
            Ok(Entitlement::Everything)
        } else {
            Err(Denied)
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
            access.entitlement(&request.body(()).expect("valid").into_parts().0)
        };
        assert_eq!(entitlement(None), Ok(Entitlement::Public));
        assert_eq!(entitlement(Some("Bearer secret")), Ok(Entitlement::Everything));
        assert_eq!(entitlement(Some("Bearer wrong")), Err(Denied));
        assert_eq!(entitlement(Some("Basic c2VjcmV0")), Err(Denied));
    }
}
