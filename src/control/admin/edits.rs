//! Edits of a pool's backends. Each is done whole or not at all, and logged with whoever asked for it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use crate::balance::{self, BackendId};
use crate::config::Problem;
use crate::control::news::{Kind, Newsroom};
use crate::control::overlay::{EditError, Lease, Overlay};
use crate::control::roster::{Edited, Roster};
use crate::control::wire::{self, Set, Told};
use crate::http::Peer;
use crate::limits::TIMEOUT_MAX;
use crate::relay::Kill;
use crate::time::Time;
use crate::worker::clock;
use crate::worker::mailbox::{Command, Mailbox};

use super::Admin;
use super::answer::{Refused, Revision};
use super::body::{Path, Query};
use super::told;

/// `PUT /v1/pools/P/backends`: the whole set at once.
pub async fn swap(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Path(pool): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let roster = admin.roster(&pool)?;
    let set: Set = admin.read(&headers, body).await?;
    let mut backends = Vec::with_capacity(set.backends.len());
    for (index, told) in set.backends.iter().enumerate() {
        let place = format!("backends[{index}]");
        refuse_ttl(told, &place)?;
        backends.push(told::backend(told, None, &place, |name, address| roster.defaults(name, address))?);
    }
    let edited = edit(&admin, &roster, &headers, |overlay| overlay.swap(backends))?;
    admin.rosters.news().swapped(roster.pool().name(), &edited.changes, peer);
    Ok(changed(&admin, StatusCode::OK, edited))
}

/// `POST /v1/pools/P/backends`: add one.
pub async fn add(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Path(pool): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let roster = admin.roster(&pool)?;
    let told: Told = admin.read(&headers, body).await?;
    let lease = lease(&told)?;
    let backend = told::backend(&told, None, "", |name, address| roster.defaults(name, address))?;
    let edited = edit(&admin, &roster, &headers, |overlay| overlay.add(backend, lease))?;
    log(&admin, &roster, &edited.changes, peer, "a backend was added");
    Ok(changed(&admin, StatusCode::CREATED, edited))
}

/// `PUT /v1/pools/P/backends/B`: add it or make it what the request says; with `ttl` register it or renew its lease.
pub async fn put(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Path((pool, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let roster = admin.roster(&pool)?;
    let told: Told = admin.read(&headers, body).await?;
    if told.name.as_ref().is_some_and(|told| *told != name) {
        let problem = Problem::new("it is not the one in the path", "a backend keeps its name", "leave `name` out");
        return Err(Refused::value("`name`", problem));
    }
    let lease = lease(&told)?;
    let backend = told::backend(&told, Some(&name), "", |name, address| roster.defaults(name, address))?;
    let edited = edit(&admin, &roster, &headers, |overlay| overlay.put(backend, lease))?;
    let is_new = edited.changes.added.contains(&name);
    if is_new || !edited.changes.changed.is_empty() {
        log(&admin, &roster, &edited.changes, peer, "a backend was put");
    } else {
        tracing::debug!("backend {}/{name}: its lease was renewed ({peer})", roster.pool().name());
    }
    Ok(changed(&admin, if is_new { StatusCode::CREATED } else { StatusCode::OK }, edited))
}

/// `PATCH /v1/pools/P/backends/B`: change what the request says, and nothing else.
pub async fn patch(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Path((pool, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let roster = admin.roster(&pool)?;
    let told: Told = admin.read(&headers, body).await?;
    refuse_ttl(&told, "")?;
    if told.name.as_ref().is_some_and(|told| *told != name) {
        let problem =
            Problem::new("a name cannot be changed", "counters belong to it", "add one of that name, remove this one");
        return Err(Refused::value("`name`", problem));
    }
    let change = told::change(&told, "")?;
    let address = told.address.as_deref().map(told::address).transpose()?;
    let apply = |settings: &mut balance::settings::BackendSettings| {
        change(settings);
        if let Some(address) = &address {
            settings.address.clone_from(address);
        }
    };
    let edited = edit(&admin, &roster, &headers, |overlay| overlay.tell(&name, apply));
    let edited = edited.map_err(|refused| suggest(refused, &roster, &name))?;
    let said = serde_json::to_string(&told).unwrap_or_default();
    log(&admin, &roster, &edited.changes, peer, &format!("{name} was told {said}"));
    Ok(changed(&admin, StatusCode::OK, edited))
}

/// The query of a removal.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    sessions: Option<String>,
    kill_after: Option<String>,
}

/// `DELETE /v1/pools/P/backends/B?sessions=keep|kill|kill_after=30s`
pub async fn delete(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Path((pool, name)): Path<(String, String)>,
    Query(removal): Query<Removal>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let roster = admin.roster(&pool)?;
    let kill_after = removal.kill_after()?;
    let before = roster.pool().snapshot();
    let edited = edit(&admin, &roster, &headers, |overlay| overlay.remove(&name));
    let edited = edited.map_err(|refused| suggest(refused, &roster, &name))?;
    let fate = match kill_after {
        None => "its sessions live on".to_owned(),
        Some(Duration::ZERO) => "its sessions are closed".to_owned(),
        Some(after) => format!("its sessions are closed in {}", humantime::format_duration(after)),
    };
    log(&admin, &roster, &edited.changes, peer, &format!("{name} was removed; {fate}"));
    if let Some(after) = kill_after {
        let removed: HashSet<&str> = edited.changes.removed.iter().map(String::as_str).collect();
        let pool: Arc<str> = roster.pool().name().into();
        let gone = before.backends().iter().filter(|backend| removed.contains(backend.name()));
        let gone: HashSet<(Arc<str>, BackendId)> = gone.map(|backend| (pool.clone(), backend.id())).collect();
        tokio::spawn(close(admin.workers.clone(), Arc::new(gone), after));
    }
    Ok(changed(&admin, StatusCode::OK, edited))
}

/// Ends the leases of a pool that are over, and removes the backends of which no session is left.
pub fn expire(news: &Newsroom, roster: &Roster, now: Time) {
    let pool = roster.pool().name();
    let mut expired = Vec::new();
    let ended = roster.edit(None, now, |overlay| {
        expired = overlay.expire(now);
        Ok(())
    });
    if let Err(error) = ended {
        // A set with other states is as possible as it was.
        tracing::error!("pool {pool}: leases cannot be ended: {error}; please report this");
    }
    for name in expired {
        let message =
            format!("backend {pool}/{name}: its lease was not renewed; it drains, and goes with its last session");
        news.of_backend(Kind::Expired, pool, &name, message);
    }
    let moment = roster.moment();
    let idle = |name: &str| {
        let of = |backend: &&Arc<balance::Backend>| {
            backend.name() == name || backend.name().strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
        };
        moment.set.backends().iter().filter(of).all(|backend| backend.active() == 0)
    };
    for name in moment.overlay.expired().filter(|name| idle(name)) {
        let remove = |overlay: &mut Overlay| {
            let still = overlay.expired().any(|expired| expired == name);
            // Otherwise it was renewed meanwhile.
            if still { overlay.remove(name) } else { Ok(()) }
        };
        match roster.edit(None, now, remove) {
            Ok(edited) if edited.changes.removed.is_empty() => {}
            Ok(_) => {
                let message = format!("backend {pool}/{name} was removed: its lease is over, and so are its sessions");
                news.of_backend(Kind::Removed, pool, name, message);
            }
            Err(error) => tracing::debug!("backend {pool}/{name}: {error}"),
        }
    }
}

async fn close(workers: Vec<Mailbox>, backends: Arc<HashSet<(Arc<str>, BackendId)>>, after: Duration) {
    tokio::time::sleep(after).await;
    for worker in &workers {
        worker.send(Command::CloseBackends(backends.clone(), Kill::Operator));
    }
}

fn edit(
    admin: &Admin,
    roster: &Roster,
    headers: &HeaderMap,
    edit: impl FnOnce(&mut Overlay) -> Result<(), EditError>,
) -> Result<Edited, Refused> {
    Ok(roster.edit(admin.guard(headers).as_deref(), clock::now(), edit)?)
}

fn changed(admin: &Admin, status: StatusCode, edited: Edited) -> Response {
    let Edited { changes, revision } = edited;
    let balance::Changes { added, removed, kept, changed } = changes;
    admin.json(status, &wire::Changes { revision, added, removed, kept, changed }, Revision::Pool(revision))
}

fn log(admin: &Admin, roster: &Roster, changes: &balance::Changes, peer: Peer, what: &str) {
    let pool = roster.pool().name();
    admin.rosters.news().edited(pool, changes, &format!("pool {pool}: {what}"), peer);
}

/// Names the backend that was probably meant.
fn suggest(refused: Refused, roster: &Roster, name: &str) -> Refused {
    if !refused.is_not_found() {
        return refused;
    }
    let snapshot = roster.pool().snapshot();
    Refused::unknown("backend", name, snapshot.backends().iter().map(|backend| backend.name()))
}

fn lease(told: &Told) -> Result<Option<Lease>, Refused> {
    let Some(text) = &told.ttl else { return Ok(None) };
    let ttl = told::ttl(text)?;
    Ok(Some(Lease { ttl, until: clock::now() + ttl, expired: false }))
}

fn refuse_ttl(told: &Told, place: &str) -> Result<(), Refused> {
    if told.ttl.is_none() {
        return Ok(());
    }
    let problem = Problem::new(
        "a lease is not taken this way",
        "whoever holds it renews it alone",
        "PUT /v1/pools/P/backends/B with `ttl` for each backend that registers itself",
    );
    Err(Refused::value(&format!("{place}`ttl`"), problem))
}

impl Removal {
    /// After how long its sessions are closed; `None`: never.
    fn kill_after(&self) -> Result<Option<Duration>, Refused> {
        let after = |text: &str| {
            let after = told::duration(text, Duration::ZERO, TIMEOUT_MAX);
            after.map(Some).map_err(|problem| Refused::value("`kill_after`", problem))
        };
        match (self.sessions.as_deref(), self.kill_after.as_deref()) {
            (None, Some(text)) => after(text),
            (None | Some("keep"), None) => Ok(None),
            (Some("kill"), None) => Ok(Some(Duration::ZERO)),
            (Some(text), None) if text.starts_with("kill_after=") => after(&text["kill_after=".len()..]),
            (Some(text), _) => {
                let what = format!("{} is not a fate of sessions", crate::config::notation::quoted(text));
                let help = "write sessions=keep, sessions=kill or sessions=kill_after=30s";
                Err(Refused::value("`sessions`", Problem::new(what, "they live on or are closed", help)))
            }
        }
    }
}
