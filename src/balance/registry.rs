//! The control thread's book of a pool: which name has which slot, and what is still in use.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cells::{CHUNK, Chunk, Slot};
use super::pool::Changes;
use super::set::{Backend, BackendSet, Record};
use super::settings::{BackendSettings, PoolSettings};
use super::tried::BackendId;
use super::turn;

/// Everything about a pool that only its control thread needs.
#[derive(Default)]
pub(super) struct Registry {
    /// Every name that has a slot: those of the current set, and those removed that are still in use.
    entries: HashMap<String, Entry>,
    /// The current set in its order.
    backends: Vec<Arc<Backend>>,
    chunks: Vec<Arc<Chunk>>,
    free: Vec<Slot>,
    ids: u32,
    revision: u64,
    retired: Vec<Arc<BackendSet>>,
}

struct Entry {
    record: Arc<Record>,
    /// As it stands in the current set; `None` where it was removed and only waits for its last session and the last
    /// snapshot that knows it.
    backend: Option<Arc<Backend>>,
}

impl Registry {
    /// Builds the snapshot of a new set, and says what it changes.
    pub(super) fn build(
        &mut self,
        settings: PoolSettings,
        wanted: Vec<BackendSettings>,
        floor: &AtomicU64,
    ) -> (BackendSet, Changes) {
        let mut changes = Changes::default();
        let old = std::mem::take(&mut self.backends);
        for entry in self.entries.values_mut() {
            entry.backend = None;
        }
        let mut before: HashMap<&str, &Arc<Backend>> = old.iter().map(|backend| (backend.name(), backend)).collect();
        let mut newcomers = Vec::new();
        for wanted in wanted {
            let name = wanted.name.clone();
            let backend = match before.remove(name.as_str()) {
                Some(same) if *same.settings() == wanted => {
                    changes.kept.push(name.clone());
                    same.clone()
                }
                Some(other) => {
                    changes.changed.push(name.clone());
                    Arc::new(Backend::new(other.record.clone(), wanted))
                }
                None => {
                    changes.added.push(name.clone());
                    let newcomer = Arc::new(Backend::new(self.record(&name), wanted));
                    newcomers.push(newcomer.clone());
                    newcomer
                }
            };
            let entry = Entry { record: backend.record.clone(), backend: Some(backend.clone()) };
            self.entries.insert(name, entry);
            self.backends.push(backend);
        }
        let removed = old.iter().filter(|backend| before.contains_key(backend.name()));
        changes.removed = removed.map(|backend| backend.name().to_owned()).collect();
        self.revision += 1;
        let set = BackendSet::new(settings, self.revision, self.backends.clone(), self.chunks.clone().into());
        for newcomer in newcomers {
            let pass = newcomer.record.chunk.passes.at(newcomer.record.slot.cell());
            turn::enter(pass, floor, set.stride(newcomer.weight()));
        }
        (set, changes)
    }

    /// Keeps a snapshot that is no longer current until nobody else does.
    pub(super) fn retire(&mut self, set: Arc<BackendSet>) {
        self.retired.push(set);
    }

    /// See [`Pool::collect`](super::Pool::collect).
    pub(super) fn collect(&mut self) -> Vec<String> {
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
            gone.push(name.clone());
            false
        });
        gone.sort_unstable();
        gone
    }

    /// See [`Pool::names_in_use`](super::Pool::names_in_use).
    pub(super) fn names(&self) -> Vec<String> {
        let removed = self.entries.iter().filter(|(_, entry)| entry.backend.is_none());
        let mut removed: Vec<String> = removed.map(|(name, _)| name.clone()).collect();
        removed.sort_unstable();
        let present = self.backends.iter().map(|backend| backend.name().to_owned());
        present.chain(removed).collect()
    }

    /// The record of a name: the one that it had, where it was removed and is still in use, or a new one.
    fn record(&mut self, name: &str) -> Arc<Record> {
        if let Some(entry) = self.entries.get(name) {
            return entry.record.clone();
        }
        if self.free.is_empty() {
            let chunk = self.chunks.len();
            self.chunks.push(Arc::new(Chunk::new()));
            // Handed out from the back, so that neighbours in the set are neighbours in the chunk.
            self.free.extend((0..CHUNK).rev().map(|cell| Slot::new(chunk, cell)));
        }
        let slot = self.free.pop().expect("a chunk of free slots was just added");
        self.ids += 1;
        Arc::new(Record { id: BackendId(self.ids), slot, chunk: self.chunks[slot.chunk()].clone() })
    }
}

impl Record {
    /// Empties the cells for the next owner of the slot. Exclusive: nobody else holds the record, so no claim and no
    /// snapshot leads to the slot.
    fn clear(&mut self) {
        let cell = self.slot.cell();
        debug_assert_eq!(self.chunk.words.at(cell).load(Ordering::Relaxed) as u32, 0, "a place without a claim");
        self.chunk.clear(cell);
    }
}
