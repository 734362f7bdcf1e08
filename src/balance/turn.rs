//! Whose turn it is: stride scheduling on numbers that all workers share.
//!
//! Every backend has a `pass`, which grows by its stride (the inverse of its weight) with each turn; the smallest
//! goes next. The pool has a `floor`, the pass of the turn taken last. A pass counts as at least the floor, so
//! that whoever comes late or sat out gets one turn and not all those it missed; and it is brought back to one stride
//! above the floor when it is further ahead, so that a turn taken under a small weight is not paid for under a
//! larger one.
//!
//! A newcomer starts half a stride above the floor. That makes the order the one of Webster's apportionment: after k
//! turns among n backends of total weight W, a backend of weight w has had k * w / W of them, give or take
//! 1/2 + (n - 2) * w / 2W.

use std::sync::atomic::{AtomicU64, Ordering};

/// The stride of the heaviest backend. A pass then takes 2^48 turns to overflow (89 years at 100,000 a second),
/// and the rounding of the other strides shifts a share by less than 2^-17 of itself.
pub(super) const UNIT: u64 = 1 << 16;

/// The stride of a backend of `weight` in a pool whose heaviest has `heaviest`.
pub(super) fn stride(weight: u32, heaviest: u32) -> u64 {
    debug_assert!(weight > 0 && weight <= heaviest);
    let weight = u64::from(weight.max(1));
    (UNIT * u64::from(heaviest) + weight / 2) / weight
}

/// A backend's place in line: its pass as it was read, and what it counts as.
#[derive(Copy, Clone, Debug)]
pub(super) struct Turn {
    pub(super) pass: u64,
    pub(super) at: u64,
}

/// Looks up a backend's place in line for comparison with others, where `floor` was read a moment ago. An old floor does
/// no harm but where a pass seems to be too far ahead, and then it is looked up anew.
#[inline]
pub(super) fn glance(pass: &AtomicU64, (before, floor): (u64, &AtomicU64), stride: u64) -> Turn {
    let seen = pass.load(Ordering::Acquire);
    if seen <= before + stride {
        return Turn { pass: seen, at: seen.max(before) };
    }
    read(pass, floor, stride)
}

/// Looks up a backend's place in line.
fn read(pass: &AtomicU64, floor: &AtomicU64, stride: u64) -> Turn {
    // The floor after the pass: whoever sees a turn taken sees the floor that it raised first. With an older floor the
    // pass would look too far ahead, and the turn would be given away twice.
    let seen = pass.load(Ordering::Acquire);
    let floor = floor.load(Ordering::Relaxed);
    let last = floor + stride;
    if seen <= last {
        return Turn { pass: seen, at: seen.max(floor) };
    }
    // Only after its stride has shrunk. Whoever else brings it back finds the same.
    match pass.compare_exchange(seen, last, Ordering::Release, Ordering::Acquire) {
        Ok(_) => Turn { pass: last, at: last },
        Err(other) => Turn { pass: other, at: other.max(floor) },
    }
}

/// Takes the turn if nobody else has taken it meanwhile.
pub(super) fn take(turn: Turn, pass: &AtomicU64, floor: &AtomicU64, stride: u64) -> bool {
    if floor.load(Ordering::Relaxed) < turn.at {
        floor.fetch_max(turn.at, Ordering::Relaxed);
    }
    pass.compare_exchange(turn.pass, turn.at + stride, Ordering::Release, Ordering::Relaxed).is_ok()
}

/// Takes a turn of the backend, for one that has been chosen already.
pub(super) fn advance(pass: &AtomicU64, floor: &AtomicU64, stride: u64) {
    while !take(read(pass, floor, stride), pass, floor, stride) {}
}

/// Puts a newcomer in line.
pub(super) fn enter(pass: &AtomicU64, floor: &AtomicU64, stride: u64) {
    pass.store(floor.load(Ordering::Relaxed) + stride / 2, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::WEIGHT_MAX;

    #[test]
    fn strides_are_inverse_to_weights() {
        assert_eq!(stride(7, 7), UNIT);
        assert_eq!(stride(1, 4), 4 * UNIT);
        assert_eq!(stride(1, WEIGHT_MAX), u64::from(WEIGHT_MAX) * UNIT);
        assert_eq!(stride(2, 3), UNIT + UNIT / 2);
    }

    #[test]
    fn a_long_absence_is_worth_one_turn() {
        let floor = AtomicU64::new(1_000 * UNIT);
        let absent = AtomicU64::new(0);
        advance(&absent, &floor, UNIT);
        assert_eq!(absent.into_inner(), 1_001 * UNIT);
        assert_eq!(floor.into_inner(), 1_000 * UNIT);
    }

    #[test]
    fn a_turn_taken_under_a_small_weight_is_not_paid_for_under_a_larger_one() {
        let (pass, floor) = (AtomicU64::new(70_000 * UNIT), AtomicU64::new(10 * UNIT));
        assert_eq!(read(&pass, &floor, UNIT).at, 11 * UNIT);
        floor.store(12 * UNIT, Ordering::Relaxed);
        assert_eq!(read(&pass, &floor, UNIT).at, 12 * UNIT, "it was brought back for good");
    }
}
