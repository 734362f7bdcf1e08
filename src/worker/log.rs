//! What a session notes for the access log, where there is one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::{Backend, BackendId};
use crate::files::{BackendNames, End, Queue, Record, RouteNames, SessionId};
use crate::relay::{CloseReason, Side};
use crate::slots::Key;
use crate::time::Time;

/// A worker's way to the access log.
#[derive(Debug)]
pub struct SessionLog {
    worker: u32,
    /// The worker's.
    life: u32,
    queue: Queue,
    /// Whether a session's start is told too.
    starts: bool,
    /// Those of each route.
    routes: Vec<Arc<RouteNames>>,
    backends: HashMap<(u16, BackendId), Arc<BackendNames>>,
}

/// What one session notes.
#[derive(Debug, Default)]
pub struct Trace {
    backend: Option<Arc<BackendNames>>,
    attempts: u32,
    /// When the connect began, then when it succeeded.
    since: Time,
    /// Since when it waits for a place with a backend.
    queued: Option<Time>,
    queue: Duration,
    connect: Option<Duration>,
    first_byte: Option<Duration>,
    rtt_us: [u32; 2],
}

impl SessionLog {
    /// That of the worker of this number in this life, with a queue of its own.
    pub fn new(worker: usize, life: u32, queue: Queue, starts: bool) -> SessionLog {
        let worker = u32::try_from(worker).unwrap_or(u32::MAX);
        SessionLog { worker, life, queue, starts, routes: Vec::new(), backends: HashMap::new() }
    }

    /// The worker's next route. They are numbered from 0.
    pub fn route(&mut self, listener: &str, pool: &str) {
        self.routes.push(Arc::new(RouteNames { listener: listener.into(), pool: pool.into() }));
    }

    /// The names of a backend of this route's pool.
    pub fn names(&mut self, route: u16, backend: &Backend) -> Arc<BackendNames> {
        let known = self.backends.get(&(route, backend.id()));
        // Its name stays, but its address may be changed.
        if let Some(known) = known.filter(|known| known.address == *backend.address()) {
            return known.clone();
        }
        let names = Arc::new(BackendNames { name: backend.name().into(), address: backend.address().clone() });
        self.backends.insert((route, backend.id()), names.clone());
        names
    }

    /// Lets go of the names: the pools have changed.
    pub fn forget_names(&mut self) {
        self.backends.clear();
    }

    /// A session begins.
    pub fn start(&self, key: Key, route: u16, client: Option<SocketAddr>, now: Time) {
        if self.starts {
            self.queue.push(self.record(key, route, client, now, None));
        }
    }

    /// A session has ended.
    pub fn end(&self, key: Key, route: u16, client: Option<SocketAddr>, now: Time, end: End) {
        self.queue.push(self.record(key, route, client, now, Some(end)));
    }

    fn record(&self, key: Key, route: u16, client: Option<SocketAddr>, at: Time, end: Option<End>) -> Record {
        let session = SessionId { worker: self.worker, life: self.life, key };
        Record { at, session, route: self.routes[usize::from(route)].clone(), client, end }
    }
}

impl Trace {
    /// A backend was chosen, and is connected to.
    pub fn choose(&mut self, backend: Arc<BackendNames>, now: Time) {
        self.unqueued(now);
        self.backend = Some(backend);
        self.attempts += 1;
        self.since = now;
    }

    /// The client waits for a place.
    pub fn queued(&mut self, now: Time) {
        self.queued.get_or_insert(now);
    }

    /// It does not wait any more.
    pub fn unqueued(&mut self, now: Time) {
        if let Some(since) = self.queued.take() {
            self.queue += now - since;
        }
    }

    /// The connect has succeeded.
    pub fn connected(&mut self, now: Time) {
        self.connect = Some(now - self.since);
        self.since = now;
    }

    /// The backend has sent something.
    pub fn answered(&mut self, now: Time) {
        if self.first_byte.is_none() {
            self.first_byte = Some(now - self.since);
        }
    }

    /// The round-trip time of this side's connection, which is about to be closed.
    pub fn closing(&mut self, side: Side, rtt_us: u32) {
        self.rtt_us[side as usize] = rtt_us;
    }

    /// All of it, for a session that lasted from the first to the second of `times`.
    pub fn end(mut self, reason: CloseReason, received: [u64; 2], (started, now): (Time, Time)) -> End {
        self.unqueued(now);
        End {
            backend: self.backend,
            received,
            attempts: self.attempts,
            queue: self.queue,
            connect: self.connect,
            first_byte: self.first_byte,
            total: now - started,
            rtt_us: self.rtt_us,
            reason,
        }
    }
}
