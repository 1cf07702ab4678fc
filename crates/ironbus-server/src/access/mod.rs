//! Which session-scoped events a request may see.
//!
//! An entitlement comes from the application: from a cookie or a token that it checks, never from what
//! the client asks for. Credentials are read from headers alone, never from an address: addresses stand
//! in the logs of every proxy, in histories and in `Referer`s.

mod operator;
mod session_tokens;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use http::request::Parts;
use http::{HeaderMap, header};
use ironbus::Entitlement;

pub use operator::OperatorToken;
pub use session_tokens::{SessionSecret, SessionToken, SessionTokens, ShortSecret};

/// Decides which session-scoped events a request may see.
pub trait Access: Send + Sync + 'static {
    /// What is granted to whoever sent the request: [`Entitlement::Public`] where it carries no
    /// credentials that this knows.
    ///
    /// # Errors
    ///
    /// [`Denied`] when the request carries credentials that aren't valid; it is answered with 401.
    fn grant(&self, request: &Parts) -> Result<Grant, Denied>;
}

/// What a request may see, and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Which session-scoped events may be seen.
    pub entitlement: Entitlement,
    /// When that ends, if it does: a stream ends with it, so that its client comes again with new
    /// credentials.
    pub until: Option<SystemTime>,
}

/// Without an end.
impl From<Entitlement> for Grant {
    fn from(entitlement: Entitlement) -> Self {
        Self { entitlement, until: None }
    }
}

/// Why a request's credentials aren't valid. Tells nothing of what would be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// They are none that are known here.
    #[error(
        "the credentials of this request aren't valid here; send a valid token, or none to see what is public"
    )]
    Unknown,
    /// A session token that isn't written as one.
    #[error("the session token is damaged; send it as it was given, or get a new one")]
    Malformed,
    /// A session token with a signature that is by none of the secrets.
    #[error("the session token isn't signed by a secret of this server; get a new one")]
    Forged,
    /// A session token that was valid once.
    #[error("the session token has expired; get a new one and connect again")]
    Expired,
}

/// Nobody sees session-scoped events. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublicAccess;

impl Access for PublicAccess {
    fn grant(&self, _request: &Parts) -> Result<Grant, Denied> {
        Ok(Grant::default())
    }
}

/// Several accesses, asked in turn: the first that grants more than what is public decides. Where none
/// does, the request is denied if one of them denies it.
///
/// So an operator's token and session tokens, which both come as `Authorization: Bearer …`, work side by
/// side.
#[derive(Clone, Default)]
pub struct AnyAccess(Vec<Arc<dyn Access>>);

impl AnyAccess {
    /// These, asked in this order. None at all grants what is public.
    #[must_use]
    pub fn new(accesses: Vec<Arc<dyn Access>>) -> Self {
        Self(accesses)
    }
}

impl fmt::Debug for AnyAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnyAccess({} accesses)", self.0.len())
    }
}

impl Access for AnyAccess {
    fn grant(&self, request: &Parts) -> Result<Grant, Denied> {
        let mut denied = None;
        for access in &self.0 {
            match access.grant(request) {
                Ok(grant) if grant.entitlement != Entitlement::Public => return Ok(grant),
                Ok(_) => {}
                // Whoever knows what is wrong with the credentials says more than who doesn't know them.
                Err(reason) if denied.is_none_or(|before| before == Denied::Unknown) => denied = Some(reason),
                Err(_) => {}
            }
        }
        denied.map_or(Ok(Grant::default()), Err)
    }
}

/// The token of `Authorization: Bearer …`, if there is an `Authorization`.
fn bearer(headers: &HeaderMap) -> Option<Result<&str, Denied>> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok();
    let token = text.and_then(|text| text.strip_prefix("Bearer ")).map(str::trim);
    Some(token.ok_or(Denied::Unknown))
}

#[cfg(test)]
mod tests {
    use ironbus::SessionId;

    use super::*;

    /// Says the same of every request.
    struct Always(Result<Entitlement, Denied>);

    impl Access for Always {
        fn grant(&self, _request: &Parts) -> Result<Grant, Denied> {
            self.0.clone().map(Grant::from)
        }
    }

    #[test]
    fn the_first_access_that_grants_more_than_what_is_public_decides() {
        let session = Entitlement::session(SessionId::new("s").expect("valid"));
        let asked = |answers: &[Result<Entitlement, Denied>]| {
            let accesses = answers.iter().map(|answer| Arc::new(Always(answer.clone())) as _).collect();
            let request = http::Request::new(()).into_parts().0;
            AnyAccess::new(accesses).grant(&request).map(|grant| grant.entitlement)
        };
        let (public, everything) = (Ok(Entitlement::Public), Ok(Entitlement::Everything));
        assert_eq!(asked(&[]), public);
        assert_eq!(asked(&[public.clone(), Ok(session.clone()), everything.clone()]), Ok(session));
        assert_eq!(asked(&[Err(Denied::Expired), everything.clone()]), everything);
        assert_eq!(asked(&[Err(Denied::Unknown), public]), Err(Denied::Unknown));
        assert_eq!(asked(&[Err(Denied::Unknown), Err(Denied::Expired)]), Err(Denied::Expired));
        assert_eq!(asked(&[Err(Denied::Expired), Err(Denied::Unknown)]), Err(Denied::Expired));
    }
}
