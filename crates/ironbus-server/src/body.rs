//! Reading a request's body: bounded in size and time, of a known content type, and strict JSON.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::request::Parts;
use http::{StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::{App, Problem};

/// The content type of a request, without its parameters, in lower case.
pub(crate) fn content_type(parts: &Parts) -> Option<String> {
    let value = parts.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Refuses any content type but those of `known`.
pub(crate) fn expect_type(parts: &Parts, known: &[&str]) -> Result<String, Problem> {
    let given = content_type(parts);
    if let Some(given) = given.as_deref().filter(|given| known.contains(given)) {
        return Ok(given.to_owned());
    }
    let given = given.map_or_else(|| "no content type".to_owned(), |given| format!("`{given}`"));
    let detail = format!("the request has {given}; send the body as {}", known.join(" or "));
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "content-type",
        "The content type isn't understood",
        detail,
    ))
}

/// Reads the whole body.
pub(crate) async fn read(app: &App, body: Body) -> Result<Bytes, Problem> {
    let limit = app.options.max_body_bytes;
    let patience: Duration = app.options.request_timeout;
    let collected = tokio::time::timeout(patience, Limited::new(body, limit).collect());
    match collected.await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "The body is too large",
            format!("the body has more than {limit} bytes; split the batch"),
        )
        .with("limit", limit)),
        Ok(Err(error)) => {
            Err(Problem::bad_request("body", format!("the body could not be read to its end: {error}")))
        }
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body-timeout",
            "The body took too long",
            format!("the body didn't arrive within {} s; send it again", patience.as_secs_f32()),
        )),
    }
}

/// Reads JSON; says where it is wrong by path, line and column.
pub(crate) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!("at `{path}`: ") };
        Problem::bad_request("invalid-json", format!("{place}{}", error.into_inner()))
    })?;
    deserializer
        .end()
        .map_err(|error| Problem::bad_request("invalid-json", format!("after the JSON document: {error}")))?;
    Ok(value)
}
