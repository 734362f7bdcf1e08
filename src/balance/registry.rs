//! The control thread's book of a pool: which name has which slot, and what is still in use.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use super::backend::{Backend, Record};
use super::cells::{CHUNK, Chunk, Slot};
use super::health::Health;
use super::passive::Afresh;
use super::pool::{Changes, Pool};
use super::queue::Queue;
use super::set::BackendSet;
use super::settings::{BackendSettings, PoolSettings, State};
use super::tried::BackendId;
use super::turn;
use crate::time::Time;

/// Everything about a pool that only its control thread needs.
pub(super) struct Registry {
    pool: Weak<Pool>,
    queue: Arc<Queue>,
    /// Every name that has a slot: those of the current set, and those removed that are still in use.
    entries: HashMap<String, Entry>,
    chunks: Vec<Arc<Chunk>>,
    free: Vec<Slot>,
    ids: u32,
    retired: Vec<Arc<BackendSet>>,
}

struct Entry {
    /// As it is in the current set, or was in the last one that it was in.
    backend: Arc<Backend>,
    /// In the current set. Otherwise it only waits for its last session and the last snapshot that knows it.
    present: bool,
    health: Health,
}

/// A snapshot that is ready to be published.
pub(super) struct Built {
    pub(super) set: Arc<BackendSet>,
    pub(super) notes: Notes,
}

/// What a snapshot changes.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) changes: Changes,
    pub(super) afresh: Afresh,
    newcomers: Vec<Arc<Backend>>,
}

impl Registry {
    pub(super) fn new(pool: Weak<Pool>, queue: Arc<Queue>) -> Registry {
        let (entries, chunks, free, retired) = (HashMap::new(), Vec::new(), Vec::new(), Vec::new());
        Registry { pool, queue, entries, chunks, free, ids: 0, retired }
    }

    /// Builds the snapshot that follows `old`, and says what it changes.
    pub(super) fn build(
        &mut self,
        old: &BackendSet,
        settings: PoolSettings,
        wanted: Vec<BackendSettings>,
        now: Time,
    ) -> Built {
        let mut notes = Notes::default();
        let mut before: HashMap<&str, &Arc<Backend>> =
            old.backends().iter().map(|backend| (backend.name(), backend)).collect();
        let mut backends = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let was = before.remove(wanted.name.as_str());
            let backend = self.adopt(was, wanted, settings.health.is_some(), now);
            notes.note(was, &backend);
            backends.push(backend);
        }
        if old.backends().is_empty() {
            // Where all are new none is the favourite, and none needs to be spared.
            notes.afresh.ramping.clear();
        }
        let removed = old.backends().iter().filter(|backend| before.contains_key(backend.name()));
        notes.changes.removed = removed.map(|backend| backend.name().to_owned()).collect();
        for name in &notes.changes.removed {
            if let Some(entry) = self.entries.get_mut(name) {
                entry.present = false;
            }
        }
        Built { set: self.set(old, settings, backends), notes }
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
            entry.backend = flipped.clone();
        }
        let swap = |one: &Arc<Backend>| if one.id() == flipped.id() { flipped.clone() } else { one.clone() };
        let backends = old.backends().iter().map(swap).collect();
        let set = self.set(old, old.settings().clone(), backends);
        (flipped, set)
    }

    /// A backend of the current set and its health, for a check that began at `begun`.
    pub(super) fn health(&mut self, name: &str, begun: Time) -> Option<(Arc<Backend>, &mut Health)> {
        let entry = self.entries.get_mut(name)?;
        let counts = entry.present && begun >= entry.health.counts_from();
        counts.then(|| (entry.backend.clone(), &mut entry.health))
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
            if entry.present {
                return true;
            }
            // Succeeds only for the sole owner, and synchronises with the drops of all the others.
            let Some(record) = Arc::get_mut(&mut entry.backend).and_then(Backend::record_mut) else { return true };
            record.clear();
            free.push(record.slot);
            gone.push((name.clone(), record.id));
            false
        });
        gone.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        gone
    }

    /// See [`Pool::leaving`].
    pub(super) fn leaving(&self) -> Vec<Arc<Backend>> {
        let removed = self.entries.values().filter(|entry| !entry.present);
        let mut removed: Vec<Arc<Backend>> = removed.map(|entry| entry.backend.clone()).collect();
        removed.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        removed
    }

    fn set(&self, old: &BackendSet, settings: PoolSettings, backends: Vec<Arc<Backend>>) -> Arc<BackendSet> {
        let chunks = self.chunks.clone().into();
        Arc::new(BackendSet::new(settings, old.revision() + 1, backends, chunks, &old.tables))
    }

    /// Enters a backend of the new set, which `was` in the old one.
    fn adopt(&mut self, was: Option<&Arc<Backend>>, wanted: BackendSettings, checked: bool, now: Time) -> Arc<Backend> {
        let name = wanted.name.clone();
        let stays = was.is_some_and(|was| *was.address() == wanted.address);
        // The name may have been removed and still be in use.
        let known = self.entries.remove(&name);
        let health = match &known {
            Some(known) if stays && checked => known.health.clone(),
            // Without checks nobody would ever say that it is up again.
            _ => Health::new(now),
        };
        let record = known.map_or_else(|| self.record(), |known| known.backend.record().clone());
        let backend = match was {
            Some(was) if *was.settings() == wanted && was.is_up() == health.is_up() => was.clone(),
            _ => Arc::new(Backend::new(record, wanted, health.is_up())),
        };
        self.entries.insert(name, Entry { backend: backend.clone(), present: true, health });
        backend
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
        Arc::new(Record { id: BackendId(self.ids), slot, chunk, pool: self.pool.clone(), queue: self.queue.clone() })
    }
}

impl Built {
    /// Puts the newcomers in line for their turns.
    pub(super) fn enter(&self, floor: &AtomicU64) {
        for newcomer in &self.notes.newcomers {
            turn::enter(newcomer.cell(|chunk| &chunk.passes), floor, self.set.stride(newcomer.weight()));
        }
    }
}

impl Notes {
    fn note(&mut self, was: Option<&Arc<Backend>>, backend: &Arc<Backend>) {
        let name = backend.name().to_owned();
        let Some(was) = was else {
            self.changes.added.push(name);
            self.newcomers.push(backend.clone());
            self.afresh.cleared.push(backend.clone());
            self.afresh.ramping.push(backend.clone());
            return;
        };
        let list =
            if was.settings() == backend.settings() { &mut self.changes.kept } else { &mut self.changes.changed };
        list.push(name);
        let moved = was.address() != backend.address();
        if moved {
            self.afresh.cleared.push(backend.clone());
        }
        let back = was.settings().state == State::Maint && backend.settings().state == State::Ready;
        if moved || back {
            self.afresh.ramping.push(backend.clone());
        }
    }
}
