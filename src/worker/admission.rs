//! How many sessions there may be: one count for the process and one for each listener, over all workers.
//!
//! At a limit, accepting pauses and clients wait in the backlog. Near it they are accepted one by one, as one accept that goes
//! on would take the whole backlog before it can be stopped. So each worker accepts one too many at most, when several take
//! the last place; those clients are served, and the reserve of descriptors covers them. What a listener accepts in a second
//! is limited in the same way: see [`super::rate`].

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use crate::engine::socket::Waker;
use crate::time::Time;
use crate::worker::rate::Bucket;

/// A limit on sessions, and those who wait for it to have room.
#[derive(Debug)]
pub struct Gate {
    active: AtomicUsize,
    /// Acceptors that have stopped because of this limit.
    waiting: AtomicUsize,
    max: AtomicUsize,
}

impl Gate {
    /// A limit of `max` sessions.
    pub const fn new(max: usize) -> Gate {
        Gate { active: AtomicUsize::new(0), waiting: AtomicUsize::new(0), max: AtomicUsize::new(max) }
    }

    /// How many sessions it counts.
    pub fn active(&self) -> usize {
        self.active.load(SeqCst)
    }

    /// The limit.
    pub fn max(&self) -> usize {
        self.max.load(SeqCst)
    }

    /// Makes `max` the limit. Sessions beyond a lower one live on. Acceptors that wait look again when they are woken.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, SeqCst);
    }

    /// How many acceptors wait for room.
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    fn room(&self) -> usize {
        self.max().saturating_sub(self.active())
    }

    fn is_full(&self) -> bool {
        self.room() == 0
    }
}

/// The limits that one listener's sessions count against: the process's and its own. Each worker has one for each of its
/// listeners; dropped, it gives back whatever was not.
#[derive(Debug)]
pub struct Admission {
    process: Arc<Gate>,
    listener: Arc<Gate>,
    rate: Option<Arc<Bucket>>,
    /// The workers, to be woken when there is room again.
    wakers: Arc<[Waker]>,
    /// Clients that may wait in all backlogs together.
    crowd: Arc<AtomicUsize>,
    /// Sessions counted in here and not yet out.
    held: Cell<usize>,
    /// Its acceptor waits for room.
    waits: Cell<bool>,
}

impl Admission {
    /// Counts against both gates; `wakers` are the workers that may wait for them, `crowd` is how many clients may wait to be
    /// accepted by all of them.
    pub const fn new(
        process: Arc<Gate>,
        listener: Arc<Gate>,
        wakers: Arc<[Waker]>,
        crowd: Arc<AtomicUsize>,
    ) -> Admission {
        Admission { process, listener, rate: None, wakers, crowd, held: Cell::new(0), waits: Cell::new(false) }
    }

    /// The same, with so many clients in a second at most.
    pub fn at_rate(mut self, rate: Option<Arc<Bucket>>) -> Admission {
        self.rate = rate;
        self
    }

    /// How many sessions it has counted in and not yet out.
    pub const fn held(&self) -> usize {
        self.held.get()
    }

    /// Counts a session in.
    pub fn enter(&self, now: Time) {
        if let Some(rate) = &self.rate {
            rate.take(now);
        }
        self.held.set(self.held.get() + 1);
        self.process.active.fetch_add(1, SeqCst);
        self.listener.active.fetch_add(1, SeqCst);
    }

    /// Counts a session out, and wakes those who wait for room.
    pub fn leave(&self) {
        self.held.set(self.held.get() - 1);
        self.give_back(1);
    }

    fn give_back(&self, sessions: usize) {
        // Sequentially consistent with `wait`: either we see its number, or it sees our room.
        self.listener.active.fetch_sub(sessions, SeqCst);
        self.process.active.fetch_sub(sessions, SeqCst);
        if self.listener.waiting() + self.process.waiting() > 0 && !self.is_full() {
            self.wakers.iter().for_each(Waker::wake);
        }
    }

    /// Whether no further session should be accepted.
    pub fn is_full(&self) -> bool {
        self.process.is_full() || self.listener.is_full()
    }

    /// Whether so little room is left that all who may wait would not find a place.
    pub fn is_tight(&self, now: Time) -> bool {
        let tokens = self.rate.as_ref().map_or(usize::MAX, |rate| rate.room(now));
        self.process.room().min(self.listener.room()).min(tokens) < self.crowd.load(Relaxed)
    }

    /// Where the rate is reached: until when, and the bucket.
    pub fn rests_until(&self, now: Time) -> Option<(Time, &Bucket)> {
        let rate = self.rate.as_deref()?;
        Some((rate.opens_at(now)?, rate))
    }

    /// Which limit is full, for people; with its number.
    pub fn full_limit(&self) -> Option<(&'static str, usize)> {
        if self.listener.is_full() {
            Some(("the listener's max_connections", self.listener.max()))
        } else if self.process.is_full() {
            Some(("the process's max_connections", self.process.max()))
        } else {
            None
        }
    }

    /// Announces that an acceptor waits for room. Check [`is_full`](Admission::is_full) again afterwards.
    pub fn wait(&self) {
        self.waits.set(true);
        self.process.waiting.fetch_add(1, SeqCst);
        self.listener.waiting.fetch_add(1, SeqCst);
    }

    /// Takes the announcement back.
    pub fn wait_over(&self) {
        self.waits.set(false);
        self.process.waiting.fetch_sub(1, SeqCst);
        self.listener.waiting.fetch_sub(1, SeqCst);
    }
}

impl Drop for Admission {
    /// A worker that has failed has counted nobody out.
    fn drop(&mut self) {
        if self.waits.get() {
            self.wait_over();
        }
        if self.held.get() > 0 {
            self.give_back(self.held.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_leaves_behind_is_given_back() {
        let (process, listener) = (Arc::new(Gate::new(3)), Arc::new(Gate::new(2)));
        let admission = || Admission::new(process.clone(), listener.clone(), Arc::default(), Arc::new(1.into()));
        let (failing, other) = (admission(), admission());
        for _ in 0..3 {
            failing.enter(Time::ZERO);
        }
        failing.leave();
        other.enter(Time::ZERO);
        failing.wait();
        other.wait();
        assert_eq!((process.active(), listener.active(), process.waiting()), (3, 3, 2));
        drop(failing);
        assert_eq!((process.active(), listener.active()), (1, 1));
        assert_eq!((process.waiting(), listener.waiting()), (1, 1));
    }
}
