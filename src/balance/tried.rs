//! The backends that one client has already tried.

use super::backend::Backend;
use crate::limits::CONNECT_ATTEMPTS_MAX;

/// Names a backend within its pool. Never reused, unlike the slot of its counters.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BackendId(pub(super) u32);

/// A small set without an allocation. A client that has filled it is offered no further backend.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    ids: [BackendId; CONNECT_ATTEMPTS_MAX],
    len: u8,
}

const _: () = assert!(CONNECT_ATTEMPTS_MAX <= u8::MAX as usize);

impl Tried {
    /// Nothing tried yet.
    pub fn new() -> Tried {
        Tried::default()
    }

    /// Adds a backend. Does nothing when it is in already, or when the set is full.
    pub fn insert(&mut self, backend: &Backend) {
        if !self.is_full() && !self.contains(backend.id()) {
            self.ids[usize::from(self.len)] = backend.id();
            self.len += 1;
        }
    }

    /// Whether the backend was tried.
    pub fn contains(&self, id: BackendId) -> bool {
        self.ids[..usize::from(self.len)].contains(&id)
    }

    /// How many were tried.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether none was tried.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no room for another.
    pub fn is_full(&self) -> bool {
        self.len() == CONNECT_ATTEMPTS_MAX
    }
}
