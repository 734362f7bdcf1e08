//! The blocks of numbers that one worker writes and everybody may read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::engine::ring::Statistics;
use crate::histogram::Histogram;
use crate::relay::CloseReason;

use super::labels::{ConnectFailure, Pause, Refusal};

/// A number that one thread writes. With two, additions would be lost.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Zero.
    pub const fn new() -> Cell {
        Cell(AtomicU64::new(0))
    }

    /// Adds, for the writer.
    #[inline]
    pub fn add(&self, number: u64) {
        self.set(self.get().wrapping_add(number));
    }

    /// Writes, for the writer.
    #[inline]
    pub fn set(&self, number: u64) {
        self.0.store(number, Relaxed);
    }

    /// Reads, for anybody.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one worker counts of one listening socket.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ListenerCells {
    /// Clients that the kernel has handed over.
    pub accepted: Cell,
    /// Clients turned away because there was no slot; the others have had a session, which was closed.
    pub no_slot: Cell,
    closed: Reasons,
    paused: Cell,
    pauses: [Cell; Pause::ALL.len()],
    /// How long sessions lasted, from accept to end.
    pub session: Histogram,
}

#[derive(Debug)]
struct Reasons([Cell; CloseReason::LABELS.len()]);

impl Default for Reasons {
    fn default() -> Reasons {
        Reasons([const { Cell::new() }; CloseReason::LABELS.len()])
    }
}

impl ListenerCells {
    /// A session has ended after so long.
    pub fn close(&self, reason: CloseReason, lasted: Duration) {
        self.closed.0[reason.number()].add(1);
        self.session.record(lasted);
    }

    /// Accepting pauses for this reason, or goes on.
    pub fn pause(&self, pause: Option<Pause>) {
        let now = pause.map_or(0, |pause| pause as u64 + 1);
        if self.paused.get() != now {
            self.paused.set(now);
            if let Some(pause) = pause {
                self.pauses[pause as usize].add(1);
            }
        }
    }

    /// Whether accepting pauses.
    pub fn is_paused(&self) -> bool {
        self.paused.get() != 0
    }

    /// Clients turned away for this reason.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        match refusal {
            Refusal::NoSlot => self.no_slot.get(),
            Refusal::Denied => self.closed(CloseReason::Denied.number()),
            Refusal::ClientLimit => self.closed(CloseReason::ClientLimit.number()),
        }
    }

    /// Sessions that have ended for the reason of this number.
    pub fn closed(&self, reason: usize) -> u64 {
        self.closed.0[reason].get()
    }

    /// Pauses that have begun for this reason.
    pub fn pauses(&self, pause: Pause) -> u64 {
        self.pauses[pause as usize].get()
    }
}

/// What one worker counts of one backend.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct BackendCells {
    /// Connects begun, or meant to be.
    pub attempts: Cell,
    /// Connects that succeeded.
    pub connected: Cell,
    failures: [Cell; ConnectFailure::ALL.len()],
    /// Bytes that were sent to it.
    pub sent: Cell,
    /// Bytes that were received from it.
    pub received: Cell,
    /// How long connects took.
    pub connect: Histogram,
    /// From a connect's success to the first byte that came.
    pub first_byte: Histogram,
}

impl BackendCells {
    /// A connect has failed.
    pub fn fail(&self, failure: ConnectFailure) {
        self.failures[failure as usize].add(1);
    }

    /// Connects that have failed for this reason.
    pub fn failures(&self, failure: ConnectFailure) -> u64 {
        self.failures[failure as usize].get()
    }
}

/// The blocks' size, as the documentation states it.
const _: () = assert!(size_of::<BackendCells>() == 192);

/// What one worker's ring has done.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct RingCells {
    submissions: Cell,
    completions: Cell,
    turns: Cell,
    overflows: Cell,
    starvations: Cell,
}

impl RingCells {
    /// Copies what the ring itself counts; once a turn.
    #[inline]
    pub fn set(&self, statistics: &Statistics) {
        self.submissions.set(statistics.submissions);
        self.completions.set(statistics.completions);
        self.turns.set(statistics.turns);
        self.overflows.set(statistics.overflows);
        self.starvations.set(statistics.starvations);
    }

    /// What the ring had counted at the end of its worker's last turn.
    pub fn get(&self) -> Statistics {
        Statistics {
            submissions: self.submissions.get(),
            completions: self.completions.get(),
            turns: self.turns.get(),
            overflows: self.overflows.get(),
            starvations: self.starvations.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One writer and many readers: nobody sees a number go back, and nothing is lost.
    #[test]
    fn a_cell_only_grows_for_its_readers() {
        const STEPS: u64 = 50_000;
        let cell = Cell::new();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..STEPS).for_each(|_| cell.add(3)));
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut before = 0;
                    while before < 3 * STEPS {
                        let now = cell.get();
                        assert!(now >= before && now.is_multiple_of(3));
                        before = now;
                        std::thread::yield_now();
                    }
                });
            }
        });
    }

    #[test]
    fn a_pause_is_counted_once_however_often_it_is_told() {
        let listener = ListenerCells::default();
        for pause in [Some(Pause::Limit), Some(Pause::Limit), None, Some(Pause::Resources), Some(Pause::Limit)] {
            listener.pause(pause);
        }
        assert!(listener.is_paused());
        assert_eq!(Pause::ALL.map(|pause| listener.pauses(pause)), [2, 1, 0]);
    }

    #[test]
    fn an_end_is_counted_under_its_reason() {
        let listener = ListenerCells::default();
        listener.close(CloseReason::IdleTimeout, Duration::from_secs(1));
        let counted: Vec<_> =
            CloseReason::LABELS.iter().enumerate().filter(|(number, _)| listener.closed(*number) > 0).collect();
        assert_eq!(counted.len(), 1);
        assert_eq!(*counted[0].1, "idle_timeout");
    }
}
