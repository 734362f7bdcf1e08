//! Who is connected, and ending one of them. The workers answer between two turns, a bounded part of their sessions at a time.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::config::Problem;
use crate::config::notation::quoted;
use crate::control::wire::{self, Session};
use crate::files::SessionId;
use crate::http::Peer;
use crate::limits::{SESSIONS_PAGE, SESSIONS_PAGE_MAX, TIMEOUT_MAX, WORKER_ANSWER_MAX};
use crate::worker::mailbox::{Command, Found, Mailbox, Question};

use super::Admin;
use super::answer::{Refused, Revision};
use super::body::{Path, Query};
use super::told;

/// The query of the sessions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    pool: Option<String>,
    backend: Option<String>,
    older: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// `GET /v1/sessions?pool=&backend=&older=&limit=&cursor=`
pub async fn list(State(admin): State<Arc<Admin>>, Query(wish): Query<Wish>) -> Result<Response, Refused> {
    if let Some(pool) = &wish.pool {
        admin.roster(pool)?;
    }
    let older = wish.older.as_deref().map(|text| told::duration(text, Duration::ZERO, TIMEOUT_MAX)).transpose();
    let older = older.map_err(|problem| Refused::value("`older`", problem))?.unwrap_or_default();
    let limit = wish.limit.unwrap_or(SESSIONS_PAGE).clamp(1, SESSIONS_PAGE_MAX);
    let (mut worker, mut from) = wish.cursor.as_deref().map_or(Ok((0, 0)), cursor)?;
    let mut sessions = Vec::new();
    while worker < admin.workers.len() && sessions.len() < limit {
        let (pool, backend) = (wish.pool.clone(), wish.backend.clone());
        let question = Question { pool, backend, older, from, limit: limit - sessions.len() };
        let page = admin.ask(worker, |worker, reply| worker.send(Command::Census(question, reply))).await?;
        sessions.extend(page.found.into_iter().map(|found| admin.shown((worker, page.life), found)));
        (worker, from) = page.next.map_or((worker + 1, 0), |next| (worker, next));
    }
    let next = (worker < admin.workers.len()).then(|| format!("{worker}-{from}"));
    let revision = Revision::All(admin.rosters.revision());
    Ok(admin.json(StatusCode::OK, &wire::Sessions { sessions, next }, revision))
}

/// `DELETE /v1/sessions/ID`
pub async fn kill(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let unknown = || Refused::no_such_session(&id);
    let SessionId { worker, life, key } = SessionId::parse(&id).ok_or_else(unknown)?;
    let worker = usize::try_from(worker).ok().filter(|worker| *worker < admin.workers.len()).ok_or_else(unknown)?;
    let mut is_of_this_life = true;
    let killed = admin.ask(worker, |worker, reply| {
        is_of_this_life = worker.send_to(life, Command::KillOne(key, reply));
    });
    let killed = killed.await;
    // One that has failed meanwhile has taken its sessions with it.
    if !is_of_this_life || !killed? {
        return Err(unknown());
    }
    tracing::info!("session {id} was ended ({peer})");
    Ok(admin.json(StatusCode::OK, &wire::Killed { killed: id }, Revision::All(admin.rosters.revision())))
}

impl Admin {
    /// Waits for a worker's answer; `send` sends it the question.
    async fn ask<T>(&self, worker: usize, send: impl FnOnce(&Mailbox, oneshot::Sender<T>)) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        send(&self.workers[worker], reply);
        match timeout(WORKER_ANSWER_MAX, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => {
                let message = format!("worker {worker} does not answer");
                let hint = "it is ending, or stuck: look at the log";
                Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message, hint))
            }
        }
    }

    fn shown(&self, (worker, life): (usize, u32), found: Found) -> Session {
        let worker = u32::try_from(worker).unwrap_or(u32::MAX);
        let Found { key, route, pool, client, backend, connected, age, received } = found;
        Session {
            id: SessionId { worker, life, key }.to_string(),
            listener: self.facts.routes.get(usize::from(route)).cloned().unwrap_or_default(),
            pool,
            client: client.map(|client| client.to_string()),
            backend,
            connected,
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            from_client: received[0],
            from_backend: received[1],
        }
    }
}

fn cursor(text: &str) -> Result<(usize, u32), Refused> {
    let parts = text.split_once('-').and_then(|(worker, from)| Some((worker.parse().ok()?, from.parse().ok()?)));
    parts.ok_or_else(|| {
        let what = format!("{} is not a cursor", quoted(text));
        Refused::value(
            "`cursor`",
            Problem::new(what, "it is what `next` of an answer said", "leave it out to begin anew"),
        )
    })
}
