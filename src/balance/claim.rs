//! A place with a backend, held as long as its connection.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::failure::{Blame, Failure, judge};
use super::set::Backend;
use super::word::{self, Gate};
use crate::time::Time;

/// A place with a backend. Dropping it gives the place back; hold it until the backend's socket is finished.
#[must_use = "dropping a claim gives its place back at once"]
pub struct Claim {
    backend: Arc<Backend>,
    /// The gate when the place was taken: a verdict about a connect that began before the last change of the gate
    /// is not heard.
    gate: Gate,
}

/// A worker's session holds one for as long as it lives, and there are many.
const _: () = assert!(size_of::<Claim>() <= 24);

/// What follows from a failed connect, for the client it was made for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// Whether to go on to another backend, within the client's attempts and budget.
    pub go_on: bool,
    /// Whether this connect was one of the client's attempts.
    pub counts: bool,
}

impl Claim {
    pub(super) fn new(backend: Arc<Backend>, gate: Gate) -> Claim {
        Claim { backend, gate }
    }

    /// The backend, as it was when it was chosen.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The connect has succeeded. The claim keeps its place.
    pub fn connected(&mut self, now: Time) {
        let Time { .. } = now;
        self.count(|chunk| &chunk.connected);
    }

    /// The connect has failed; the place is given back.
    pub fn connect_failed(self, failure: Failure, now: Time) -> Next {
        let Time { .. } = now;
        let judgement = judge(failure, self.backend.address().is_unix());
        if judgement.blame == Blame::Backend {
            self.count(|chunk| &chunk.failed);
        }
        Next { go_on: judgement.go_on, counts: true }
    }

    fn count(&self, row: impl Fn(&super::cells::Chunk) -> &super::cells::Row) {
        let record = &self.backend.record;
        row(&record.chunk).at(record.slot.cell()).fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Before the backend is let go: whoever finds that nobody holds the record finds the count complete.
        let record = &self.backend.record;
        word::release(record.chunk.words.at(record.slot.cell()));
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("backend", &self.backend.name()).field("gate", &self.gate).finish()
    }
}
