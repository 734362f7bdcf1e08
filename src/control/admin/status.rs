//! What is: the process, its listeners, its pools and their backends.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use crate::balance::Backend;
use crate::control::overlay::{Lease, Source};
use crate::control::roster::Roster;
use crate::control::wire;
use crate::time::Time;
use crate::worker::clock;

use super::Admin;
use super::answer::{Refused, Revision};
use super::body::{Path, Query};
use super::latency::{self, Wish};

/// `GET /v1/status`
pub async fn status(State(admin): State<Arc<Admin>>) -> Response {
    let now = clock::now();
    let facts = &admin.facts;
    let process_full = facts.process.active() >= facts.process.max();
    let listeners = facts.listeners.iter().map(|listener| wire::Listener {
        name: listener.name.clone(),
        addresses: listener.addresses.clone(),
        pool: listener.pool.clone(),
        active: listener.gate.active(),
        max_connections: Some(listener.gate.max()).filter(|max| *max < usize::MAX),
        paused: process_full || listener.gate.active() >= listener.gate.max(),
    });
    let status = wire::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_ms: millis(now.since(facts.started)),
        ready: admin.readiness.is_ready(),
        workers: admin.workers.len(),
        active: facts.process.active(),
        max_connections: facts.process.max(),
        config: facts.origin.as_ref().map(|origin| origin.file.display().to_string()),
        listeners: listeners.collect(),
        pools: admin.rosters.all().iter().map(|roster| shown(roster, now).0).collect(),
    };
    admin.json(StatusCode::OK, &status, Revision::All(admin.rosters.revision()))
}

/// `GET /v1/pools?window=`
pub async fn pools(State(admin): State<Arc<Admin>>, Query(wish): Query<Wish>) -> Result<Response, Refused> {
    let revision = Revision::All(admin.rosters.revision());
    let now = clock::now();
    let mut pools: Vec<wire::Pool> = admin.rosters.all().iter().map(|roster| shown(roster, now).0).collect();
    if let Some(window) = wish.window()? {
        let wanted = admin.rosters.all().iter().map(|roster| roster.pool().clone()).collect();
        latency::tell(&mut pools, &admin.numbers, wanted, window).await?;
    }
    Ok(admin.json(StatusCode::OK, &wire::Pools { pools }, revision))
}

/// `GET /v1/pools/P?window=`
pub async fn pool(
    State(admin): State<Arc<Admin>>,
    Path(pool): Path<String>,
    Query(wish): Query<Wish>,
) -> Result<Response, Refused> {
    let roster = admin.roster(&pool)?;
    let (mut pool, revision) = shown(roster, clock::now());
    if let Some(window) = wish.window()? {
        let (pools, wanted) = (std::slice::from_mut(&mut pool), vec![roster.pool().clone()]);
        latency::tell(pools, &admin.numbers, wanted, window).await?;
    }
    Ok(admin.json(StatusCode::OK, &pool, revision))
}

fn shown(roster: &Roster, now: Time) -> (wire::Pool, Revision) {
    let moment = roster.moment();
    let sources = moment.overlay.sources();
    let checked = moment.set.settings().health.is_some();
    let backend = |backend: &Arc<Backend>| {
        let source = sources.get(backend.name());
        shown_backend(backend, source, checked, now)
    };
    let leaving = roster.pool().leaving().into_iter().filter(|backend| backend.active() > 0);
    let pool = wire::Pool {
        name: roster.pool().name().to_owned(),
        policy: moment.set.settings().policy.name().to_owned(),
        revision: moment.revision,
        in_recovery: roster.pool().is_in_recovery(),
        waiting: roster.pool().waiting() as u64,
        backends: moment.set.backends().iter().map(backend).collect(),
        leaving: leaving
            .map(|backend| wire::Leaving {
                name: backend.name().to_owned(),
                address: backend.address().to_string(),
                active: backend.active(),
            })
            .collect(),
        window: None,
        latency: None,
    };
    (pool, Revision::Pool(moment.revision))
}

fn shown_backend(
    backend: &Backend,
    source: Option<&(Source, Option<Lease>)>,
    checked: bool,
    now: Time,
) -> wire::Backend {
    let settings = backend.settings();
    let (name, host) = match source {
        Some((Source::File, _)) => ("file", None),
        Some((Source::Host(host), _)) => ("host", Some(host.to_string())),
        Some((Source::Live, _)) | None => ("live", None),
    };
    let lease = source.and_then(|(_, lease)| *lease);
    let health = match (checked, backend.is_up()) {
        (false, _) => "unchecked",
        (true, true) => "up",
        (true, false) => "down",
    };
    wire::Backend {
        name: backend.name().to_owned(),
        address: backend.address().to_string(),
        weight: backend.weight().as_u32(),
        backup: settings.backup,
        max_connections: settings.max_connections,
        max_fails: settings.max_fails,
        fail_timeout: humantime::format_duration(settings.fail_timeout).to_string(),
        slow_start: humantime::format_duration(settings.slow_start).to_string(),
        state: settings.state.name().to_owned(),
        status: backend.standing().name().to_owned(),
        health: health.to_owned(),
        ejected_for_ms: backend.ejected_for(now).map(millis),
        active: backend.active(),
        totals: wire::Totals {
            connections: backend.connected_total(),
            failures: backend.failed_total(),
            ejections: backend.ejections_total(),
        },
        source: name.to_owned(),
        host,
        lease_ms: lease.map(|lease| millis(lease.until.since(now))),
        latency: None,
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
