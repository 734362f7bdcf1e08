//! The control thread's book of a pool: which name has which slot, and what is still in use.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use super::backend::{Backend, Record};
use super::cells::{CHUNK, Chunk, Slot};
use super::health::Health;
use super::passive::Afresh;
use super::pool::{Changes, Pool};
use super::set::BackendSet;
use super::settings::{BackendSettings, PoolSettings, State};
use super::tried::BackendId;
use super::turn;
use crate::time::Time;

/// Everything about a pool that only its control thread needs.
pub(super) struct Registry {
    pool: Weak<Pool>,
    /// Every name that has a slot: those of the current set, and those removed that are still in use.
    entries: HashMap<String, Entry>,
    chunks: Vec<Arc<Chunk>>,
    free: Vec<Slot>,
    ids: u32,
    retired: Vec<Arc<BackendSet>>,
}

struct Entry {
    record: Arc<Record>,
    /// In the current set. Otherwise it only waits for its last session and the last snapshot that knows it.
    backend: Option<Arc<Backend>>,
    health: Health,
}

/// A snapshot that is ready to be published.
pub(super) struct Built {
    pub(super) set: Arc<BackendSet>,
    pub(super) changes: Changes,
    pub(super) afresh: Afresh,
    newcomers: Vec<Arc<Backend>>,
}

impl Registry {
    pub(super) fn new(pool: Weak<Pool>) -> Registry {
        Registry { pool, entries: HashMap::new(), chunks: Vec::new(), free: Vec::new(), ids: 0, retired: Vec::new() }
    }

    /// Builds the snapshot that follows `old`, and says what it changes.
    pub(super) fn build(
        &mut self,
        old: &BackendSet,
        settings: PoolSettings,
        wanted: Vec<BackendSettings>,
        now: Time,
    ) -> Built {
        let (mut changes, mut afresh, mut newcomers) = (Changes::default(), Afresh::default(), Vec::new());
        let mut before: HashMap<&str, &Arc<Backend>> =
            old.backends().iter().map(|backend| (backend.name(), backend)).collect();
        let mut backends = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let name = wanted.name.clone();
            let was = before.remove(name.as_str());
            let moved = was.is_none_or(|was| *was.address() != wanted.address);
            let ramps = moved
                || was.is_some_and(|was| was.settings().state == State::Maint && was.settings().state != wanted.state);
            let entry = self.entry(&name, now);
            // Without checks nobody would ever say that it is up again.
            if moved || settings.health.is_none() {
                entry.health = Health::new(now);
            }
            let up = entry.health.is_up();
            let backend = match was {
                Some(was) if *was.settings() == wanted && was.is_up() == up => was.clone(),
                _ => Arc::new(Backend::new(entry.record.clone(), wanted, up)),
            };
            entry.backend = Some(backend.clone());
            match was {
                None => &mut changes.added,
                Some(was) if was.settings() == backend.settings() => &mut changes.kept,
                Some(_) => &mut changes.changed,
            }
            .push(name);
            if moved {
                afresh.cleared.push(backend.clone());
            }
            if was.is_none() {
                newcomers.push(backend.clone());
            }
            // Where all are new none is the favourite, and none needs to be spared.
            if ramps && !old.backends().is_empty() {
                afresh.ramping.push(backend.clone());
            }
            backends.push(backend);
        }
        let removed = old.backends().iter().filter(|backend| before.contains_key(backend.name()));
        changes.removed = removed.map(|backend| backend.name().to_owned()).collect();
        for name in &changes.removed {
            if let Some(entry) = self.entries.get_mut(name) {
                entry.backend = None;
            }
        }
        Built { set: self.set(old, settings, backends), changes, afresh, newcomers }
    }

    /// The snapshot that follows `old` where only this backend comes up or goes down, and the backend as it is in it.
    pub(super) fn flip(
        &mut self,
        old: &BackendSet,
        backend: &Arc<Backend>,
        up: bool,
    ) -> (Arc<Backend>, Arc<BackendSet>) {
        let flipped = Arc::new(Backend::new(backend.record().clone(), backend.settings().clone(), up));
        if let Some(entry) = self.entries.get_mut(backend.name()) {
            entry.backend = Some(flipped.clone());
        }
        let swap = |one: &Arc<Backend>| if one.id() == flipped.id() { flipped.clone() } else { one.clone() };
        let backends = old.backends().iter().map(swap).collect();
        let set = self.set(old, old.settings().clone(), backends);
        (flipped, set)
    }

    /// A backend of the current set and its health, for a check that began at `begun`.
    pub(super) fn health(&mut self, name: &str, begun: Time) -> Option<(Arc<Backend>, &mut Health)> {
        let entry = self.entries.get_mut(name)?;
        let backend = entry.backend.clone()?;
        (begun >= entry.health.counts_from()).then_some((backend, &mut entry.health))
    }

    /// Keeps a snapshot that is no longer current until nobody else does.
    pub(super) fn retire(&mut self, set: Arc<BackendSet>) {
        self.retired.push(set);
    }

    /// See [`Pool::collect`].
    pub(super) fn collect(&mut self) -> Vec<(String, BackendId)> {
        // Once it is ours alone nobody can get at it any more: it is not current, and no worker's cache has it.
        self.retired.retain(|set| Arc::strong_count(set) > 1);
        let free = &mut self.free;
        let mut gone = Vec::new();
        self.entries.retain(|name, entry| {
            if entry.backend.is_some() {
                return true;
            }
            // Succeeds only for the sole owner, and synchronises with the drops of all the others.
            let Some(record) = Arc::get_mut(&mut entry.record) else { return true };
            record.clear();
            free.push(record.slot);
            gone.push((name.clone(), record.id));
            false
        });
        gone.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        gone
    }

    /// See [`Pool::names_in_use`].
    pub(super) fn names(&self, set: &BackendSet) -> Vec<String> {
        let removed = self.entries.iter().filter(|(_, entry)| entry.backend.is_none());
        let mut removed: Vec<String> = removed.map(|(name, _)| name.clone()).collect();
        removed.sort_unstable();
        let present = set.backends().iter().map(|backend| backend.name().to_owned());
        present.chain(removed).collect()
    }

    fn set(&self, old: &BackendSet, settings: PoolSettings, backends: Vec<Arc<Backend>>) -> Arc<BackendSet> {
        let chunks = self.chunks.clone().into();
        Arc::new(BackendSet::new(settings, old.revision() + 1, backends, chunks, &old.tables))
    }

    /// The entry of a name: the one that it had, where it was removed and is still in use, or a new one.
    fn entry(&mut self, name: &str, now: Time) -> &mut Entry {
        if !self.entries.contains_key(name) {
            let entry = Entry { record: self.record(), backend: None, health: Health::new(now) };
            self.entries.insert(name.to_owned(), entry);
        }
        self.entries.get_mut(name).expect("it was there or has just been inserted")
    }

    fn record(&mut self) -> Arc<Record> {
        if self.free.is_empty() {
            let chunk = self.chunks.len();
            self.chunks.push(Arc::new(Chunk::new()));
            // Handed out from the back, so that neighbours in the set are neighbours in the chunk.
            self.free.extend((0..CHUNK).rev().map(|cell| Slot::new(chunk, cell)));
        }
        let slot = self.free.pop().expect("a chunk of free slots was just added");
        self.ids += 1;
        let chunk = self.chunks[slot.chunk()].clone();
        Arc::new(Record { id: BackendId(self.ids), slot, chunk, pool: self.pool.clone() })
    }
}

impl Built {
    /// Puts the newcomers in line for their turns.
    pub(super) fn enter(&self, floor: &AtomicU64) {
        for newcomer in &self.newcomers {
            turn::enter(newcomer.cell(|chunk| &chunk.passes), floor, self.set.stride(newcomer.weight()));
        }
    }
}
