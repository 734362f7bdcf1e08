//! Clients that wait for a place with a backend, in order of arrival over all workers.
//!
//! Where everybody who could serve a client is merely full, it takes a [`Ticket`] and sleeps. Whoever gives a place back,
//! or changes who may serve, looks whether somebody waits, and if so chooses for the oldest and hands the [`Claim`] itself
//! over, to the client's worker. So one client is woken for one place, and nobody who comes later can take it from under it.
//!
//! That no place is lost rests on two words, which the functions here keep in order: the backend's (`super::word`), where a
//! place is given back, and the number of those who wait. The waiter writes the second, then reads the first; the releaser
//! writes the first, then reads the second. A fence stands between the two on both sides, so that never both miss the other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::choose::Request;
use super::claim::Claim;
use super::policy::{Choice, Reach};
use super::pool::Pool;
use super::random::Random;
use super::set::BackendSet;
use super::tried::Tried;
use super::word::AtomicWord;
use crate::slots::Key;
use crate::time::Time;

/// A worker, as those see it who have a place for one of its clients.
pub trait Taker: Send + Sync {
    /// The client that waits under `key` has got this place. Where it waits no longer, drop the claim: the next one gets it.
    /// Called by any thread, and under no lock.
    fn take(&self, key: Key, claim: Claim);
}

/// What has come of seeking a place.
#[derive(Debug)]
pub enum Sought {
    /// A place.
    Place(Claim),
    /// The client waits: it gets its place by the chooser's [`Taker`].
    Waits(Ticket),
    /// All who may serve it are full, and so is the queue.
    QueueFull,
    /// Nobody may serve it, and waiting for a place would not help.
    None,
}

/// A turn in the queue of a pool. Dropping it leaves the queue.
#[must_use = "dropping a ticket leaves the queue"]
pub struct Ticket {
    pool: Arc<Pool>,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.pool.queue().leave(self.number);
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("pool", &self.pool.name()).field("number", &self.number).finish()
    }
}

/// The queue of one pool.
#[derive(Default)]
pub(super) struct Queue {
    /// Not 0 once the pool has been told to have a queue; never 0 again.
    open: AtomicU64,
    /// How many wait. Written under the lock.
    waiting: AtomicU64,
    line: Mutex<Line>,
}

/// Those who wait.
struct Line {
    /// By their tickets' numbers: the oldest first.
    waiters: BTreeMap<u64, Waiter>,
    tickets: u64,
    random: Random,
    /// The latest time that anybody has told.
    now: Time,
}

/// Somebody who waits.
pub(super) struct Waiter {
    pub(super) client: Option<IpAddr>,
    pub(super) tried: Tried,
    pub(super) taker: Arc<dyn Taker>,
    pub(super) key: Key,
}

/// A place for somebody who has waited.
struct Handed {
    waiter: Waiter,
    claim: Claim,
}

/// The waiter has counted itself: `waiting` wait. From here on either it sees a place that is given back, or whoever gives
/// it back sees that somebody waits.
pub(super) fn announce<W: AtomicWord>(word: &W, waiting: u64) {
    word.store(waiting, Ordering::Relaxed);
    W::fence();
}

/// A place was given back: whether somebody may wait for it. Where there never was a queue, this is one load.
#[inline]
pub(super) fn is_awaited<W: AtomicWord>(open: &W, waiting: &W) -> bool {
    // With the release of the place this is sequentially consistent, for the moment in which a queue is opened.
    if open.load(Ordering::SeqCst) == 0 {
        return false;
    }
    W::fence();
    waiting.load(Ordering::Relaxed) > 0
}

impl Queue {
    /// The pool is to have a queue. Before the set that says so is published.
    pub(super) fn open(&self) {
        self.open.store(1, Ordering::SeqCst);
    }

    /// See [`is_awaited`].
    #[inline]
    pub(super) fn is_awaited(&self) -> bool {
        is_awaited(&self.open, &self.waiting)
    }

    /// How many wait.
    #[inline]
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn leave(&self, number: u64) {
        let mut line = self.line();
        let left = line.waiters.remove(&number);
        self.waiting.store(line.waiters.len() as u64, Ordering::Relaxed);
        drop(line);
        drop(left);
    }

    /// What is behind the lock is changed in steps that cannot panic half-way, so a poisoned lock is as good as new.
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// How many clients wait for a place.
    pub fn waiting(&self) -> usize {
        self.queue().waiting() as usize
    }

    /// Serves those who wait, oldest first, as far as there is room. The pool calls it after every change of its own; whoever
    /// knows that time has passed may call it too.
    pub fn offer(&self, now: Time) {
        if self.queue().waiting() > 0 {
            self.serve(Some(now));
        }
    }

    /// A place was given back, and somebody waits.
    pub(super) fn offer_released(&self) {
        self.serve(None);
    }

    /// Everybody who could serve this client is full, or others wait already: it gets what is left behind them, or waits.
    pub(super) fn wait(self: &Arc<Pool>, choice: &Choice<'_>, waiter: Waiter) -> Sought {
        let queue_max = u64::from(choice.set.settings().queue_max);
        let mut handed = Vec::new();
        let mut line = self.queue().line();
        line.now = line.now.max(choice.now);
        announce(&self.queue().waiting, line.waiters.len() as u64 + 1);
        line.serve(self, choice.set, Some(choice.now), &mut handed);
        let sought = match choice.seek(&mut line.random) {
            Reach::Place(claim) => Sought::Place(claim),
            Reach::None => Sought::None,
            Reach::Full if (line.waiters.len() as u64) < queue_max => {
                line.tickets += 1;
                let number = line.tickets;
                line.waiters.insert(number, waiter);
                Sought::Waits(Ticket { pool: Arc::clone(self), number })
            }
            Reach::Full => choice.claim_backup(&mut line.random).map_or(Sought::QueueFull, Sought::Place),
        };
        self.queue().waiting.store(line.waiters.len() as u64, Ordering::Relaxed);
        drop(line);
        handed.into_iter().for_each(Handed::deliver);
        sought
    }

    /// `now`: where nobody knows the time, nobody who waits is led to an ejected backend.
    fn serve(&self, now: Option<Time>) {
        let mut handed = Vec::new();
        let set = self.current().load();
        let mut line = self.queue().line();
        line.now = line.now.max(now.unwrap_or(Time::ZERO));
        line.serve(self, &set, now, &mut handed);
        self.queue().waiting.store(line.waiters.len() as u64, Ordering::Relaxed);
        drop(line);
        // Not under the lock: whoever takes no more places drops the claim, which comes here again.
        handed.into_iter().for_each(Handed::deliver);
    }
}

impl Default for Line {
    fn default() -> Line {
        Line { waiters: BTreeMap::new(), tickets: 0, random: Random::new(0), now: Time::ZERO }
    }
}

impl Line {
    fn serve(&mut self, pool: &Pool, set: &BackendSet, now: Option<Time>, handed: &mut Vec<Handed>) {
        let mut served = Vec::new();
        for (&number, waiter) in &self.waiters {
            let request = Request { client: waiter.client, tried: &waiter.tried };
            let choice =
                Choice { pool, set, request: &request, now: now.unwrap_or(self.now), may_probe: now.is_some() };
            match choice.seek(&mut self.random) {
                Reach::Place(claim) => served.push((number, claim)),
                // Nobody behind this one could be served: they have tried somebody, or nobody either.
                Reach::Full | Reach::None if waiter.tried.is_empty() => break,
                Reach::Full | Reach::None => {}
            }
        }
        for (number, claim) in served {
            if let Some(waiter) = self.waiters.remove(&number) {
                handed.push(Handed { waiter, claim });
            }
        }
    }
}

impl Handed {
    fn deliver(self) {
        self.waiter.taker.take(self.waiter.key, self.claim);
    }
}
