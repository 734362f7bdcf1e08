//! What travels over the admin API: the types of requests and answers, which server and commands share.
//!
//! Requests are strict: an unknown field is an error. Answers may get more fields in later versions.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The environment's word for the path of the socket.
pub const SOCKET_VARIABLE: &str = "RINGLB_ADMIN";

/// Where the socket is made and looked for if nobody says where, the best first.
pub fn usual_sockets() -> Vec<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|directory| directory.is_absolute());
    let directories = [Some(PathBuf::from("/run")), own];
    directories.into_iter().flatten().map(|directory| directory.join("ringlb/admin.sock")).collect()
}

/// `GET /v1/status`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of ringlb.
    pub version: String,
    /// Of the process.
    pub pid: u32,
    /// Since its start.
    pub uptime_ms: u64,
    /// Whether `/ready` says so.
    pub ready: bool,
    /// Worker threads.
    pub workers: usize,
    /// Sessions now.
    pub active: usize,
    /// Sessions at most.
    pub max_connections: usize,
    /// The configuration file, if there is one.
    pub config: Option<String>,
    /// In the order of the configuration.
    pub listeners: Vec<Listener>,
    /// In the order of the configuration.
    pub pools: Vec<Pool>,
}

/// Where clients are accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// What was bound.
    pub addresses: Vec<String>,
    /// The name of its pool.
    pub pool: String,
    /// Sessions now.
    pub active: usize,
    /// Its own limit.
    pub max_connections: Option<usize>,
    /// Whether accepting pauses at a limit.
    pub paused: bool,
}

/// `GET /v1/pools`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pools {
    /// In the order of the configuration.
    pub pools: Vec<Pool>,
}

/// `GET /v1/pools/P`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// How it chooses.
    pub policy: String,
    /// Counts the changes of what it is told, from 1.
    pub revision: u64,
    /// Whether every backend that could serve is ejected.
    pub in_recovery: bool,
    /// Clients that wait for a backend to have room.
    pub waiting: u64,
    /// In order.
    pub backends: Vec<Backend>,
    /// Removed, and still with sessions.
    pub leaving: Vec<Leaving>,
    /// Since when the durations of `latency` count: `1m`, `5m` or `all`; absent where the request has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub window: Option<String>,
    /// That of its backends together, and of its sessions; absent without a window.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency: Option<Latency>,
}

/// How long clients wait. What has not happened in the window is absent.
#[derive(Copy, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// From the beginning of a connect to its success.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub connect_seconds: Option<Percentiles>,
    /// From a connect's success to the backend's first byte.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_byte_seconds: Option<Percentiles>,
    /// From accept to the end of the session; of pools only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session_seconds: Option<Percentiles>,
}

/// Percentiles of durations, in seconds, each within 1 %.
#[derive(Copy, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many durations.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Half of them are at most so long.
    pub p50: f64,
    /// 90 % of them.
    pub p90: f64,
    /// 95 % of them.
    pub p95: f64,
    /// 99 % of them.
    pub p99: f64,
    /// 99.9 % of them.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// A backend of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name, unique in its pool.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Its share.
    pub weight: u32,
    /// Whether it serves only while no other may.
    pub backup: bool,
    /// 0: no limit.
    pub max_connections: u32,
    /// 0: it is never ejected.
    pub max_fails: u32,
    /// The window of `max_fails`, and how long an ejection lasts.
    pub fail_timeout: String,
    /// How long its share grows after it came.
    pub slow_start: String,
    /// What its operator wants: `ready`, `drain` or `maint`.
    pub state: String,
    /// What it is: one of those, or `ejected` or `down`.
    pub status: String,
    /// What active checks say: `up` or `down`; `unchecked` where there are none.
    pub health: String,
    /// How long its ejection lasts yet; absent where it is not ejected.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ejected_for_ms: Option<u64>,
    /// Connections now, those being opened included.
    pub active: u32,
    /// Since its name appeared.
    pub totals: Totals,
    /// `file`, `live`, or `host` for one that a host name stands for.
    pub source: String,
    /// That host, as it is written.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<String>,
    /// How long its lease lasts yet; absent without one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lease_ms: Option<u64>,
    /// Absent without a window, and where nothing has happened in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency: Option<Latency>,
}

/// What a backend has been through.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Connects that succeeded.
    pub connections: u64,
    /// Connects that failed by its fault.
    pub failures: u64,
    /// How often it was ejected, failed probes included.
    pub ejections: u64,
}

/// A backend that was removed and still has sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Its sessions.
    pub active: u32,
}

/// What a backend is told. What is absent has its default, or stays as it is, as the request says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// Its name; by default its address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Where it listens.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<String>,
    /// Its share.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub weight: Option<u32>,
    /// Whether it serves only while no other may.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub backup: Option<bool>,
    /// 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_connections: Option<u32>,
    /// 0: it is never ejected.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_fails: Option<u32>,
    /// The window of `max_fails`, and how long an ejection lasts.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fail_timeout: Option<String>,
    /// How long its share grows after it came.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slow_start: Option<String>,
    /// `ready`, `drain` or `maint`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state: Option<String>,
    /// How long it is registered for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ttl: Option<String>,
}

/// `PUT /v1/pools/P/backends`: the whole set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// In order.
    pub backends: Vec<Told>,
}

/// What an edit has done, by backends' names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The pool's revision after it.
    pub revision: u64,
    /// Not there before.
    pub added: Vec<String>,
    /// No longer there. Their sessions live on.
    pub removed: Vec<String>,
    /// As before.
    pub kept: Vec<String>,
    /// There as before, but told to be something else.
    pub changed: Vec<String>,
}

/// `GET /v1/sessions`: some of the sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Worker by worker, in the order of their slots.
    pub sessions: Vec<Session>,
    /// The cursor for more; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its name: worker, slot, and which use of the slot.
    pub id: String,
    /// The listener that its client came by.
    pub listener: String,
    /// The pool that serves it.
    pub pool: String,
    /// Its client's address; absent where a unix socket has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client: Option<String>,
    /// The backend that it is connected or being connected with; absent where there is none (any more).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub backend: Option<String>,
    /// Whether it was connected with one.
    pub connected: bool,
    /// Since it was accepted.
    pub age_ms: u64,
    /// Bytes received from the client.
    pub from_client: u64,
    /// Bytes received from the backend.
    pub from_backend: u64,
}

/// `DELETE /v1/sessions/ID`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed {
    /// Its name.
    pub killed: String,
}

/// A line of `GET /v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in UTC as RFC 3339 writes it.
    pub time: String,
    /// What, one word of a closed list.
    pub event: String,
    /// The pool that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pool: Option<String>,
    /// The backend that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub backend: Option<String>,
    /// The listener that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub listener: Option<String>,
    /// For people: what and why.
    pub message: String,
    /// How many events this reader has lost, where that is what it tells.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lost: Option<u64>,
}

/// Every answer that is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// It.
    pub error: Fault,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// For programs, one word of a closed list.
    pub code: String,
    /// What, and why.
    pub message: String,
    /// What to do.
    pub hint: String,
}
