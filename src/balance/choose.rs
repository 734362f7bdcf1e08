//! A worker's way into a pool.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::claim::Claim;
use super::policy::Choice;
use super::pool::Pool;
use super::random::Random;
use super::set::BackendSet;
use super::tried::Tried;
use crate::time::Time;

/// What is known of the client that wants a backend.
#[derive(Copy, Clone, Debug)]
pub struct Request<'a> {
    /// Its IP address; `None` behind a unix listener.
    pub client: Option<IpAddr>,
    /// The backends it has tried already, which it is not offered again.
    pub tried: &'a Tried,
}

/// No backend may take this client now.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no backend of the pool may take a connection now; `ringlb status` shows their states and limits")]
pub struct NoneEligible;

/// Chooses backends of one pool for one worker. Nothing in it is shared but the pool itself.
pub struct Chooser {
    pool: Arc<Pool>,
    cache: Cache<Arc<ArcSwap<BackendSet>>, Arc<BackendSet>>,
    random: Random,
}

impl Chooser {
    /// A chooser whose draws follow from `seed`; give every worker another.
    pub fn new(pool: Arc<Pool>, seed: u64) -> Chooser {
        let cache = Cache::new(pool.current().clone());
        Chooser { pool, cache, random: Random::new(seed) }
    }

    /// Chooses a backend and takes a place with it, in one step. Lock-free.
    ///
    /// The claim may be a probe of an ejected backend whose time has come; then a failed connect is not one of the
    /// client's attempts ([`Next::counts`](super::Next::counts)).
    ///
    /// # Errors
    /// [`NoneEligible`] where no backend may take this client now.
    pub fn choose(&mut self, request: &Request<'_>, now: Time) -> Result<Claim, NoneEligible> {
        if request.tried.is_full() {
            return Err(NoneEligible);
        }
        let choice = Choice { pool: &self.pool, set: self.cache.load(), request, now };
        choice.claim(&mut self.random).ok_or(NoneEligible)
    }

    /// The snapshot that the next choice will be made from. Call this when the pool may have changed: until then the
    /// chooser holds on to the snapshot it used last, and the pool cannot let go of it.
    pub fn set(&mut self) -> &BackendSet {
        self.cache.load()
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}
