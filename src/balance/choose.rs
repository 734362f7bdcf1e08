//! A worker's way into a pool.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::claim::Claim;
use super::policy::{Choice, Reach};
use super::pool::Pool;
use super::queue::{Sought, Taker, Waiter};
use super::random::Random;
use super::set::BackendSet;
use super::tried::Tried;
use crate::slots::Key;
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
    /// Gets the places of those who wait.
    taker: Option<Arc<dyn Taker>>,
    cache: Cache<Arc<ArcSwap<BackendSet>>, Arc<BackendSet>>,
    random: Random,
}

impl Chooser {
    /// A chooser whose draws follow from `seed`; give every worker another.
    pub fn new(pool: Arc<Pool>, seed: u64) -> Chooser {
        let cache = Cache::new(pool.current().clone());
        Chooser { pool, taker: None, cache, random: Random::new(seed) }
    }

    /// One that has nobody to choose: it holds no pool that anybody else knows.
    pub fn of_nothing() -> Chooser {
        Chooser::new(Pool::of_nothing(), 0)
    }

    /// The same, whose clients may wait where the pool has a queue: `taker` gets their places.
    #[must_use]
    pub fn with_taker(self, taker: Arc<dyn Taker>) -> Chooser {
        Chooser { taker: Some(taker), ..self }
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
        let choice = Choice { pool: &self.pool, set: self.cache.load(), request, now, may_probe: true };
        choice.claim(&mut self.random).ok_or(NoneEligible)
    }

    /// As [`choose`](Chooser::choose), for a client that waits under `key` where everybody who could serve it is merely full
    /// and the pool has a queue. Takes a lock only where somebody waits or has to.
    pub fn seek(&mut self, request: &Request<'_>, key: Key, now: Time) -> Sought {
        if request.tried.is_full() {
            return Sought::None;
        }
        let set = self.cache.load();
        let choice = Choice { pool: &self.pool, set, request, now, may_probe: true };
        let Some(taker) = self.taker.as_ref().filter(|_| set.settings().queue_max > 0) else {
            return choice.claim(&mut self.random).map_or(Sought::None, Sought::Place);
        };
        // Who comes while others wait gets what is left behind them.
        if self.pool.waiting() == 0 {
            match choice.seek(&mut self.random) {
                Reach::Place(claim) => return Sought::Place(claim),
                Reach::None => return Sought::None,
                Reach::Full => {}
            }
        }
        let waiter = Waiter { client: request.client, tried: request.tried.clone(), taker: taker.clone(), key };
        self.pool.wait(&choice, waiter)
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
