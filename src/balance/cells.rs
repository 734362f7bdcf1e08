//! Where the shared numbers of backends live: dense rows under stable slots.
//!
//! A scan reads one row of words, eight backends a cache line. Backends that share a line pay for it when both are
//! claimed at once, and still the dense row won against padded cells at every size measured, under contention too.
//! What a scan does not read stands in rows of its own, so that writing it does not disturb the scan.

use std::sync::atomic::{AtomicU64, Ordering};

use super::gate;

/// Slots of one chunk.
pub(super) const CHUNK: usize = 64;

/// A backend's place among the cells of its pool. It belongs to the backend's name until the last claim is gone.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

impl Slot {
    pub(super) const fn new(chunk: usize, cell: usize) -> Slot {
        Slot((chunk * CHUNK + cell) as u32)
    }

    pub(super) const fn chunk(self) -> usize {
        self.0 as usize / CHUNK
    }

    pub(super) const fn cell(self) -> usize {
        self.0 as usize % CHUNK
    }
}

/// One number for each slot of a chunk. Two lines of alignment: processors fetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Row([AtomicU64; CHUNK]);

impl Row {
    fn new() -> Row {
        Row(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// The number of a cell.
    #[inline]
    pub(super) fn at(&self, cell: usize) -> &AtomicU64 {
        &self.0[cell % CHUNK]
    }
}

/// The cells of [`CHUNK`] backends. It never moves, so that claims may point into it.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Gate and active connections: see [`super::word`].
    pub(super) words: Row,
    /// Turns taken, in strides: see [`super::turn`].
    pub(super) passes: Row,
    /// When the ejection is over: see [`super::gate`].
    pub(super) until: Row,
    /// Who is probing: see [`super::gate`].
    pub(super) leases: Row,
    /// The pool's recovery in which the backend was probed last.
    pub(super) probed: Row,
    /// When its slow start began, in nanoseconds; 0: it is not in one.
    pub(super) since: Row,
    /// When the next sample of its connects is wanted, in nanoseconds: see [`super::window`].
    pub(super) sampled: Row,
    /// Connects that succeeded.
    pub(super) connected: Row,
    /// Connects that failed and were the backend's fault.
    pub(super) failed: Row,
    /// Ejections.
    pub(super) ejections: Row,
}

impl Chunk {
    pub(super) fn new() -> Chunk {
        Chunk {
            words: Row::new(),
            passes: Row::new(),
            until: Row::new(),
            leases: Row::new(),
            probed: Row::new(),
            since: Row::new(),
            sampled: Row::new(),
            connected: Row::new(),
            failed: Row::new(),
            ejections: Row::new(),
        }
    }

    /// The cells that decide about an ejected backend.
    pub(super) fn gate(&self, cell: usize) -> gate::Cells<'_, AtomicU64> {
        gate::Cells { word: self.words.at(cell), until: self.until.at(cell), lease: self.leases.at(cell) }
    }

    /// Sets every number of a cell that nobody uses to 0.
    pub(super) fn clear(&self, cell: usize) {
        let Chunk { words, passes, until, leases, probed, since, sampled, connected, failed, ejections } = self;
        for row in [words, passes, until, leases, probed, since, sampled, connected, failed, ejections] {
            row.at(cell).store(0, Ordering::Relaxed);
        }
    }
}
