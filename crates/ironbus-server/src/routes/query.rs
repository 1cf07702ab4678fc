//! Queries and what they mean: strict, with errors that say what is possible.

use std::time::SystemTime;

use axum::extract::{FromRequestParts, Query};
use http::StatusCode;
use http::request::Parts;
use ironbus::{Entitlement, EventFilter, KeyPattern};
use serde::de::DeserializeOwned;

use crate::{App, Denied, Grant, Problem, SessionTokens};

/// The most events that one page may hold.
pub(super) const MOST: usize = 10_000;

/// The events of a page where the query doesn't say how many.
const USUAL: usize = 1000;

/// The query of a request; an unknown or malformed parameter is refused by name.
pub(super) struct Strict<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Strict<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Query::<T>::try_from_uri(&parts.uri).map(|Query(query)| Self(query)).map_err(|error| {
            let said = error.body_text();
            let said = said.strip_prefix("Failed to deserialize query string: ").unwrap_or(&said);
            let detail = format!("in the query, {said}; /openapi.json says what it takes");
            Problem::bad_request("invalid-query", detail)
        })
    }
}

/// The page size that a query asks for.
pub(super) fn page_size(limit: Option<usize>) -> Result<usize, Problem> {
    match limit {
        None => Ok(USUAL),
        Some(limit) if (1..=MOST).contains(&limit) => Ok(limit),
        Some(limit) => Err(Problem::bad_request(
            "invalid-query",
            format!("`limit` is {limit}; it must be from 1 to {MOST}"),
        )),
    }
}

/// What the request may see of session-scoped events, and until when.
fn grant(app: &App, parts: &Parts) -> Result<Grant, Problem> {
    app.options.access.grant(parts).map_err(|denied| {
        let kind = match denied {
            Denied::Unknown => "credentials",
            Denied::Malformed => "token-malformed",
            Denied::Forged => "token-forged",
            Denied::Expired => "token-expired",
        };
        Problem::new(StatusCode::UNAUTHORIZED, kind, "The credentials aren't valid", denied.to_string())
    })
}

/// What the request may see of session-scoped events.
pub(crate) fn entitlement(app: &App, parts: &Parts) -> Result<Entitlement, Problem> {
    Ok(grant(app, parts)?.entitlement)
}

/// The pattern of a query: all events, where it has none.
pub(super) fn pattern(text: Option<&str>) -> Result<KeyPattern, Problem> {
    Ok(text.map(KeyPattern::parse).transpose()?.unwrap_or_else(KeyPattern::everything))
}

/// The filter for a pattern and what the request may see, and until when it may.
pub(super) fn filter(
    app: &App,
    parts: &Parts,
    pattern: KeyPattern,
) -> Result<(EventFilter, Option<SystemTime>), Problem> {
    let Grant { entitlement, until } = grant(app, parts)?;
    if let Some(session) = pattern.only_session()
        && !entitlement.allows(Some(&session))
    {
        let detail = format!(
            "the events of session `{}` are shown only to those entitled to it, which this request isn't; send a \
             token of that session in the cookie `{}` or as `Authorization: Bearer …`",
            session.as_str(),
            SessionTokens::COOKIE,
        );
        return Err(Problem::new(StatusCode::FORBIDDEN, "session", "Not entitled to this session", detail));
    }
    Ok((EventFilter::public(pattern).entitled(entitlement), until))
}
