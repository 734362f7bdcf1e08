//! What a worker tells of a session: little, of a fixed size, and nothing that has to be formatted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::relay::CloseReason;
use crate::slots::Key;
use crate::time::Time;

/// The beginning or the end of a session.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was, on the monotonic clock.
    pub at: Time,
    /// Which session.
    pub session: SessionId,
    /// Where it came in.
    pub route: Arc<RouteNames>,
    /// Its client, as far as it is known.
    pub client: Option<SocketAddr>,
    /// How it went; `None`: it begins.
    pub end: Option<End>,
}

/// Tells the sessions of a process apart.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct SessionId {
    /// The worker's number.
    pub worker: u32,
    /// Its place there.
    pub key: Key,
}

/// The names of a listener and of its pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteNames {
    /// The listener's.
    pub listener: Box<str>,
    /// The pool's.
    pub pool: Box<str>,
}

/// What a backend is called. A copy: whoever held the backend itself would keep its place in the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendNames {
    /// Its name.
    pub name: Box<str>,
    /// Where it listens.
    pub address: Address,
}

/// How a session went.
#[derive(Clone, Debug)]
pub struct End {
    /// The backend that was chosen last.
    pub backend: Option<Arc<BackendNames>>,
    /// Bytes received from the client and from the backend.
    pub received: [u64; 2],
    /// Connects begun.
    pub attempts: u32,
    /// How long it waited for a place with a backend.
    pub queue: Duration,
    /// How long the one took that succeeded.
    pub connect: Option<Duration>,
    /// From then to the backend's first byte.
    pub first_byte: Option<Duration>,
    /// From accept to the end.
    pub total: Duration,
    /// Smoothed round-trip times of the client's and of the backend's connection, in microseconds; 0: unknown.
    pub rtt_us: [u32; 2],
    /// Why it ended.
    pub reason: CloseReason,
}
