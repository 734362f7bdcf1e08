//! The gate and the lease under loom's model checker.

use std::time::Duration;

use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::balance::gate::{Cells, Lease};
use crate::balance::word::{self, Gate};
use crate::time::Time;

/// A backend's words, and the lock that stands for the pool's lock of failures.
struct Backend {
    word: AtomicU64,
    until: AtomicU64,
    lease: AtomicU64,
    lock: Mutex<()>,
    /// Who is probing at this moment.
    probing: AtomicUsize,
}

const UNTIL: Time = Time::from_millis(1_000);
const LEASE: Duration = Duration::from_millis(500);

impl Backend {
    fn open() -> Backend {
        Backend {
            word: AtomicU64::new(0),
            until: AtomicU64::new(0),
            lease: AtomicU64::new(0),
            lock: Mutex::new(()),
            probing: AtomicUsize::new(0),
        }
    }

    fn ejected() -> Backend {
        let backend = Backend::open();
        assert!(backend.cells().eject(Gate::FIRST, UNTIL));
        backend
    }

    fn cells(&self) -> Cells<'_, AtomicU64> {
        Cells { word: &self.word, until: &self.until, lease: &self.lease }
    }

    fn gate(&self) -> Gate {
        word::read(&self.word).gate()
    }

    /// Begins a probe as a choice does, behind the gate that it has seen.
    fn probe(&self, now: Time) -> Option<(Lease, Gate)> {
        let gate = self.gate();
        if gate.is_open() || !self.cells().is_due(now) {
            return None;
        }
        let lease = self.cells().lend((gate, u32::MAX), (now, now + LEASE), || false)?;
        assert_eq!(self.probing.fetch_add(1, Ordering::SeqCst), 0, "two probe at once");
        Some((lease, gate))
    }

    /// Ends a probe as a claim does.
    fn end(&self, (lease, gate): (Lease, Gate), verdict: Option<bool>) {
        self.probing.fetch_sub(1, Ordering::SeqCst);
        if let Some(passed) = verdict {
            let _guard = self.lock.lock().unwrap();
            let heard = match passed {
                true => self.cells().pass(lease, gate),
                false => self.cells().fail(lease, gate, UNTIL + UNTIL.since(Time::ZERO), || ()),
            };
            assert!(heard, "the lease is still the probe's");
        }
        word::release(&self.word);
        if verdict.is_none() {
            assert!(self.cells().give_back(lease, gate));
        }
    }

    /// How many probes this was.
    fn probe_and_end(&self, verdict: Option<bool>) -> usize {
        let Some(probe) = self.probe(UNTIL) else { return 0 };
        self.end(probe, verdict);
        1
    }
}

/// Two workers at the end of an ejection: with a verdict there is one probe, without one perhaps a second after it.
fn two_probers(verdict: Option<bool>) {
    loom::model(move || {
        let backend = Arc::new(Backend::ejected());
        let other = {
            let backend = backend.clone();
            thread::spawn(move || backend.probe_and_end(verdict))
        };
        let probes = backend.probe_and_end(verdict) + other.join().unwrap();
        assert!(probes >= 1, "nobody probed");
        assert!(verdict.is_none() || probes == 1, "probed again after a verdict");
        assert_eq!(backend.gate().is_open(), verdict == Some(true));
        assert_eq!(word::read(&backend.word).active(), 0);
        assert!(backend.cells().is_free(Time::ZERO), "the lease was not given back");
    });
}

#[test]
fn one_of_two_workers_probes_and_its_success_opens_the_gate() {
    two_probers(Some(true));
}

#[test]
fn one_of_two_workers_probes_and_its_failure_lengthens_the_ejection() {
    two_probers(Some(false));
}

#[test]
fn a_probe_without_a_verdict_gives_its_turn_to_the_next() {
    two_probers(None);
}

/// Connections come and go while the gate turns: no place is lost, and no change of the gate either.
#[test]
fn the_gate_turns_under_connections_that_come_and_go() {
    loom::model(|| {
        let backend = Arc::new(Backend::open());
        let connection = {
            let backend = backend.clone();
            thread::spawn(move || {
                thread::yield_now();
                let gate = backend.gate();
                if gate.is_open() && word::claim_behind(&backend.word, gate, 1) {
                    word::release(&backend.word);
                }
            })
        };
        {
            let _guard = backend.lock.lock().unwrap();
            assert!(backend.cells().eject(Gate::FIRST, UNTIL));
            assert!(!backend.cells().eject(Gate::FIRST, UNTIL), "one epoch is ejected once");
        }
        backend.cells().reopen();
        connection.join().unwrap();
        assert_eq!(backend.gate(), Gate::FIRST.ejected().opened());
        assert_eq!(word::read(&backend.word).active(), 0);
    });
}

/// A worker that has seen an old ejection does not probe the new one before its time.
#[test]
fn whoever_saw_an_old_ejection_respects_the_new_one() {
    loom::model(|| {
        let backend = Arc::new(Backend::ejected());
        let control = {
            let backend = backend.clone();
            thread::spawn(move || {
                let _guard = backend.lock.lock().unwrap();
                backend.cells().reopen();
                assert!(backend.cells().eject(backend.gate(), UNTIL + LEASE));
            })
        };
        let prober = {
            let backend = backend.clone();
            thread::spawn(move || {
                // Lets loom run the other one first: it does not do so before a thread's first load.
                thread::yield_now();
                let Some((lease, gate)) = backend.probe(UNTIL) else { return };
                let old = Gate::FIRST.ejected();
                assert_eq!(gate, old, "the new ejection is not over");
                backend.probing.fetch_sub(1, Ordering::SeqCst);
                {
                    let _guard = backend.lock.lock().unwrap();
                    let same = backend.gate() == old;
                    assert_eq!(backend.cells().pass(lease, gate), same, "a verdict about an ejection that is over");
                }
                word::release(&backend.word);
                backend.cells().give_back(lease, gate);
            })
        };
        control.join().unwrap();
        prober.join().unwrap();
        assert_eq!(word::read(&backend.word).active(), 0);
    });
}
