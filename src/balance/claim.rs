//! A place with a backend, held as long as its connection.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::backend::Backend;
use super::failure::{Blame, Failure, judge};
use super::gate::Lease;
use super::word::{self, Gate};
use crate::time::Time;

/// A place with a backend. Dropping it gives the place back; hold it until the backend's socket is finished.
///
/// Tell it how the connect ended by [`connected`](Claim::connected) or [`connect_failed`](Claim::connect_failed).
/// Where the connect ended in neither (the client left first), drop it.
#[must_use = "dropping a claim gives its place back at once"]
pub struct Claim {
    backend: Arc<Backend>,
    /// The turn to probe an ejected backend; none once the verdict is known.
    lease: Lease,
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
    /// Whether this connect was one of the client's attempts. A probe of an ejected backend is not.
    pub counts: bool,
    /// Whether this failure ejected the backend, or ejected it again.
    pub ejected: bool,
}

impl Claim {
    pub(super) fn new(backend: Arc<Backend>, gate: Gate, lease: Lease) -> Claim {
        Claim { backend, lease, gate }
    }

    /// The backend, as it was when it was chosen.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The same, to keep beyond the claim.
    pub fn backend_shared(&self) -> Arc<Backend> {
        Arc::clone(&self.backend)
    }

    /// Whether this connection probes an ejected backend.
    pub fn is_probe(&self) -> bool {
        self.lease.is_probe()
    }

    /// The connect has succeeded. The claim keeps its place. Says whether this returned an ejected backend.
    pub fn connected(&mut self, now: Time) -> bool {
        self.sample(now);
        self.backend.cell(|chunk| &chunk.connected).fetch_add(1, Ordering::Relaxed);
        if !self.is_probe() {
            return false;
        }
        let verdict = (self.lease, self.gate);
        let pool = self.backend.record().pool.upgrade();
        let returned = pool.is_some_and(|pool| pool.probe_passed(&self.backend, verdict, now));
        if returned {
            self.lease = Lease::NONE;
        }
        returned
    }

    /// The connect has failed; the place is given back.
    pub fn connect_failed(mut self, failure: Failure, now: Time) -> Next {
        let judgement = judge(failure, self.backend.address().is_unix());
        let counts = !self.is_probe();
        let ejected = judgement.blame == Blame::Backend && self.blame(now);
        Next { go_on: judgement.go_on, counts, ejected }
    }

    /// The failure is the backend's. Says whether that ejects it.
    fn blame(&mut self, now: Time) -> bool {
        self.backend.cell(|chunk| &chunk.failed).fetch_add(1, Ordering::Relaxed);
        let Some(pool) = self.backend.record().pool.upgrade() else { return false };
        if !self.is_probe() {
            return pool.failed(&self.backend, self.gate, now);
        }
        let heard = pool.probe_failed(&self.backend, (self.lease, self.gate), now);
        if heard {
            self.lease = Lease::NONE;
        }
        heard
    }

    /// Notes now and then how many connects the backend has finished; never, where nobody wants to know.
    fn sample(&self, now: Time) {
        let due = self.backend.cell(|chunk| &chunk.sampled).load(Ordering::Relaxed) <= now.nanos();
        if due && let Some(pool) = self.backend.record().pool.upgrade() {
            pool.sample(&self.backend, now);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The place before the lease, so that a backend limited to one connection has room for its next probe. Both
        // before the backend is let go: whoever finds that nobody holds the record finds the count complete.
        word::release(self.backend.cell(|chunk| &chunk.words));
        if self.is_probe() {
            // Where the lease ran out it may be another's by now, who keeps it.
            self.backend.gate().give_back(self.lease);
        }
        let record = self.backend.record();
        if record.queue.is_awaited()
            && let Some(pool) = record.pool.upgrade()
        {
            pool.offer_released();
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Claim");
        debug.field("backend", &self.backend.name()).field("gate", &self.gate).field("lease", &self.lease).finish()
    }
}
