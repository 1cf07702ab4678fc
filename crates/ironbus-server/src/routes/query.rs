//! Queries and what they mean: strict, with errors that say what is possible.

use axum::extract::{FromRequestParts, Query};
use http::StatusCode;
use http::request::Parts;
use ironbus::{Entitlement, EventFilter, KeyPattern};
use serde::de::DeserializeOwned;

use crate::{App, Problem};

/// The most events that one page may hold.
pub(super) const MOST: usize = 10_000;

/// The events of a page where the query doesn't say how many.
const USUAL: usize = 1000;

/// The query of a request; an unknown or malformed parameter is refused by name.
pub(super) struct Strict<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Strict<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Query::<T>::try_from_uri(&parts.uri)
            .map(|Query(query)| Self(query))
            .map_err(|error| Problem::bad_request("invalid-query", error.body_text()))
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

/// What the request may see of session-scoped events.
pub(super) fn entitlement(app: &App, parts: &Parts) -> Result<Entitlement, Problem> {
    app.options.access.entitlement(parts).map_err(|denied| {
        let detail = format!("{denied}; send a valid token, or none to see what is public");
        Problem::new(StatusCode::UNAUTHORIZED, "credentials", "The credentials aren't valid", detail)
    })
}

/// The filter for a pattern (all events, where none is given) and what the request may see.
pub(super) fn filter(app: &App, parts: &Parts, pattern: Option<&str>) -> Result<EventFilter, Problem> {
    let pattern = match pattern {
        Some(pattern) => KeyPattern::parse(pattern)?,
        None => KeyPattern::everything(),
    };
    let filter = EventFilter::public(pattern).entitled(entitlement(app, parts)?);
    if let Some(session) = filter.pattern.only_session()
        && !filter.entitlement.allows(Some(session))
    {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "session",
            "Not entitled to this session",
            format!("the events of session `{}` are shown only to those entitled to it", session.as_str()),
        ));
    }
    Ok(filter)
}
