//! Session tokens: signed by a secret that the application shares, so that no look-up is needed.
//!
//! ```text
//! ibs1.{session}.{expiry}.{signature}
//! ```
//!
//! `session` is the session's id in base64url without padding, `expiry` is in whole seconds since 1970,
//! `signature` is HMAC-SHA256 over all that stands before its point, in base64url without padding. So a
//! token fits into a cookie and a header as it is, and an application in any language signs its own with
//! its standard library: that is why it is HMAC-SHA256, and not the keyed BLAKE3 that is here already.
//!
//! Invariants: nothing of a token is believed before its signature was checked, in constant time; a token
//! is worth nothing from its expiry on. It can't be taken back earlier but with its secret.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, Mac};
use http::request::Parts;
use http::{HeaderMap, header};
use ironbus::{Entitlement, SessionId};
use sha2::{Digest, Sha256};

use super::{Access, Denied, Grant, bearer};

/// What every token begins with. Another form gets another number.
const VERSION: &str = "ibs1";

/// A secret that signs session tokens.
#[derive(Clone)]
pub struct SessionSecret(Hmac<Sha256>);

/// A secret that is too short to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a secret of {bytes} bytes can be guessed; at least {} are needed (`openssl rand -base64 32` makes one)",
    SessionSecret::MIN_BYTES
)]
pub struct ShortSecret {
    /// How long it is.
    pub bytes: usize,
}

impl SessionSecret {
    /// The shortest secret, in bytes.
    pub const MIN_BYTES: usize = 32;

    /// These bytes as a secret.
    ///
    /// # Errors
    ///
    /// [`ShortSecret`] when there are fewer than [`Self::MIN_BYTES`].
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, ShortSecret> {
        let secret = secret.as_ref();
        if secret.len() < Self::MIN_BYTES {
            return Err(ShortSecret { bytes: secret.len() });
        }
        Ok(Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length")))
    }

    fn mac(&self, signed: &str) -> Hmac<Sha256> {
        self.0.clone().chain_update(signed)
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret(…)")
    }
}

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionToken {
    /// Whose session it is.
    pub session_id: SessionId,
    /// From when on the token is worth nothing.
    pub expires: SystemTime,
}

/// Whoever sends the token of a session sees that session's events beside what is public: as
/// `Authorization: Bearer …`, else as the cookie [`SessionTokens::COOKIE`].
///
/// ```
/// use std::time::Duration;
/// use ironbus::SessionId;
/// use ironbus_server::{SessionSecret, SessionTokens};
///
/// let tokens = SessionTokens::new(SessionSecret::new("32 random bytes, shared by all nodes")?);
/// let token = tokens.mint(&SessionId::new("s1")?, Duration::from_secs(3600));
/// assert_eq!(tokens.verify(&token)?.session_id.as_str(), "s1");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SessionTokens {
    /// The first signs, all verify.
    secrets: Vec<SessionSecret>,
}

impl SessionTokens {
    /// The name of the cookie that may hold a token. Where a request has several of this name, the first
    /// counts: browsers put the one for the narrowest path there.
    pub const COOKIE: &str = "ironbus_session";

    /// Tokens signed by this secret.
    #[must_use]
    pub fn new(secret: SessionSecret) -> Self {
        Self { secrets: vec![secret] }
    }

    /// The same, which also takes tokens signed by an earlier secret, so that secrets can be changed
    /// without a session noticing: keep the old one until its last token has expired.
    #[must_use]
    pub fn and_earlier(mut self, secret: SessionSecret) -> Self {
        self.secrets.push(secret);
        self
    }

    /// A token of this session that expires after `ttl`, rounded up to a whole second.
    #[must_use]
    pub fn mint(&self, session_id: &SessionId, ttl: Duration) -> String {
        let expires = since_1970(SystemTime::now()).saturating_add(ttl);
        self.sign(session_id, expires.as_secs().saturating_add(u64::from(expires.subsec_nanos() > 0)))
    }

    fn sign(&self, session_id: &SessionId, expiry: u64) -> String {
        let signed = format!("{VERSION}.{}.{expiry}", BASE64.encode(session_id.as_str()));
        let signature = self.secrets[0].mac(&signed).finalize().into_bytes();
        format!("{signed}.{}", BASE64.encode(signature))
    }

    /// What a token says.
    ///
    /// # Errors
    ///
    /// [`Denied`] when the token isn't valid, or isn't any more.
    pub fn verify(&self, token: &str) -> Result<SessionToken, Denied> {
        self.verify_at(token, SystemTime::now())
    }

    fn verify_at(&self, token: &str, now: SystemTime) -> Result<SessionToken, Denied> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Denied::Malformed)?;
        let mut parts = signed.split('.');
        let (Some(VERSION), Some(session), Some(expiry), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Denied::Malformed);
        };
        let signature = BASE64.decode(signature).ok().filter(|bytes| bytes.len() == Sha256::output_size());
        let signature = signature.ok_or(Denied::Malformed)?;
        // Compares in constant time.
        if !self.secrets.iter().any(|secret| secret.mac(signed).verify_slice(&signature).is_ok()) {
            return Err(Denied::Forged);
        }
        // Whoever has a secret may still have written nonsense.
        let session = BASE64.decode(session).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let session_id = session.and_then(|id| SessionId::new(id).ok()).ok_or(Denied::Malformed)?;
        let expires = expiry
            .parse()
            .ok()
            .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
            .ok_or(Denied::Malformed)?;
        if now >= expires { Err(Denied::Expired) } else { Ok(SessionToken { session_id, expires }) }
    }

    /// What the token of a request says; `None` where the request has none.
    ///
    /// # Errors
    ///
    /// [`Denied`] when its token isn't valid, or isn't any more. `Authorization` counts more than the
    /// cookie, which a browser sends unasked.
    pub fn of_request(&self, headers: &HeaderMap) -> Result<Option<SessionToken>, Denied> {
        let token = match bearer(headers).transpose()? {
            Some(token) if token.starts_with(VERSION) => token,
            Some(_) => return Err(Denied::Unknown),
            None => match cookie(headers) {
                Some(token) => token,
                None => return Ok(None),
            },
        };
        self.verify(token).map(Some)
    }
}

impl Access for SessionTokens {
    fn grant(&self, request: &Parts) -> Result<Grant, Denied> {
        Ok(match self.of_request(&request.headers)? {
            Some(SessionToken { session_id, expires }) => {
                Grant { entitlement: Entitlement::session(session_id), until: Some(expires) }
            }
            None => Grant::default(),
        })
    }
}

/// The token in the first cookie of its name.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let texts = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == SessionTokens::COOKIE).map(|(_, value)| value)
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn secret(text: &str) -> SessionSecret {
        SessionSecret::new(text).expect("long enough")
    }

    fn session(id: &str) -> SessionId {
        SessionId::new(id).expect("valid")
    }

    fn tokens() -> SessionTokens {
        SessionTokens::new(secret(SECRET))
    }

    #[test]
    fn a_token_is_what_the_hmac_of_another_language_says() {
        // Made by Python's hmac, hashlib and base64, as the documentation tells to.
        let token = "ibs1.Y2Fmw6kvMQ.1893542400.2zzgJS5Q1QYTjsK_B6uEgm6zIL4-vDdULVF6zIVE3bo";
        assert_eq!(tokens().sign(&session("café/1"), 1_893_542_400), token);
        let says = SessionToken { session_id: session("café/1"), expires: at(1_893_542_400) };
        assert_eq!(tokens().verify_at(token, at(NOW)), Ok(says));
    }

    #[test]
    fn a_token_is_worth_nothing_from_its_expiry_on() {
        let token = tokens().sign(&session("s"), NOW);
        assert!(tokens().verify_at(&token, at(NOW) - Duration::from_nanos(1)).is_ok());
        assert_eq!(tokens().verify_at(&token, at(NOW)), Err(Denied::Expired));
        assert!(tokens().verify(&tokens().mint(&session("s"), Duration::from_millis(1))).is_ok());
        assert!(tokens().verify(&tokens().mint(&session("s"), Duration::MAX)).is_err(), "beyond all clocks");
    }

    #[test]
    fn what_is_not_a_token_is_told_from_what_is_signed_by_somebody_else() {
        let valid = tokens().sign(&session("s"), NOW + 1);
        let (signed, signature) = valid.rsplit_once('.').expect("it has points");
        let denied = |token: &str| tokens().verify_at(token, at(NOW)).expect_err(token);
        for token in
            ["", "ibs1", "ibs1...", signed, &format!("{valid}="), &format!("{valid}.x"), "ibs2.cw.1.cw"]
        {
            assert_eq!(denied(token), Denied::Malformed, "{token}");
        }
        for signed in ["ibs1.dA.1800000001", "ibs1.cw.1800000002", "ibs1.cw.01800000001"] {
            assert_eq!(denied(&format!("{signed}.{signature}")), Denied::Forged, "{signed}");
        }
        assert_eq!(denied(&format!("{signed}.{}", &signature[1..])), Denied::Malformed);
        let nonsense = |signed: &str| {
            let signature = secret(SECRET).mac(signed).finalize().into_bytes();
            denied(&format!("{signed}.{}", BASE64.encode(signature)))
        };
        for signed in ["ibs1..1800000001", "ibs1.cw==.1800000001", "ibs1._w.1800000001", "ibs1.cw.soon"] {
            assert_eq!(nonsense(signed), Denied::Malformed, "{signed}");
        }
        assert_eq!(nonsense("ibs1.cw.0"), Denied::Expired);
    }

    #[test]
    fn a_new_secret_signs_and_earlier_ones_are_still_taken() {
        let earlier = tokens();
        let changed =
            SessionTokens::new(secret("fedcba9876543210fedcba9876543210")).and_earlier(secret(SECRET));
        let [old, new] = [&earlier, &changed].map(|tokens| tokens.sign(&session("s"), NOW + 1));
        assert!(changed.verify_at(&old, at(NOW)).is_ok() && changed.verify_at(&new, at(NOW)).is_ok());
        assert_eq!(earlier.verify_at(&new, at(NOW)), Err(Denied::Forged));
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_refused_and_none_is_shown() {
        assert_eq!(SessionSecret::new("x".repeat(31)).expect_err("short"), ShortSecret { bytes: 31 });
        assert_eq!(format!("{:?}", tokens()), "SessionTokens { secrets: [SessionSecret(…)] }");
    }

    #[test]
    fn a_token_comes_by_the_header_or_else_by_the_first_cookie_of_its_name() {
        let [a, b] = ["a", "b"].map(|id| tokens().mint(&session(id), Duration::from_secs(60)));
        let asked = |headers: &[(&str, String)]| {
            let mut request = http::Request::builder();
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            let token = tokens().of_request(request.body(()).expect("valid").headers());
            token.map(|token| token.map(|token| token.session_id.as_str().to_owned()))
        };
        let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
        let cookie = |token: &str| ("cookie", format!("x=1; ironbus_session={token}; y=\"2\""));
        let of = |id: &str| Ok(Some(id.to_owned()));
        assert_eq!(asked(&[]), Ok(None));
        assert_eq!(asked(&[("cookie", "ironbus_sessions=1; other".into())]), Ok(None));
        assert_eq!(asked(&[bearer(&a)]), of("a"));
        assert_eq!(asked(&[cookie(&a)]), of("a"));
        assert_eq!(asked(&[cookie(&a), cookie(&b)]), of("a"));
        assert_eq!(asked(&[cookie("old"), bearer(&b)]), of("b"));
        assert_eq!(asked(&[cookie(&a), bearer("of an operator")]), Err(Denied::Unknown));
        assert_eq!(asked(&[cookie("old")]), Err(Denied::Malformed));
        assert_eq!(asked(&[("authorization", "Basic c2VjcmV0".into())]), Err(Denied::Unknown));
    }

    #[test]
    fn what_a_token_grants_ends_with_it() {
        let token = tokens().mint(&session("s"), Duration::from_secs(60));
        let request = http::Request::builder().header("authorization", format!("Bearer {token}"));
        let grant = tokens().grant(&request.body(()).expect("valid").into_parts().0).expect("valid");
        assert_eq!(grant.entitlement, Entitlement::session(session("s")));
        assert_eq!(grant.until, tokens().verify(&token).ok().map(|token| token.expires));
    }

    proptest! {
        #[test]
        fn every_session_survives_and_no_changed_token_does(
            id in "(?s)[^\0]{1,64}", expiry in NOW + 1..NOW << 8, at_index in any::<prop::sample::Index>(),
            other in "[!-~]",
        ) {
            let token = tokens().sign(&session(&id), expiry);
            prop_assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)));
            let says = SessionToken { session_id: session(&id), expires: at(expiry) };
            prop_assert_eq!(tokens().verify_at(&token, at(NOW)), Ok(says));
            let index = at_index.index(token.len());
            let changed = format!("{}{other}{}", &token[..index], &token[index + 1..]);
            if changed != token {
                let denied = tokens().verify_at(&changed, at(NOW));
                prop_assert!(matches!(denied, Err(Denied::Forged | Denied::Malformed)), "{:?}", denied);
            }
        }
    }
}
