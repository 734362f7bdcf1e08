//! The bodies of requests: bounded in size, time and number, and strict.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::config::value;
use crate::limits::{ADMIN_BODY_BYTES_MAX, ADMIN_SMALL_BODY_BYTES, HTTP_HEADER_MAX};

use super::Admin;
use super::answer::Refused;

impl Admin {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// It is too large, too slow, or not what is expected.
    pub(super) async fn read<T: DeserializeOwned>(&self, headers: &HeaderMap, body: Body) -> Result<T, Refused> {
        parse(&self.read_bytes(headers, body).await?)
    }

    /// Reads the body of a request, if it has one.
    ///
    /// # Errors
    /// As [`Admin::read`].
    pub(super) async fn read_if_any<T>(&self, headers: &HeaderMap, body: Body) -> Result<Option<T>, Refused>
    where
        T: DeserializeOwned,
    {
        let bytes = self.read_bytes(headers, body).await?;
        if bytes.is_empty() { Ok(None) } else { parse(&bytes).map(Some) }
    }

    async fn read_bytes(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, Refused> {
        let length = headers.get("content-length").and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let read = async {
            if length.is_some_and(|length| length <= ADMIN_SMALL_BODY_BYTES) {
                return to_bytes(body, ADMIN_SMALL_BODY_BYTES).await;
            }
            // Never closed, so always to be had in the end.
            let _place = self.bodies.acquire().await;
            to_bytes(body, ADMIN_BODY_BYTES_MAX).await
        };
        if length.is_some_and(|length| length > ADMIN_BODY_BYTES_MAX) {
            return Err(too_large());
        }
        let bytes = timeout(HTTP_HEADER_MAX, read).await.map_err(|_| {
            let message = format!("the body did not come within {} s", HTTP_HEADER_MAX.as_secs());
            Refused::new(StatusCode::REQUEST_TIMEOUT, "timeout", message, "send it at once")
        })?;
        bytes.map_err(|_| too_large())
    }
}

/// The query of a request; unknown parts of it are errors.
#[derive(Clone, Debug)]
pub struct Query<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Query<T>, Refused> {
        let query = axum::extract::Query::try_from_uri(&parts.uri);
        query.map(|query| Query(query.0)).map_err(|rejection| {
            let cause = cause(&rejection);
            let hint = hint(&cause).unwrap_or_else(|| "docs/admin.md says what each query may have".to_owned());
            Refused::new(StatusCode::BAD_REQUEST, "bad_query", format!("the query is wrong: {cause}"), hint)
        })
    }
}

/// The names in a path, decoded.
#[derive(Clone, Debug)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Path<T>, Refused> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|path| Path(path.0)).map_err(|rejection| {
            let message = format!("the path cannot be read: {}", cause(&rejection));
            Refused::new(StatusCode::BAD_REQUEST, "bad_path", message, "names in paths are UTF-8, percent-encoded")
        })
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = error.to_string();
        let (code, rest) = match error.classify() {
            serde_json::error::Category::Data => ("bad_field", "docs/admin.md shows what each request may have"),
            _ if bytes.is_empty() => ("bad_json", "send a JSON object as the body; docs/admin.md has examples"),
            _ => ("bad_json", "the body is one JSON object; look at the line and column that are named"),
        };
        let hint = hint(&message).unwrap_or_else(|| rest.to_owned());
        Refused::new(StatusCode::BAD_REQUEST, code, format!("the body is wrong: {message}"), hint)
    })
}

/// Of "unknown field `wieght`, expected one of `name`, `weight`": what was probably meant.
fn hint(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("unknown field `")?;
    let (typed, rest) = rest.split_once('`')?;
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    Some(match value::nearest(typed, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("what may stand here: {}", known.join(", ")),
    })
}

/// The innermost reason, which is the one that says something.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn too_large() -> Refused {
    let message = format!("the body has more than {ADMIN_BODY_BYTES_MAX} bytes");
    Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message, "no set of backends needs so many")
}
