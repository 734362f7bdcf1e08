//! Passive ejection: what failed connects do to their backends.
//!
//! All of it happens under one lock a pool, which only failures, probes and the control thread take: it guards the
//! windows and every change of a gate, so that the share of ejected backends and the recovery of the pool are never
//! counted from two half-done changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::backend::Backend;
use super::gate::Lease;
use super::pool::Pool;
use super::set::BackendSet;
use super::tried::BackendId;
use super::window::{Sample, Threshold, Window};
use super::word::{self, Gate};
use crate::time::Time;

/// What the lock of failures guards.
#[derive(Debug, Default)]
pub(super) struct Passive {
    /// Of the backends that have failed lately.
    windows: HashMap<BackendId, Window>,
    /// When each ejected backend was ejected, by its last failed probe too.
    ejected_at: HashMap<BackendId, Time>,
    /// How many recoveries of the pool have begun.
    recoveries: u64,
}

/// What a new snapshot means for some of its backends.
#[derive(Default)]
pub(super) struct Afresh {
    /// Their failures, ejection and epoch begin afresh: they are new, or have moved.
    pub(super) cleared: Vec<Arc<Backend>>,
    /// Their slow start begins.
    pub(super) ramping: Vec<Arc<Backend>>,
}

impl Pool {
    /// Notes how many connects the backend has finished, before one more is counted. Only called when a sample is due,
    /// and never where no `fail_share` is set.
    pub(super) fn sample(&self, backend: &Backend, now: Time) {
        let mut passive = self.passive();
        let set = self.current().load();
        let threshold = threshold(backend, &set);
        passive.windows.entry(backend.id()).or_default().sample(finished(backend, now), &threshold);
        backend.cell(|chunk| &chunk.sampled).store((now + threshold.part()).nanos(), Ordering::Relaxed);
    }

    /// A connect that began behind the open `gate` has failed by the backend's fault, and is counted already. Says whether
    /// that ejects it.
    pub(super) fn failed(&self, backend: &Backend, gate: Gate, now: Time) -> bool {
        let settings = backend.settings();
        if settings.max_fails == 0 {
            return false;
        }
        let mut passive = self.passive();
        if word::read(backend.cell(|chunk| &chunk.words)).gate() != gate {
            return false;
        }
        let set = self.current().load();
        let window = passive.windows.entry(backend.id()).or_default();
        let (threshold, finished) = (threshold(backend, &set), finished(backend, now));
        if threshold.fail_share.as_f64() > 0.0 {
            window.sample(Sample { failed: finished.failed - 1, ..finished }, &threshold);
        }
        window.fail(now, settings.max_fails);
        if !window.is_over(&threshold, finished) || !may_eject(&set, backend) {
            return false;
        }
        let ejected = backend.gate().eject(gate, now + settings.fail_timeout);
        if ejected {
            passive.note_ejection(backend, now);
            self.reassess(&mut passive, &set);
        }
        ejected
    }

    /// A probe has succeeded. Says whether that returned the backend.
    pub(super) fn probe_passed(&self, backend: &Backend, (lease, gate): (Lease, Gate), now: Time) -> bool {
        let mut passive = self.passive();
        if !backend.gate().pass(lease, gate) {
            return false;
        }
        self.returned(&mut passive, backend, now);
        drop(passive);
        self.offer(now);
        true
    }

    /// A probe has failed. Says whether that ejected the backend again.
    pub(super) fn probe_failed(&self, backend: &Backend, (lease, gate): (Lease, Gate), now: Time) -> bool {
        let mut passive = self.passive();
        let (until, recovery) = (now + backend.settings().fail_timeout, passive.recoveries);
        let noted = || backend.cell(|chunk| &chunk.probed).store(recovery, Ordering::Relaxed);
        let heard = backend.gate().fail(lease, gate, until, noted);
        if heard {
            passive.note_ejection(backend, now);
        }
        heard
    }

    /// When the backend was ejected; `None` where it is not.
    pub(super) fn ejected_at(&self, backend: &Backend) -> Option<Time> {
        self.passive().ejected_at.get(&backend.id()).copied()
    }

    /// Ends the ejection that began at `at`, because checks have passed since. Says whether there was one.
    pub(super) fn end_ejection(&self, backend: &Backend, at: Time, now: Time) -> bool {
        let mut passive = self.passive();
        if passive.ejected_at.get(&backend.id()) != Some(&at) {
            return false;
        }
        backend.gate().reopen();
        self.returned(&mut passive, backend, now);
        true
    }

    /// Makes `set` the current one, and gives the one before.
    pub(super) fn publish(&self, set: Arc<BackendSet>, afresh: &Afresh, now: Time) -> Arc<BackendSet> {
        for backend in &afresh.ramping {
            begin_ramp(backend, now);
        }
        for backend in set.backends() {
            let sampled = backend.cell(|chunk| &chunk.sampled);
            if set.settings().fail_share.as_f64() == 0.0 {
                sampled.store(u64::MAX, Ordering::Relaxed);
            } else if sampled.load(Ordering::Relaxed) == u64::MAX {
                sampled.store(0, Ordering::Relaxed);
            }
        }
        let mut passive = self.passive();
        let before = self.current().swap(set.clone());
        // After the swap: what is still chosen from the set before has the old epoch, and is not blamed on a backend
        // that has moved meanwhile.
        for backend in &afresh.cleared {
            passive.forget(backend.id());
            backend.gate().reopen();
        }
        let mut wanted = set.wanted();
        if let (Some(single), None) = (wanted.next(), wanted.next())
            && single.is_ejected()
        {
            single.gate().reopen();
            passive.forget(single.id());
            begin_ramp(single, now);
        }
        self.reassess(&mut passive, &set);
        before
    }

    /// Forgets what is known of backends that are gone.
    pub(super) fn forget(&self, gone: &[BackendId]) {
        let mut passive = self.passive();
        for &id in gone {
            passive.forget(id);
        }
    }

    fn returned(&self, passive: &mut Passive, backend: &Backend, now: Time) {
        passive.forget(backend.id());
        begin_ramp(backend, now);
        self.reassess(passive, &self.current().load());
    }

    /// Finds out whether the pool is in recovery. Called after every change of a gate or of the set.
    fn reassess(&self, passive: &mut Passive, set: &BackendSet) {
        let was = self.recovery().load(Ordering::Relaxed) != 0;
        let is = set.all_ejected();
        if is && !was {
            passive.recoveries += 1;
            self.recovery().store(passive.recoveries, Ordering::Release);
        } else if !is && was {
            self.recovery().store(0, Ordering::Release);
        }
    }
}

impl Passive {
    fn note_ejection(&mut self, backend: &Backend, now: Time) {
        self.ejected_at.insert(backend.id(), now);
        backend.cell(|chunk| &chunk.ejections).fetch_add(1, Ordering::Relaxed);
    }

    fn forget(&mut self, id: BackendId) {
        self.windows.remove(&id);
        self.ejected_at.remove(&id);
    }
}

fn threshold(backend: &Backend, set: &BackendSet) -> Threshold {
    let settings = backend.settings();
    Threshold {
        max_fails: settings.max_fails,
        fail_timeout: settings.fail_timeout,
        fail_share: set.settings().fail_share,
    }
}

fn finished(backend: &Backend, at: Time) -> Sample {
    Sample { at, connected: backend.connected_total(), failed: backend.failed_total() }
}

/// Whether one more may be ejected, and this one: not the only one, and not one that moved or left meanwhile.
fn may_eject(set: &BackendSet, backend: &Backend) -> bool {
    let (mut count, mut ejected, mut listed) = (0, 0, false);
    for one in set.wanted() {
        count += 1;
        ejected += usize::from(one.is_ejected());
        listed |= one.id() == backend.id() && one.address() == backend.address();
    }
    let allowed = (count * usize::from(set.settings().max_ejected_percent.as_u8()) / 100).max(1);
    listed && count > 1 && ejected < allowed
}

fn begin_ramp(backend: &Backend, now: Time) {
    backend.cell(|chunk| &chunk.since).store(now.nanos().max(1), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::balance::failure::Failure;
    use crate::balance::settings::{BackendSettings, PoolSettings};
    use crate::balance::{Chooser, Request, Tried};

    #[test]
    fn nothing_is_remembered_of_a_backend_that_is_gone() {
        let set = |names: [&str; 2]| {
            let address = SocketAddr::from(([127, 0, 0, 1], 1));
            names.map(|name| BackendSettings::new(name, address.into())).to_vec()
        };
        let pool = Pool::new(PoolSettings::default(), set(["a", "b"]), Time::ZERO).expect("a possible set");
        let mut chooser = Chooser::new(pool.clone(), 1);
        for _ in 0..4 {
            let claim = chooser.choose(&Request { client: None, tried: &Tried::new() }, Time::ZERO);
            claim.expect("both may serve").connect_failed(Failure::TimedOut, Time::ZERO);
        }
        assert_eq!(pool.passive().windows.len(), 2);
        pool.replace(PoolSettings::default(), set(["a", "c"]), Time::ZERO).expect("a possible set");
        chooser.set();
        assert_eq!(pool.collect(), ["b"]);
        assert_eq!(pool.passive().windows.len(), 1);
    }
}
