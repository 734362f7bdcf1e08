//! The one word that decides: gate and active connections of a backend, changed together by compare-exchange.
//!
//! The logic is generic over [`AtomicWord`], so that the tests run the very same code under loom's model checker.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the word logic needs of an atomic 64-bit integer.
pub trait AtomicWord {
    /// As [`AtomicU64::load`].
    fn load(&self, order: Ordering) -> u64;
    /// As [`AtomicU64::store`].
    fn store(&self, value: u64, order: Ordering);
    /// As [`AtomicU64::compare_exchange`].
    ///
    /// # Errors
    /// The value found, where it was not `current`.
    fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64>;
    /// As [`AtomicU64::fetch_sub`].
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64;
    /// As [`fence`](std::sync::atomic::fence), sequentially consistent.
    fn fence();
}

impl AtomicWord for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }

    #[inline]
    fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        AtomicU64::compare_exchange(self, current, new, success, failure)
    }

    #[inline]
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        AtomicU64::fetch_sub(self, value, order)
    }

    #[inline]
    fn fence() {
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// Whether a backend is ejected, and how often that has changed: the epoch tells a verdict of today from one
/// about a connect that began before the last change.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate(u32);

const EJECTED: u32 = 1 << 31;

impl Gate {
    /// The gate of a new backend.
    pub const FIRST: Gate = Gate(0);

    /// Whether the backend is not ejected.
    pub const fn is_open(self) -> bool {
        self.0 & EJECTED == 0
    }

    /// The open gate of the next epoch.
    #[must_use]
    pub const fn opened(self) -> Gate {
        Gate(self.0.wrapping_add(1) & !EJECTED)
    }

    /// The ejected gate of the next epoch.
    #[must_use]
    pub const fn ejected(self) -> Gate {
        Gate(self.0.wrapping_add(1) & !EJECTED | EJECTED)
    }
}

/// A value of the word: the gate above, the number of connections (those being opened included) below.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Word(u64);

impl Word {
    /// The word of a gate and a number of connections.
    pub const fn new(gate: Gate, active: u32) -> Word {
        Word((gate.0 as u64) << 32 | active as u64)
    }

    /// The gate.
    pub const fn gate(self) -> Gate {
        Gate((self.0 >> 32) as u32)
    }

    /// Connections that hold a place, those being opened included.
    pub const fn active(self) -> u32 {
        self.0 as u32
    }
}

/// Reads the word. Relaxed: whoever acts on what it read does so by an exchange that acquires.
pub fn read<W: AtomicWord>(cell: &W) -> Word {
    Word(cell.load(Ordering::Relaxed))
}

/// Reads the word, and with it what was stored before its gate was changed.
pub fn read_acquire<W: AtomicWord>(cell: &W) -> Word {
    Word(cell.load(Ordering::Acquire))
}

/// Changes the word if it still is what was `seen`.
pub fn exchange<W: AtomicWord>(cell: &W, seen: Word, new: Word) -> bool {
    cell.compare_exchange(seen.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Takes a place if the word still is what was `seen`; `seen` must be below the limit that binds the backend.
pub fn claim<W: AtomicWord>(cell: &W, seen: Word) -> bool {
    exchange(cell, seen, Word::new(seen.gate(), seen.active() + 1))
}

/// Takes a place whatever the number of connections, as long as the gate is `gate` and the number below `limit`.
pub fn claim_behind<W: AtomicWord>(cell: &W, gate: Gate, limit: u32) -> bool {
    loop {
        let seen = read(cell);
        if seen.gate() != gate || seen.active() >= limit {
            return false;
        }
        if claim(cell, seen) {
            return true;
        }
    }
}

/// Gives a place back. Only a holder calls it, so the number is at least 1 and nothing is borrowed from the gate. Sequentially
/// consistent with the look whether there is a queue that follows it: see [`super::queue`].
pub fn release<W: AtomicWord>(cell: &W) {
    let before = Word(cell.fetch_sub(1, Ordering::SeqCst));
    debug_assert!(before.active() > 0, "a place was given back that nobody held");
}
