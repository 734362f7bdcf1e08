//! An ejected backend's way back: who may probe it, and what a probe's verdict does.
//!
//! Three words decide. `word` holds the gate; `until` says when the ejection is over; `lease` is 0, or the time up to
//! which somebody is probing. Only one client can change the lease from what it was, so only one probes. Whoever
//! changes the gate or `until` holds the pool's lock of failures; taking and giving back the lease needs no lock.
//!
//! Generic for the same reason as [`super::word`].

use std::sync::atomic::Ordering;

use super::word::{self, AtomicWord, Gate, Word};
use crate::time::Time;

/// Nobody is probing.
const FREE: u64 = 0;

/// A verdict is being carried out; later than any time at which a lease could be over.
const SETTLING: u64 = u64::MAX;

/// The words of one backend.
#[derive(Debug)]
pub struct Cells<'a, W> {
    /// Gate and active connections.
    pub word: &'a W,
    /// When the ejection is over, in nanoseconds.
    pub until: &'a W,
    /// Up to when somebody is probing, in nanoseconds.
    pub lease: &'a W,
}

/// The right to probe, and for how long: no two of one ejection that are alive are equal.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Lease(u64);

impl Lease {
    /// Not a probe.
    pub const NONE: Lease = Lease(FREE);

    /// Whether this is a probe's.
    pub fn is_probe(self) -> bool {
        self != Lease::NONE
    }
}

impl<W: AtomicWord> Cells<'_, W> {
    /// Whether the ejection is over and nobody is probing: a glance, which [`lend`](Cells::lend) repeats in earnest.
    pub fn is_due(&self, now: Time) -> bool {
        self.is_free(now) && self.until.load(Ordering::Relaxed) <= now.nanos()
    }

    /// Whether nobody is probing.
    pub fn is_free(&self, now: Time) -> bool {
        self.lease.load(Ordering::Relaxed) <= now.nanos()
    }

    /// Takes the lease up to `end` and a place behind the ejected `gate`. `early` tells whether the backend may be
    /// probed although its ejection is not over; it is asked with the lease in hand.
    pub fn lend(&self, seen: (Gate, u32), (now, end): (Time, Time), early: impl Fn() -> bool) -> Option<Lease> {
        let (gate, limit) = seen;
        // Acquires `until`, which was stored before the gate was changed to this value.
        if word::read_acquire(self.word).gate() != gate {
            return None;
        }
        let held = self.lease.load(Ordering::Relaxed);
        let lease = Lease(end.nanos().clamp(FREE + 1, SETTLING - 1));
        if held > now.nanos() || !self.exchange_lease(held, lease.0) {
            return None;
        }
        // Somebody may have probed and failed since we looked. Having taken the lease we see what they stored.
        let over = self.until.load(Ordering::Relaxed) <= now.nanos();
        if (over || early()) && word::claim_behind(self.word, gate, limit) {
            return Some(lease);
        }
        // It is ours of this moment, whatever the gate is by now.
        self.exchange_lease(lease.0, FREE);
        None
    }

    /// Ends a probe of the ejected `gate` without a verdict. Says whether the lease was still the caller's.
    ///
    /// Behind another gate it is not: that ejection is over. A lease of a later one may end at the very same time, where
    /// clocks are coarse, and would look like the caller's.
    pub fn give_back(&self, lease: Lease, gate: Gate) -> bool {
        word::read(self.word).gate() == gate && self.exchange_lease(lease.0, FREE)
    }

    /// Ejects until `until`, if the gate still is the open one that was `seen`.
    pub fn eject(&self, seen: Gate, until: Time) -> bool {
        debug_assert!(seen.is_open());
        if word::read(self.word).gate() != seen {
            return false;
        }
        self.until.store(until.nanos(), Ordering::Relaxed);
        self.lease.store(FREE, Ordering::Relaxed);
        self.turn(seen, seen.ejected())
    }

    /// A probe has succeeded: opens the gate, if the lease is still the probe's and the ejection the one it probed.
    pub fn pass(&self, lease: Lease, gate: Gate) -> bool {
        self.settle(lease, gate, || {
            self.turn(gate, gate.opened());
        })
    }

    /// A probe has failed: the ejection lasts until `until`, and `noted` is done before anybody may probe again. Says
    /// whether the verdict was heard, as for `pass`.
    pub fn fail(&self, lease: Lease, gate: Gate, until: Time, noted: impl FnOnce()) -> bool {
        self.settle(lease, gate, || {
            self.until.store(until.nanos(), Ordering::Relaxed);
            noted();
        })
    }

    /// Opens the gate and begins a new epoch, whatever was before: no verdict of earlier connects will be heard.
    pub fn reopen(&self) {
        let mut gate = word::read(self.word).gate();
        while !self.turn(gate, gate.opened()) {
            gate = word::read(self.word).gate();
        }
    }

    /// The gate cannot change meanwhile: the caller holds the lock under which it does.
    fn settle(&self, lease: Lease, gate: Gate, act: impl FnOnce()) -> bool {
        if word::read(self.word).gate() != gate || !self.exchange_lease(lease.0, SETTLING) {
            return false;
        }
        act();
        // Publishes what was stored to whoever takes the lease next.
        self.lease.store(FREE, Ordering::Release);
        true
    }

    fn exchange_lease(&self, from: u64, to: u64) -> bool {
        self.lease.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Changes the gate under the connections that come and go.
    fn turn(&self, from: Gate, to: Gate) -> bool {
        loop {
            let seen = word::read(self.word);
            if seen.gate() != from {
                return false;
            }
            if word::exchange(self.word, seen, Word::new(to, seen.active())) {
                return true;
            }
        }
    }
}
