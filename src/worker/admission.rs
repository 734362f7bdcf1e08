//! How many sessions there may be: one count for the process and one for each listener, over all workers.
//!
//! At a limit, accepting pauses and clients wait in the backlog. Near it they are accepted one by one, as one accept that goes
//! on would take the whole backlog before it can be stopped. So each worker accepts one too many at most, when several take
//! the last place; those clients are served, and the reserve of descriptors covers them. What a listener accepts in a second
//! is limited in the same way: see [`super::rate`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::engine::socket::Waker;
use crate::time::Time;
use crate::worker::rate::Bucket;

/// A limit on sessions, and those who wait for it to have room.
#[derive(Debug)]
pub struct Gate {
    active: AtomicUsize,
    /// Acceptors that have stopped because of this limit.
    waiting: AtomicUsize,
    max: usize,
}

impl Gate {
    /// A limit of `max` sessions.
    pub const fn new(max: usize) -> Gate {
        Gate { active: AtomicUsize::new(0), waiting: AtomicUsize::new(0), max }
    }

    /// How many sessions it counts.
    pub fn active(&self) -> usize {
        self.active.load(SeqCst)
    }

    /// The limit.
    pub const fn max(&self) -> usize {
        self.max
    }

    /// How many acceptors wait for room.
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    fn room(&self) -> usize {
        self.max.saturating_sub(self.active())
    }

    fn is_full(&self) -> bool {
        self.room() == 0
    }
}

/// The limits that one listener's sessions count against: the process's and its own.
#[derive(Clone, Debug)]
pub struct Admission {
    process: Arc<Gate>,
    listener: Arc<Gate>,
    rate: Option<Arc<Bucket>>,
    /// The workers, to be woken when there is room again.
    wakers: Arc<[Waker]>,
    /// Clients that may wait in all backlogs together.
    crowd: usize,
}

impl Admission {
    /// Counts against both gates; `wakers` are the workers that may wait for them, `crowd` is how many clients may wait to be
    /// accepted by all of them.
    pub const fn new(process: Arc<Gate>, listener: Arc<Gate>, wakers: Arc<[Waker]>, crowd: usize) -> Admission {
        Admission { process, listener, rate: None, wakers, crowd }
    }

    /// The same, with so many clients in a second at most.
    pub fn at_rate(self, rate: Option<Arc<Bucket>>) -> Admission {
        Admission { rate, ..self }
    }

    /// Counts a session in.
    pub fn enter(&self, now: Time) {
        if let Some(rate) = &self.rate {
            rate.take(now);
        }
        self.process.active.fetch_add(1, SeqCst);
        self.listener.active.fetch_add(1, SeqCst);
    }

    /// Counts a session out, and wakes those who wait for room.
    pub fn leave(&self) {
        // Sequentially consistent with `wait`: either we see its number, or it sees our room.
        self.listener.active.fetch_sub(1, SeqCst);
        self.process.active.fetch_sub(1, SeqCst);
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
        self.process.room().min(self.listener.room()).min(tokens) < self.crowd
    }

    /// Where the rate is reached: until when, and the bucket.
    pub fn rests_until(&self, now: Time) -> Option<(Time, &Bucket)> {
        let rate = self.rate.as_deref()?;
        Some((rate.opens_at(now)?, rate))
    }

    /// Which limit is full, for people; with its number.
    pub fn full_limit(&self) -> Option<(&'static str, usize)> {
        if self.listener.is_full() {
            Some(("the listener's max_connections", self.listener.max))
        } else if self.process.is_full() {
            Some(("the process's max_connections", self.process.max))
        } else {
            None
        }
    }

    /// Announces that an acceptor waits for room. Check [`is_full`](Admission::is_full) again afterwards.
    pub fn wait(&self) {
        self.process.waiting.fetch_add(1, SeqCst);
        self.listener.waiting.fetch_add(1, SeqCst);
    }

    /// Takes the announcement back.
    pub fn wait_over(&self) {
        self.process.waiting.fetch_sub(1, SeqCst);
        self.listener.waiting.fetch_sub(1, SeqCst);
    }
}
