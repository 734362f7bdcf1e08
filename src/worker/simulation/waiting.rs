//! Those who wait for a place: what they are handed, and whether the order is kept and nobody is forgotten.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::random::Random;
use crate::balance::settings::{BackendSettings, State};
use crate::balance::{BackendSet, Claim, Standing, Taker};
use crate::slots::Key;

/// Limits of a run's backends, by their index, and of its queue. They stay when the set changes.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) queue_max: u32,
    backends: [u32; 8],
    backups: [bool; 8],
}

impl Limits {
    pub(super) fn draw(random: &mut Random) -> Limits {
        let queue_max = random.pick(&[0, 0, 2, 50]);
        let most = random.pick(&[1, 3, 16]);
        let limit = |random: &mut Random| match random.below(8) {
            0 => 0,
            _ if queue_max == 0 => 0,
            _ => random.between(1, most) as u32,
        };
        let backends = std::array::from_fn(|_| limit(random));
        let backups = std::array::from_fn(|_| random.below(6) == 0);
        Limits { queue_max, backends, backups }
    }

    /// The backend of that index as it is told to be.
    pub(super) fn tell(&self, index: u16, settings: BackendSettings) -> BackendSettings {
        let index = usize::from(index) % self.backends.len();
        BackendSettings { max_connections: self.backends[index], backup: self.backups[index], ..settings }
    }
}

/// The worker's mailbox: places on their way.
#[derive(Default)]
pub(super) struct Places(Mutex<VecDeque<(Key, Claim)>>);

impl Taker for Places {
    fn take(&self, key: Key, claim: Claim) {
        self.0.lock().expect("one thread").push_back((key, claim));
    }
}

impl Places {
    pub(super) fn next(&self) -> Option<(Key, Claim)> {
        self.0.lock().expect("one thread").pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().expect("one thread").is_empty()
    }

    /// Claims on the backend of that name.
    pub(super) fn of(&self, name: &str) -> u32 {
        let places = self.0.lock().expect("one thread");
        places.iter().filter(|(_, claim)| claim.backend().name() == name).count() as u32
    }

    fn has(&self, key: Key) -> bool {
        self.0.lock().expect("one thread").iter().any(|(handed, _)| *handed == key)
    }
}

/// The queue as it can be seen from outside, oldest first.
#[derive(Default)]
pub(super) struct Line {
    places: Arc<Places>,
    waiting: Vec<Waiting>,
    /// Sessions that have waited.
    pub(super) waited: u64,
}

/// A session that waits, and whether it has tried a backend.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) key: Key,
    pub(super) choosy: bool,
}

impl Line {
    pub(super) fn places(&self) -> Arc<Places> {
        Arc::clone(&self.places)
    }

    /// Looks at those who wait now, after at most one of them has come.
    pub(super) fn observe(&mut self, now: &[Waiting]) {
        // Who has its place on its way does not wait any more.
        let left = |old: &Waiting| now.contains(old) && !self.places.has(old.key);
        let last_served = self.waiting.iter().rposition(|old| now.contains(old) && self.places.has(old.key));
        if let Some(last) = last_served {
            let passed = self.waiting[..last].iter().find(|old| left(old) && !old.choosy);
            assert_eq!(passed, None, "{:?} has overtaken it in the queue", self.waiting[last]);
        }
        let stays: Vec<Waiting> = self.waiting.iter().copied().filter(|old| left(old)).collect();
        let came = now.iter().filter(|new| !self.waiting.contains(new) && !self.places.has(new.key));
        let came: Vec<Waiting> = came.copied().collect();
        assert!(came.len() <= 1, "two have come at once");
        self.waited += came.len() as u64;
        self.waiting = [stays, came].concat();
    }

    /// What must hold of a pool between two turns.
    pub(super) fn check(&self, set: &BackendSet, waiting: usize) {
        assert_eq!(waiting, self.waiting.len(), "the pool counts others than wait");
        let patient = self.waiting.iter().find(|waiting| !waiting.choosy);
        for backend in set.backends() {
            let (limit, active) = (backend.settings().max_connections, backend.active());
            assert!(limit == 0 || active <= limit, "{active} of {limit} with backend {}", backend.name());
            let serves = backend.standing() == Standing::Ready && backend.settings().state == State::Ready;
            if serves && !backend.settings().backup && (limit == 0 || active < limit) {
                assert_eq!(patient, None, "backend {} has room for it, and it is forgotten", backend.name());
            }
        }
    }
}
