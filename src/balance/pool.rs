//! A pool: its name, its current snapshot, and the numbers that survive every snapshot.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::backend::Backend;
use super::passive::{Afresh, Passive};
use super::queue::Queue;
use super::registry::Registry;
use super::set::BackendSet;
use super::settings::{BackendSettings, PoolSettings};
use crate::limits::BACKENDS_MAX;
use crate::time::Time;

/// A pool of backends, shared by all workers and the control thread.
///
/// Workers choose through a [`Chooser`](super::Chooser), which takes no lock. The control thread replaces the set,
/// reports checks, and collects what is no longer used.
pub struct Pool {
    name: String,
    current: Arc<ArcSwap<BackendSet>>,
    floor: Floor,
    /// The number of the recovery that the pool is in, or 0: see [`super::passive`].
    recovery: AtomicU64,
    queue: Arc<Queue>,
    /// Taken before `passive` where both are.
    registry: Mutex<Registry>,
    passive: Mutex<Passive>,
}

/// The turn taken last (see [`super::turn`]), on cache lines of its own: every choice writes it.
#[derive(Default)]
#[repr(align(128))]
struct Floor(AtomicU64);

/// What a new set changed, by backends' names, each list in the order of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Not in the pool before.
    pub added: Vec<String>,
    /// No longer in the pool. Their sessions live on.
    pub removed: Vec<String>,
    /// As before.
    pub kept: Vec<String>,
    /// In the pool as before, but told to be something else.
    pub changed: Vec<String>,
}

/// Why a set cannot be a pool's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// Two backends of one name.
    #[error(
        "pool `{pool}` has two backends named `{backend}`: counters belong to the name; give one of them another `name`"
    )]
    DuplicateName {
        /// The pool.
        pool: String,
        /// The backends' name.
        backend: String,
    },
    /// More than [`BACKENDS_MAX`].
    #[error(
        "pool `{pool}` has {count} backends, but at most {BACKENDS_MAX} are possible; spread them over several pools"
    )]
    TooMany {
        /// The pool.
        pool: String,
        /// How many.
        count: usize,
    },
}

/// What a check's result has changed.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckEffect {
    /// The backend came up, or went down.
    pub up: Option<bool>,
    /// Its ejection ended early.
    pub returned: bool,
}

impl Pool {
    /// A pool named as in `settings`.
    ///
    /// # Errors
    /// [`SetError`] where the set is not a possible one.
    pub fn new(settings: PoolSettings, backends: Vec<BackendSettings>, now: Time) -> Result<Arc<Pool>, SetError> {
        let pool = Pool::empty(settings.clone());
        pool.replace(settings, backends, now)?;
        Ok(pool)
    }

    /// A pool without a name and without backends.
    pub(super) fn of_nothing() -> Arc<Pool> {
        Pool::empty(PoolSettings::new(""))
    }

    fn empty(settings: PoolSettings) -> Arc<Pool> {
        let queue = Arc::<Queue>::default();
        Arc::new_cyclic(|pool| Pool {
            name: settings.name.clone(),
            current: Arc::new(ArcSwap::from_pointee(BackendSet::empty(settings))),
            floor: Floor::default(),
            recovery: AtomicU64::new(0),
            queue: queue.clone(),
            registry: Mutex::new(Registry::new(pool.clone(), queue)),
            passive: Mutex::default(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The current snapshot, for whoever reports about it. Workers use a [`Chooser`](super::Chooser).
    pub fn snapshot(&self) -> Arc<BackendSet> {
        self.current.load_full()
    }

    /// Makes `backends` the set, all at once. Backends whose name stays keep their counters and sessions; where the
    /// address changed, failures, ejection, checks and slow start begin afresh. The pool keeps its own name,
    /// whatever `settings` says.
    ///
    /// The old snapshot stays with the pool until [`collect`](Pool::collect) finds that no worker uses it, so that it
    /// is dropped by the thread that calls this and never by a worker.
    ///
    /// # Errors
    /// [`SetError`] where the set is not a possible one; then nothing has changed.
    pub fn replace(
        &self,
        settings: PoolSettings,
        backends: Vec<BackendSettings>,
        now: Time,
    ) -> Result<Changes, SetError> {
        self.check(&backends)?;
        let settings = PoolSettings { name: self.name.clone(), ..settings };
        if settings.queue_max > 0 {
            self.queue.open();
        }
        let mut registry = self.registry();
        let built = registry.build(&self.current.load(), settings, backends, now);
        built.enter(self.floor());
        registry.retire(self.publish(built.set, &built.notes.afresh, now));
        drop(registry);
        self.offer(now);
        Ok(built.notes.changes)
    }

    /// Reports the result of an active check that began at `begun`. Nothing changes where the pool has no
    /// [`HealthSettings`](super::settings::HealthSettings), or no backend of that name, or where the check began
    /// before the backend came to its address.
    pub fn report_check(&self, backend: &str, passed: bool, begun: Time, now: Time) -> CheckEffect {
        let mut registry = self.registry();
        let set = self.current.load();
        let Some((backend, health)) = registry.health(backend, begun) else { return CheckEffect::default() };
        let Some(rules) = set.settings().health else { return CheckEffect::default() };
        let up = health.count(passed, rules);
        let ejected_at = self.ejected_at(&backend);
        let over = health.count_since_ejection(passed, begun, ejected_at, rules);
        let returned = over && ejected_at.is_some_and(|at| self.end_ejection(&backend, at, now));
        if let Some(up) = up {
            let mut afresh = Afresh::default();
            let (flipped, set) = registry.flip(&set, &backend, up);
            if up {
                afresh.ramping.push(flipped);
            }
            registry.retire(self.publish(set, &afresh, now));
        }
        drop(registry);
        if returned || up.is_some() {
            self.offer(now);
        }
        CheckEffect { up, returned }
    }

    /// Drops the retired snapshots that no worker uses any more, and forgets the removed backends that nobody
    /// holds a connection of. Gives the names of those: with them their metrics end.
    ///
    /// For the control thread, every now and then and after each change: it may free the memory of a large set.
    pub fn collect(&self) -> Vec<String> {
        let (names, ids) = self.registry().collect().into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        self.forget(&ids);
        names
    }

    /// The removed backends that still have sessions, or are known to a worker's snapshot, by name. Whoever keeps one of
    /// these keeps [`collect`](Pool::collect) from forgetting it.
    pub fn leaving(&self) -> Vec<Arc<Backend>> {
        self.registry().leaving()
    }

    /// Whether every backend that could serve is ejected.
    pub fn is_in_recovery(&self) -> bool {
        self.recovery.load(Ordering::Relaxed) != 0
    }

    pub(super) fn current(&self) -> &Arc<ArcSwap<BackendSet>> {
        &self.current
    }

    pub(super) fn floor(&self) -> &AtomicU64 {
        &self.floor.0
    }

    pub(super) fn recovery(&self) -> &AtomicU64 {
        &self.recovery
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn passive(&self) -> MutexGuard<'_, Passive> {
        self.passive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is behind the locks is changed in steps that cannot panic half-way, so a poisoned lock is as good as new.
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether these can be the pool's set.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, backends: &[BackendSettings]) -> Result<(), SetError> {
        if backends.len() > BACKENDS_MAX {
            return Err(SetError::TooMany { pool: self.name.clone(), count: backends.len() });
        }
        let mut names = HashSet::with_capacity(backends.len());
        match backends.iter().find(|backend| !names.insert(backend.name.as_str())) {
            Some(twice) => Err(SetError::DuplicateName { pool: self.name.clone(), backend: twice.name.clone() }),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).field("current", &self.snapshot()).finish()
    }
}
