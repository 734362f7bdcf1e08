//! The admin API: HTTP and JSON over a unix socket, for `curl` and for the commands.
//!
//! `ENDPOINTS` is the whole of it. Every edit goes through a pool's roster, one after the other, and is logged with the
//! process that asked for it.

mod answer;
mod body;
mod edits;
mod events;
mod latency;
mod sessions;
pub mod socket;
mod status;
mod told;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::{self, MethodRouter};
use tokio::sync::Semaphore;

use crate::config::Origin;
use crate::control::Readiness;
use crate::control::metrics::Metrics;
use crate::control::roster::{Roster, Rosters};
use crate::limits::{ADMIN_BODIES_MAX, COLLECT_INTERVAL, EVENT_CLIENTS_MAX};
use crate::time::Time;
use crate::worker::admission::Gate;
use crate::worker::clock;
use crate::worker::mailbox::Mailbox;

use answer::Refused;

/// What is fixed from the start on.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When the process started.
    pub started: Time,
    /// What the configuration was read from.
    pub origin: Option<Origin>,
    /// The sessions of the process.
    pub process: Arc<Gate>,
    /// In the order of the configuration.
    pub listeners: Vec<ListenerFacts>,
    /// The name of each route's listener, in the workers' order.
    pub routes: Vec<String>,
}

/// What is fixed of a listener.
#[derive(Clone, Debug)]
pub struct ListenerFacts {
    /// Its name.
    pub name: String,
    /// What was bound.
    pub addresses: Vec<String>,
    /// The name of its pool.
    pub pool: String,
    /// Its sessions.
    pub gate: Arc<Gate>,
}

/// What the handlers work with.
#[derive(Debug)]
pub struct Admin {
    rosters: Arc<Rosters>,
    workers: Vec<Mailbox>,
    readiness: Readiness,
    numbers: Metrics,
    facts: Facts,
    /// Tells revisions of this process from those of another.
    instance: u32,
    /// For large requests, so that a few clients cannot take all memory.
    bodies: Semaphore,
    /// Places for those who follow the events.
    followers: Arc<Semaphore>,
}

/// One thing that can be asked for.
#[derive(Debug)]
pub struct Endpoint {
    /// How.
    pub method: &'static str,
    /// Where, with the variable parts in braces.
    pub path: &'static str,
    handler: fn() -> MethodRouter<Arc<Admin>>,
}

/// Every endpoint, in the order of the documentation.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint { method: "GET", path: "/v1/status", handler: || routing::get(status::status) },
    Endpoint { method: "GET", path: "/v1/pools", handler: || routing::get(status::pools) },
    Endpoint { method: "GET", path: "/v1/pools/{pool}", handler: || routing::get(status::pool) },
    Endpoint { method: "PUT", path: "/v1/pools/{pool}/backends", handler: || routing::put(edits::swap) },
    Endpoint { method: "POST", path: "/v1/pools/{pool}/backends", handler: || routing::post(edits::add) },
    Endpoint { method: "PUT", path: "/v1/pools/{pool}/backends/{backend}", handler: || routing::put(edits::put) },
    Endpoint { method: "PATCH", path: "/v1/pools/{pool}/backends/{backend}", handler: || routing::patch(edits::patch) },
    Endpoint {
        method: "DELETE",
        path: "/v1/pools/{pool}/backends/{backend}",
        handler: || routing::delete(edits::delete),
    },
    Endpoint { method: "GET", path: "/v1/sessions", handler: || routing::get(sessions::list) },
    Endpoint { method: "DELETE", path: "/v1/sessions/{id}", handler: || routing::delete(sessions::kill) },
    Endpoint { method: "GET", path: "/v1/events", handler: || routing::get(events::follow) },
];

impl Admin {
    /// What serves these pools.
    pub fn new(
        rosters: Arc<Rosters>,
        workers: Vec<Mailbox>,
        readiness: Readiness,
        numbers: Metrics,
        facts: Facts,
    ) -> Admin {
        let instance = crate::control::due::random() as u32;
        let bodies = Semaphore::new(ADMIN_BODIES_MAX);
        let followers = Arc::new(Semaphore::new(EVENT_CLIENTS_MAX));
        Admin { rosters, workers, readiness, numbers, facts, instance, bodies, followers }
    }

    fn roster(&self, pool: &str) -> Result<&Roster, Refused> {
        self.rosters.find(pool).ok_or_else(|| {
            let pools = self.rosters.all().iter().map(|roster| roster.pool().name());
            Refused::unknown("pool", pool, pools)
        })
    }
}

/// The router of all endpoints. What it does not know is refused in the form of the API.
pub fn router(admin: Arc<Admin>) -> Router {
    let mut router = Router::new();
    for endpoint in ENDPOINTS {
        router = router.route(endpoint.path, (endpoint.handler)());
    }
    router.fallback(no_such_path).method_not_allowed_fallback(no_such_method).with_state(admin)
}

/// Ends leases when they are over, and removes their backends with their last session.
pub async fn expire_leases(rosters: Arc<Rosters>) {
    let mut changes = rosters.changes();
    loop {
        let now = clock::now();
        let mut next = Time::NEVER;
        for roster in rosters.all() {
            edits::expire(rosters.news(), roster, now);
            let moment = roster.moment();
            next = next.min(moment.overlay.next_expiry().unwrap_or(Time::NEVER));
            if moment.overlay.expired().next().is_some() {
                next = next.min(now + COLLECT_INTERVAL);
            }
        }
        tokio::select! {
            told = changes.changed() => if told.is_err() { return },
            () = tokio::time::sleep(next.since(clock::now()).max(Duration::from_millis(1))), if next != Time::NEVER => {}
        }
    }
}

async fn no_such_path(uri: Uri) -> Refused {
    let paths = ENDPOINTS.iter().map(|endpoint| endpoint.path);
    Refused::no_such_path(uri.path(), paths)
}

async fn no_such_method(method: Method, uri: Uri) -> Refused {
    Refused::no_such_method(&method, uri.path())
}
