//! The form of answers: JSON with the revision, or what is wrong and what to do.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_MATCH};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::balance::SetError;
use crate::config::notation::quoted;
use crate::config::{Problem, value};
use crate::control::overlay::EditError;
use crate::control::roster::Refusal;
use crate::control::wire::{Failure, Fault};

use super::Admin;

/// A request that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    status: StatusCode,
    fault: Fault,
}

impl Refused {
    /// With this status; `code` is for programs, `hint` says what to do.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Refused {
        Refused { status, fault: Fault { code: code.into(), message: message.into(), hint: hint.into() } }
    }

    /// A value that cannot be; `place` is where it stands.
    pub fn value(place: &str, problem: Problem) -> Refused {
        let message = format!("{place}: {}: {}", problem.what, problem.why);
        Refused::new(StatusCode::BAD_REQUEST, "bad_value", message, problem.help)
    }

    /// There is no `kind` of that name among `names`.
    pub fn unknown<'n>(kind: &str, name: &str, names: impl Iterator<Item = &'n str>) -> Refused {
        let names: Vec<&str> = names.collect();
        let code = if kind == "pool" { "no_such_pool" } else { "no_such_backend" };
        let hint = match value::nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean {}?", quoted(near)),
            None if names.is_empty() => format!("there is no {kind} at all"),
            None if names.len() <= 10 => format!("there are: {}", names.join(", ")),
            None => format!("there are {}; GET /v1/status lists them", names.len()),
        };
        Refused::new(StatusCode::NOT_FOUND, code, format!("there is no {kind} named {}", quoted(name)), hint)
    }

    /// Nothing is served at `path`.
    pub fn no_such_path<'n>(path: &str, paths: impl Iterator<Item = &'n str>) -> Refused {
        let hint = match value::nearest(path, paths) {
            Some(near) => format!("did you mean {near}?"),
            None => "docs/admin.md lists every path; slashes within names are written %2F".to_owned(),
        };
        Refused::new(StatusCode::NOT_FOUND, "no_such_path", format!("nothing is at {}", quoted(path)), hint)
    }

    /// Whether what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// `path` is served, but not so.
    pub fn no_such_method(method: &Method, path: &str) -> Refused {
        let message = format!("{method} says nothing to {}", quoted(path));
        let hint = "the header `allow` of this answer lists what does; docs/admin.md says what each does";
        Refused::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message, hint)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        respond(self.status, &Failure { error: self.fault }, None)
    }
}

/// Why a roster has refused an edit.
impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        let message = refusal.to_string();
        let (status, code, hint) = match refusal {
            Refusal::Edit(EditError::Unknown(_)) => {
                (StatusCode::NOT_FOUND, "no_such_backend", "GET the pool to see the names of its backends")
            }
            Refusal::Edit(EditError::Exists(_)) => {
                (StatusCode::CONFLICT, "exists", "choose another name, or change that one with PATCH or PUT")
            }
            Refusal::Edit(EditError::HostKind(..)) => (StatusCode::CONFLICT, "conflict", "choose another name"),
            Refusal::Edit(EditError::LookedUp(_)) => {
                (StatusCode::CONFLICT, "conflict", "remove it and add a backend with that address under another name")
            }
            Refusal::Edit(EditError::LeaseOfFile(_)) => {
                (StatusCode::CONFLICT, "conflict", "leave `ttl` out, or register under another name")
            }
            Refusal::Set(SetError::DuplicateName { .. }) | Refusal::Edit(EditError::Twice(_)) => {
                (StatusCode::CONFLICT, "exists", "give each backend of a pool a name of its own")
            }
            Refusal::Set(SetError::TooMany { .. }) => {
                (StatusCode::CONFLICT, "too_many", "spread the backends over several pools")
            }
            Refusal::Outdated { .. } => (
                StatusCode::PRECONDITION_FAILED,
                "revision",
                "somebody was faster: GET the pool, look at what has changed, and send the edit with its new ETag",
            ),
        };
        Refused::new(status, code, message, hint)
    }
}

/// The revision of an answer, as its `ETag`; of one pool or of all.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Revision {
    /// Of this pool.
    Pool(u64),
    /// The count of changes of any pool.
    All(u64),
}

impl Admin {
    /// The `ETag`: the revision, and which process it belongs to.
    pub(super) fn etag(&self, revision: Revision) -> String {
        match revision {
            Revision::Pool(revision) => format!("\"{revision}-{:08x}\"", self.instance),
            Revision::All(revision) => format!("\"all-{revision}-{:08x}\"", self.instance),
        }
    }

    /// An answer in JSON.
    pub(super) fn json(&self, status: StatusCode, answer: &impl Serialize, revision: Revision) -> Response {
        respond(status, answer, Some(&self.etag(revision)))
    }

    /// The revisions for which an edit is meant; `None`: for any.
    pub(super) fn guard(&self, headers: &HeaderMap) -> Option<Vec<u64>> {
        let mut revisions = Vec::new();
        let mut guarded = false;
        for header in headers.get_all(IF_MATCH) {
            guarded = true;
            for tag in header.to_str().unwrap_or_default().split(',').map(str::trim) {
                if tag == "*" {
                    return None;
                }
                let parts = tag.trim_matches('"').split_once('-');
                let own = parts.filter(|(_, instance)| *instance == format!("{:08x}", self.instance));
                revisions.extend(own.and_then(|(revision, _)| revision.parse::<u64>().ok()));
            }
        }
        guarded.then_some(revisions)
    }
}

fn respond(status: StatusCode, answer: &impl Serialize, etag: Option<&str>) -> Response {
    let mut text = serde_json::to_string_pretty(answer).unwrap_or_else(|error| {
        // The types of the API have string keys and finite numbers only.
        unreachable!("an answer that is no JSON: {error}")
    });
    text.push('\n');
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}
