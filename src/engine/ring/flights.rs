//! What the kernel holds at the moment, by slot and role.

use std::os::fd::RawFd;

use crate::engine::{OpKind, Owner};
use crate::limits::ROLES_MAX;

/// What is in flight on one socket.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Flight {
    /// Bytes given to the send that is in flight; 0 where it is a wait for room.
    pub(super) asked: u32,
    /// One bit for each [`OpKind`].
    kinds: u8,
    /// The descriptor of the receive that is in flight, open for as long.
    pub(super) fd: RawFd,
    /// That receive takes a large buffer.
    pub(super) large: bool,
    /// It only waits for bytes.
    pub(super) waits: bool,
}

/// The table of all flights. It grows with the highest slot and is small: 12 bytes a socket.
#[derive(Debug, Default)]
pub(super) struct Flights {
    rows: Vec<[Flight; ROLES_MAX]>,
    count: usize,
}

impl Flights {
    /// Operations in flight.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Notes that an operation takes off.
    #[inline]
    pub(super) fn begin(&mut self, owner: Owner, kind: OpKind) -> &mut Flight {
        let index = owner.key.index() as usize;
        if index >= self.rows.len() {
            self.grow(index);
        }
        self.count += 1;
        let flight = &mut self.rows[index][usize::from(owner.role.0)];
        debug_assert!(flight.kinds & bit(kind) == 0, "{owner:?} has a {kind:?} in flight already");
        flight.kinds |= bit(kind);
        flight
    }

    /// Notes that it has landed, and gives what was known of it.
    #[inline]
    pub(super) fn end(&mut self, owner: Owner, kind: OpKind) -> Flight {
        let flight = &mut self.rows[owner.key.index() as usize][usize::from(owner.role.0)];
        debug_assert!(flight.kinds & bit(kind) != 0, "{owner:?} has no {kind:?} in flight");
        flight.kinds &= !bit(kind);
        self.count -= 1;
        *flight
    }

    /// Whether such an operation is in flight.
    #[inline]
    pub(super) fn has(&self, owner: Owner, kind: OpKind) -> bool {
        let row = self.rows.get(owner.key.index() as usize);
        row.is_some_and(|row| row[usize::from(owner.role.0)].kinds & bit(kind) != 0)
    }

    #[cold]
    fn grow(&mut self, index: usize) {
        let rows = (index + 1).next_power_of_two().max(64);
        self.rows.resize(rows, [Flight::default(); ROLES_MAX]);
    }
}

const fn bit(kind: OpKind) -> u8 {
    1 << kind as u8
}
