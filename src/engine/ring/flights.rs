//! What the kernel holds at the moment, by slot and role.

use std::os::fd::RawFd;

use crate::engine::{OpKind, Owner};
use crate::limits::{FLIGHTS_BYTES, ROLES_MAX};
use crate::slots::Rows;

/// What is in flight on one socket.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Flight {
    /// Bytes given to the send that is in flight; 0 where it is a wait for room.
    pub(super) asked: u32,
    /// The descriptor of the receive that is in flight, open for as long.
    pub(super) fd: RawFd,
    /// One bit for each [`OpKind`].
    kinds: u8,
    /// That receive takes a large buffer.
    pub(super) large: bool,
    /// It only waits for bytes.
    pub(super) waits: bool,
}

/// Roles of one row: those of a session, which are many, are apart from the others.
const ROLES: usize = 2;

const _: () = assert!(size_of::<[Flight; ROLES]>() == FLIGHTS_BYTES && ROLES_MAX.is_multiple_of(ROLES));

/// The table of all flights.
#[derive(Debug, Default)]
pub(super) struct Flights {
    tables: [Rows<[Flight; ROLES]>; ROLES_MAX / ROLES],
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
        self.count += 1;
        let flight = self.flight(owner);
        debug_assert!(flight.kinds & bit(kind) == 0, "{owner:?} has a {kind:?} in flight already");
        flight.kinds |= bit(kind);
        flight
    }

    /// Notes that it has landed, and gives what was known of it.
    #[inline]
    pub(super) fn end(&mut self, owner: Owner, kind: OpKind) -> Flight {
        self.count -= 1;
        let flight = self.flight(owner);
        debug_assert!(flight.kinds & bit(kind) != 0, "{owner:?} has no {kind:?} in flight");
        flight.kinds &= !bit(kind);
        *flight
    }

    /// Whether such an operation is in flight.
    #[inline]
    pub(super) fn has(&self, owner: Owner, kind: OpKind) -> bool {
        let (table, role) = place(owner);
        self.tables[table].get(owner.key.index()).is_some_and(|row| row[role].kinds & bit(kind) != 0)
    }

    /// Lets go of the parts of the table where nothing is in flight.
    pub(super) fn shrink(&mut self) {
        for table in &mut self.tables {
            table.shrink(|row| row.iter().all(|flight| flight.kinds == 0));
        }
    }

    #[inline]
    fn flight(&mut self, owner: Owner) -> &mut Flight {
        let (table, role) = place(owner);
        &mut self.tables[table].row(owner.key.index())[role]
    }
}

/// Which table, and where in its row.
const fn place(owner: Owner) -> (usize, usize) {
    let role = owner.role.0 as usize;
    (role / ROLES, role % ROLES)
}

const fn bit(kind: OpKind) -> u8 {
    1 << kind as u8
}
