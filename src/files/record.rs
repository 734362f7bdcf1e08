//! What a worker tells of a session: little, of a fixed size, and nothing that has to be formatted.

use std::fmt;
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

/// Tells the sessions of a process apart. Written `worker-slot-use`, where the use is that of the slot; behind the number of a
/// worker that was started again stands which life of it: `0.1-7-3`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct SessionId {
    /// The worker's number.
    pub worker: u32,
    /// How often a worker of that number had failed before: its slots are others than theirs.
    pub life: u32,
    /// Its place there.
    pub key: Key,
}

impl SessionId {
    /// Reads what was written; `None` where it is no such id.
    pub fn parse(text: &str) -> Option<SessionId> {
        let number = |text: &str| text.parse::<u32>().ok();
        let (worker, rest) = text.split_once('-')?;
        let (index, generation) = rest.split_once('-')?;
        let (worker, life) = worker.split_once('.').unwrap_or((worker, "0"));
        let key = Key::new(number(index)?, number(generation)?);
        let id = SessionId { worker: number(worker)?, life: number(life)?, key };
        // What is written in another way, or has a number that a key has no room for, was never said by us.
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SessionId { worker, life, key } = self;
        match life {
            0 => write!(f, "{worker}-{}-{}", key.index(), key.generation()),
            life => write!(f, "{worker}.{life}-{}-{}", key.index(), key.generation()),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_is_read_as_it_was_written(worker: u32, life in 0..3_u32, index: u32, generation in 0..1_u32 << 24) {
            let id = SessionId { worker, life, key: Key::new(index, generation) };
            prop_assert_eq!(SessionId::parse(&id.to_string()), Some(id));
        }

        #[test]
        fn nothing_else_is_an_id(text in "[-.+0-9 x]{0,12}") {
            prop_assert!(SessionId::parse(&text).is_none_or(|id| id.to_string() == text));
        }
    }

    #[test]
    fn what_was_never_written_is_no_id() {
        for text in
            ["", "0", "0-0", "0-0-0-0", "0.0-0-0", "0.1-0", "+0-0-0", "00-0-0", "0-0-16777216", "0.-1-2", "a-b-c"]
        {
            assert_eq!(SessionId::parse(text), None, "{text}");
        }
    }
}
