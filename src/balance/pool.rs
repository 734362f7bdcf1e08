//! A pool: its name, its current snapshot, and the numbers that survive every snapshot.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::registry::Registry;
use super::set::BackendSet;
use super::settings::{BackendSettings, PoolSettings};
use crate::limits::BACKENDS_MAX;
use crate::time::Time;

/// A pool of backends, shared by all workers and the control thread.
///
/// Workers choose through a [`Chooser`](super::Chooser), which takes no lock. The control thread replaces the set
/// and collects what is no longer used.
pub struct Pool {
    name: String,
    current: Arc<ArcSwap<BackendSet>>,
    floor: Floor,
    registry: Mutex<Registry>,
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

impl Pool {
    /// A pool named as in `settings`.
    ///
    /// # Errors
    /// [`SetError`] where the set is not a possible one.
    pub fn new(settings: PoolSettings, backends: Vec<BackendSettings>, now: Time) -> Result<Arc<Pool>, SetError> {
        let pool = Pool {
            name: settings.name.clone(),
            current: Arc::new(ArcSwap::from_pointee(BackendSet::empty(settings.clone()))),
            floor: Floor::default(),
            registry: Mutex::default(),
        };
        pool.replace(settings, backends, now)?;
        Ok(Arc::new(pool))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The current snapshot, for whoever reports about it. Workers use a [`Chooser`](super::Chooser).
    pub fn snapshot(&self) -> Arc<BackendSet> {
        self.current.load_full()
    }

    /// Makes `backends` the set, all at once. Backends whose name stays keep their counters and sessions. The pool
    /// keeps its own name, whatever `settings` says.
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
        let mut registry = self.registry();
        registry.collect();
        let (set, changes) = registry.build(settings, backends, self.floor());
        let Time { .. } = now;
        registry.retire(self.current.swap(Arc::new(set)));
        Ok(changes)
    }

    /// Drops the retired snapshots that no worker uses any more, and forgets the removed backends that nobody
    /// holds a connection of. Gives the names of those: with them their metrics end.
    ///
    /// For the control thread: it may free the memory of a large set.
    pub fn collect(&self) -> Vec<String> {
        self.registry().collect()
    }

    /// The names that have counters: those of the current set in its order, then those that were removed and are still in
    /// use, by name.
    pub fn names_in_use(&self) -> Vec<String> {
        self.registry().names()
    }

    pub(super) fn current(&self) -> Arc<ArcSwap<BackendSet>> {
        self.current.clone()
    }

    pub(super) fn floor(&self) -> &AtomicU64 {
        &self.floor.0
    }

    /// What is behind the lock is changed in steps that cannot panic half-way, so a poisoned lock is as good as new.
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, backends: &[BackendSettings]) -> Result<(), SetError> {
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
